#!/usr/bin/env bash
# Compares Graft's chat templates with transformers live: tests/parity/template/run_live.sh DRIVER
# In the default tier nothing is done (77, skipped: the golden file is checked instead); in full every template
# that packages carry renders every conversation, and masks are compared byte by byte and token by token.
set -euo pipefail
[ "${GRAFT_TIER:-default}" != default ] || exit 77
driver=$(realpath "$1")
cd "$(dirname "$0")"
python=$(../setup.sh)
cache=$(../tokenizer/assets.sh "$python")
exec "$python" compare_live.py "$driver" "$cache/qwen2/tokenizer.json" "$cache/templates"
