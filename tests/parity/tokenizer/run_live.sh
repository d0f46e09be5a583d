#!/usr/bin/env bash
# Compares Graft's tokenizers with the references live: tests/parity/tokenizer/run_live.sh DRIVER
# In the default tier nothing is done (77, skipped: the golden files are checked instead); in full every
# real tokenizer that packages carry meets 100,000 generated texts.
set -euo pipefail
[ "${GRAFT_TIER:-default}" != default ] || exit 77
driver=$(realpath "$1")
cd "$(dirname "$0")"
python=$(../setup.sh)
cache=$(./assets.sh "$python")
export TOKENIZERS_PARALLELISM=false
"$python" make_golden.py live "$driver" 2000
"$python" vectors.py "$driver" "$cache"
"$python" compare.py "$driver" 100000 "$cache"/*/tokenizer.json
