#!/bin/sh
# What the store makes of checkpoints and datasets (store_dedup), and how it is with a million chunks
# (store_scale). One JSON line a figure; exit code 1 when a bar is missed.
# $1: the build folder; $2: chunks (default 1000000).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
bad=0
"$1/bin/store_dedup" || bad=1
"$1/bin/store_scale" fill "$work" "${2:-1000000}"
"$1/bin/store_scale" open "$work" "${2:-1000000}" || bad=1
exit $bad
