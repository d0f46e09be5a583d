#!/bin/sh
# The data plane's streams beside raw TCP and nginx (Debian: nginx-light; skipped by name without).
# $1: the build folder; $2: MiB (default 768); $3: rounds (default 5).
set -eu
work=$(mktemp -d)
nginx_pid=
cleanup() {
  [ -z "$nginx_pid" ] || kill "$nginx_pid" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
mkdir "$work/data"
openssl enc -aes-128-ctr -K 00112233445566778899aabbccddeeff -iv 0 -in /dev/zero 2>/dev/null \
  | head -c "$((${2:-768} << 20))" >"$work/data/file.bin" || true
peer=
if command -v nginx >/dev/null; then
  . "$(dirname "$0")/nginx.sh"
  start_nginx "$work" "$work/data"
  peer="$nginx_port:$nginx_worker"
else
  echo "skipped: nginx is not installed (apt-get install nginx-light)"
fi
"$1/bin/fileservice_wire_bench" "$work" "${2:-768}" "${3:-5}" $peer
