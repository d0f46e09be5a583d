#!/bin/sh
# Compares graft-trainer ($1) with transformers, peft and trl themselves. Skipped (77) but in the
# full tier; GRAFT_DEPS is where tests/parity/setup.sh keeps its packages.
[ "${GRAFT_TIER:-default}" = default ] && exit 77
here=$(dirname "$0")
python=$("$here/../setup.sh") || exit 1
"$python" "$here/compare_live.py" "$1" || exit 1
model="${XDG_CACHE_HOME:-$HOME/.cache}/graft/bench/smollm2-135m-fp32"
[ -f "$model/config.json" ] || "$python" "$here/../../bench/trainer/peer.py" prepare "$model" || exit 1
exec "$python" "$here/compare_trl.py" "$1" "$model"
