#!/usr/bin/env bash
# Client packages as their users take them: the installed C++ library, the Python wheel and the Go
# module, each with one small program that trains on real daemons with a simulated trainer. A language
# whose tools are not installed is skipped by name.
#
#   clients_test.sh BUILD_DIR SOURCE_DIR
build=$1
. "$(dirname "$0")/lib.sh" "$build/bin" "$2"
export GRAFT_FAKE_STEP_SECONDS=0.02

# trains LANGUAGE COMMAND...: the program must see its job complete
trains() {
  local language=$1; shift
  "$@" tiny tickets >"$work/$language.out" 2>&1 || { cat "$work/$language.out"; echo "FAILED: $language" >&2; exit 1; }
  grep -q "JOB_STATE_COMPLETED 5" "$work/$language.out" || { cat "$work/$language.out"; echo "FAILED: $language saw no end" >&2; exit 1; }
  echo "$language: $(wc -l <"$work/$language.out") changes seen, the last: $(tail -n 1 "$work/$language.out")"
}

"$source/deploy/package.sh" clients "$work/packages"
"$graft" up --fake-trainer >/dev/null
import_samples
eval "$("$graft" context env)"

cmake --install "$build" --prefix "$work/prefix" --component graft-dev >/dev/null
cmake -S "$source/tests/e2e/clients" -B "$work/cc" -DCMAKE_PREFIX_PATH="$work/prefix" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$work/cc" >"$work/cc.log" 2>&1 || { tail -n 30 "$work/cc.log"; exit 1; }
trains "C++ (find_package)" "$work/cc/create_and_watch"
g++ -std=c++20 "$source/tests/e2e/clients/create_and_watch.cc" -o "$work/pc" \
  $(PKG_CONFIG_PATH=$(dirname "$(find "$work/prefix" -name graft.pc)") pkg-config --cflags --libs graft)
trains "C++ (pkg-config)" "$work/pc"

python=""
for candidate in python3 /usr/bin/python3; do
  "$candidate" -c 'import grpc, google.protobuf' 2>/dev/null && { python=$candidate; break; }
done
if [ -n "$python" ]; then
  # What pip would bring as googleapis-common-protos is generated from the same files.
  googleapis=$(sed -n 's/^GRAFT_DEPS_DIR:PATH=//p' "$build/CMakeCache.txt")/googleapis
  mkdir "$work/python"
  unzip -q "$work"/packages/*.whl -d "$work/python"
  protoc -I "$googleapis" --python_out="$work/python" "$googleapis"/google/api/{field_behavior,resource}.proto
  PYTHONPATH="$work/python" trains Python "$python" "$source/tests/e2e/clients/create_and_watch.py"
else
  echo "Python: skipped, grpcio is missing (apt-get install python3-grpcio)"
fi

if command -v go >/dev/null && [ -d /usr/share/gocode/src/google.golang.org/grpc ]; then
  mkdir -p "$work/gopath/src"
  cp -r "$work/packages/go/graft.dev" "$work/gopath/src/"
  (cd "$source/tests/e2e/clients" && GO111MODULE=off GOCACHE="$work/gocache" GOPATH="$work/gopath:/usr/share/gocode" \
    go build -o "$work/go" create_and_watch.go)
  trains Go "$work/go"
else
  echo "Go: skipped, its compiler or gRPC is missing (apt-get install golang-go golang-google-grpc-dev" \
    "golang-google-genproto-dev golang-github-golang-protobuf-1-5-dev)"
fi
