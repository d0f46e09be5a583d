#!/usr/bin/env bash
# Installs what the build needs: Debian packages (deploy/packages.txt) and, into a cache folder, the
# headers and libraries of PyPI's torch wheel, the CUDA runtime libraries that it links, and google's
# common protos. Python serves here to find the package index that pip is set up for, nothing else.
#
#   deploy/deps.sh [--cuda] [--check]
#
#   --cuda   also the CUDA half of torch and the NVIDIA libraries a GPU machine needs (about 4 GB)
#   --check  print what is missing and leave
#
# Idempotent; a broken download goes on where it stopped. GRAFT_DEPS names another cache folder.
set -euo pipefail
cd "$(dirname "$0")/.."

deps="${GRAFT_DEPS:-${XDG_CACHE_HOME:-$HOME/.cache}/graft/deps}"
cuda=0 check=0
for arg in "$@"; do
  case "$arg" in
    --cuda) cuda=1 ;;
    --check) check=1 ;;
    -h|--help) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "deps.sh: unknown argument '$arg' (known: --cuda, --check)" >&2; exit 2 ;;
  esac
done
die() { printf 'deps.sh: %s\n' "$1" >&2; [ -z "${2:-}" ] || printf '  hint: %s\n' "$2" >&2; exit 1; }

# name version sha256 file-pattern
torch_wheel="torch 2.11.0 7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a"
cpu_wheels="
nvidia-cuda-runtime 13.0.96 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cupti 13.0.85 4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8"
protos_wheel="googleapis-common-protos 1.76.0 59e13344a9f3651aa201a03e2bee815a3bf43a4baf1f9ff8a9b62a840ce25fac"

# nvcc on the machine means that the CUDA plugin is built, which links the CUDA half of torch.
plugin=$cuda
if command -v nvcc >/dev/null 2>&1 || [ -x /usr/local/cuda/bin/nvcc ]; then plugin=1; fi
stamp="$deps/.stamp"
want="$(cksum < deploy/deps.sh) plugin=$plugin cuda=$cuda"

missing_packages() {
  local wanted; wanted=$(grep -vE '^(#|$)' deploy/packages.txt)
  # shellcheck disable=SC2086
  { dpkg-query -W -f='${db:Status-Status} ${Package}\n' $wanted 2>/dev/null || true; } \
    | awk '$1=="installed"{print $2}' | sort -u | comm -23 <(printf '%s\n' $wanted | sort -u) -
}

command -v dpkg-query >/dev/null || die "this system has no dpkg; Debian 12 (bookworm) is the supported one" \
  "on another system run it in a Debian 12 container"
. /etc/os-release
[ "${VERSION_CODENAME:-}" = bookworm ] || echo "deps.sh: ${PRETTY_NAME:-this system} is not Debian 12; going on, untested" >&2
[ "$(uname -m)" = x86_64 ] || die "the processor is $(uname -m); only x86_64 is supported"

packages=$(missing_packages)
if [ $check = 1 ]; then
  [ -z "$packages" ] || printf 'missing package: %s\n' $packages
  [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] || echo "missing: libraries in $deps"
  exit 0
fi
if [ -n "$packages" ]; then
  sudo=""
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null || die "packages are missing and this is neither root nor is there sudo: $(echo $packages)" \
      "as root: apt-get install $(echo $packages)"
    sudo="sudo"
  fi
  echo "deps.sh: installing $(echo "$packages" | wc -w) Debian packages"
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq || die "apt-get update failed: no network, or a broken sources.list"
  # shellcheck disable=SC2086
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null \
    || die "apt-get could not install: $(echo $packages)"
fi

[ "$(cat "$stamp" 2>/dev/null)" != "$want" ] || { echo "deps.sh: everything is there ($deps)"; exit 0; }

mkdir -p "$deps/download"
free_mb=$(df -Pm "$deps" | awk 'NR==2{print $4}')
need_mb=10240
[ "$free_mb" -ge $need_mb ] || die "$deps has $free_mb MB free, the build needs $need_mb MB" "set GRAFT_DEPS to a folder on a larger disk"

. deploy/fetch.sh

# shellcheck disable=SC2086
set -- $torch_wheel; wheel=$(fetch "$1" "$3")
echo "deps.sh: unpacking torch $2"
rm -rf "$deps/torch.new"; mkdir -p "$deps/torch.new"
libs="torch/lib/libtorch_cpu.so torch/lib/libc10.so torch/lib/libgomp.so.1 torch/lib/libshm.so torch/lib/libtorch.so"
[ $plugin = 0 ] || libs="$libs torch/lib/libtorch_cuda.so torch/lib/libc10_cuda.so torch/lib/libtorch_cuda_linalg.so torch/lib/libtorch_nvshmem.so torch/lib/libcaffe2_nvrtc.so"
# shellcheck disable=SC2086
unzip -q -o "$wheel" $libs 'torch/include/*' -d "$deps/torch.new"
rm -rf "$deps/torch"; mv "$deps/torch.new/torch" "$deps/torch"; rmdir "$deps/torch.new"

mkdir -p "$deps/cuda/lib" "$deps/cuda/include"
# unpack_nvidia NAME SHA: its libraries and headers, flat
unpack_nvidia() {
  local w; w=$(fetch "$1" "$2")
  unzip -q -o -j "$w" '*/lib/*.so*' -d "$deps/cuda/lib" 2>/dev/null || true
}
while read -r name _ sha; do [ -z "$name" ] || unpack_nvidia "$name" "$sha"; done <<< "$cpu_wheels"

if [ $cuda = 1 ]; then
  # What the wheel's own metadata asks for, at its pinned versions; pip checks their hashes.
  echo "deps.sh: fetching the NVIDIA libraries (about 3 GB)"
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 --platform manylinux_2_27_x86_64 \
    --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux_2_18_x86_64 -d "$deps/download/cuda" \
    nvidia-cublas==13.1.0.3 nvidia-cudnn-cu13==9.19.0.56 nvidia-nccl-cu13==2.28.9 nvidia-cusparselt-cu13==0.8.0 \
    nvidia-nvshmem-cu13==3.4.5 nvidia-cufft nvidia-curand nvidia-cusolver nvidia-cusparse nvidia-nvjitlink \
    nvidia-cuda-nvrtc==13.0.88 nvidia-nvtx nvidia-cufile || die "pip could not fetch the NVIDIA libraries"
  for w in "$deps"/download/cuda/*.whl; do
    unzip -q -o -j "$w" '*/lib/*.so*' -d "$deps/cuda/lib" 2>/dev/null || true
    unzip -q -o -j "$w" '*/include/nccl*.h' -d "$deps/cuda/include" 2>/dev/null || true
  done
fi

# shellcheck disable=SC2086
set -- $protos_wheel; wheel=$(fetch "$1" "$3")
rm -rf "$deps/googleapis"; mkdir -p "$deps/googleapis"
unzip -q -o "$wheel" 'google/*.proto' -d "$deps/googleapis"

printf '%s' "$want" > "$stamp"
rm -f "$deps"/download/*.part
echo "deps.sh: done ($(du -sh "$deps" | cut -f1) in $deps)"
