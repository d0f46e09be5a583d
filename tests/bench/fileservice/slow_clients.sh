#!/bin/sh
# A thousand slow readers and a thousand slow writers: the daemon's memory.
# $1: the build folder; $2: clients of each kind (default 1000); $3: seconds (default 60).
set -eu
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
"$1/bin/fileservice_slow_clients" "$1/bin/graft-fileservice" "$work" "${2:-1000}" "${3:-60}"
