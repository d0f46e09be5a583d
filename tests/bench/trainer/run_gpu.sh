#!/bin/sh
# graft-trainer on a GPU beside transformers + peft. $1: the build folder; $2: where the table goes.
here=$(dirname "$0")
python=$("$here/../../parity/setup.sh") || exit 1
exec "$python" "$here/gpu.py" "$@"
