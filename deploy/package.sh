#!/usr/bin/env bash
# Packages from a checkout.
#
#   deploy/package.sh clients [OUT]   a Python wheel, a Go module and the descriptor set of graft/v1
#   deploy/package.sh deb [OUT]       the Debian packages of what build/release holds
#
# OUT is build/packages unless given. Code generators come from Debian: protobuf-compiler-grpc for
# Python, protoc-gen-go and protoc-gen-go-grpc for Go; what is not installed is skipped by name.
set -euo pipefail
cd "$(dirname "$0")/.."
. deploy/fetch.sh

what=${1:-} out=${2:-build/packages}
version=$(sed -n 's/^project(graft VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
mkdir -p "$out"
out=$(cd "$out" && pwd)

# generate OUTPUT-FLAGS...: runs protoc over the public API.
generate() {
  (cd proto && protoc -I . -I "$deps/googleapis" "$@" graft/v1/*.proto)
}

python_wheel() {
  if ! command -v grpc_python_plugin >/dev/null; then
    echo "python: skipped, grpc_python_plugin is missing (apt-get install protobuf-compiler-grpc)"; return
  fi
  local stage; stage=$(mktemp -d)
  generate --python_out="$stage" --grpc_out="$stage" --plugin=protoc-gen-grpc="$(command -v grpc_python_plugin)"
  python3 deploy/clients/wheel.py "$stage" "$version" "$out"
  rm -rf "$stage"
}

go_module() {
  if ! command -v protoc-gen-go >/dev/null || ! command -v protoc-gen-go-grpc >/dev/null; then
    echo "go: skipped, protoc-gen-go or protoc-gen-go-grpc is missing (apt-get install them)"; return
  fi
  rm -rf "$out/go"
  mkdir -p "$out/go"
  generate --go_out="$out/go" --go-grpc_out="$out/go"
  cp deploy/clients/go.mod "$out/go/graft.dev/graft/go.mod"
  echo "$out/go/graft.dev/graft"
}

descriptor_set() {
  generate --include_imports --include_source_info --descriptor_set_out="$out/graft-v1-$version.desc"
  echo "$out/graft-v1-$version.desc"
}

case "$what" in
  clients)
    [ -d "$deps/googleapis" ] || die "google's common protos are missing" "deploy/deps.sh"
    python_wheel; go_module; descriptor_set ;;
  deb)
    [ -f build/release/CPackConfig.cmake ] || die "build/release is not built" "cmake --preset release && cmake --build build/release"
    cpack --config build/release/CPackConfig.cmake -G DEB -B "$out" >"$out/cpack.log" || { cat "$out/cpack.log"; exit 1; }
    ls "$out"/*.deb ;;
  *) sed -n '2,9s/^# \{0,1\}//p' "$0"; [ -z "$what" ] || [ "$what" = --help ] || [ "$what" = -h ] || exit 2 ;;
esac
