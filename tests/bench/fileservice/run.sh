#!/bin/sh
# Puts a file and a slightly changed one, and gets it back, through a daemon on loopback.
# $1: the build folder; $2: MiB (default 512).
set -eu
work=$(mktemp -d)
"$1/bin/graft-fileservice" --data "$work/store" --listen 127.0.0.1:0 --insecure --no-auth \
  --port-file "$work/port" 2>"$work/log" &
server=$!
trap 'kill "$server" 2>/dev/null || true; wait "$server" || true; rm -rf "$work"' EXIT
while [ ! -s "$work/port" ]; do sleep 0.1; done
"$1/bin/fileservice_bench" "127.0.0.1:$(cat "$work/port")" "$work" "${2:-512}"
