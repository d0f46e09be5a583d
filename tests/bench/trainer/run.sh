#!/bin/sh
# graft-trainer beside transformers + peft + trl. $1: the build folder, `benches` built; then the parts, all by
# default (compare.py has their list).
here=$(dirname "$0")
python=$("$here/../../parity/setup.sh") || exit 1
exec "$python" "$here/compare.py" "$@"
