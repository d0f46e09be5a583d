#!/bin/sh
# A large incompressible file and a second version of it (1 % overwritten in runs of 100 KiB, 17
# bytes inserted near the start): put, put changed, get cold, through a daemon on loopback, beside
# nginx (PUT + fsync, GET to a file) and, once each, restic, borg and casync. Peers that are not
# installed are skipped by name.
# $1: the build folder; $2: MiB (default 2048); $3: rounds (default 5); $4: `peers` for the others.
# GRAFT_BENCH_FILES: a folder where the two files are kept, and taken from the next time.
#
# The ceiling of put: the client reads, cuts and hashes twice, the server hashes twice, checks and
# writes; nginx writes. Both wait for the disk.
set -eu
build=$1 mib=${2:-2048} rounds=${3:-5}
bench=$build/bin/fileservice_bench
work=$(mktemp -d)
server= nginx_pid=
stop_server() {
  [ -z "$server" ] || { kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; }
  server=
}
cleanup() {
  stop_server
  [ -z "$nginx_pid" ] || kill "$nginx_pid" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

files=${GRAFT_BENCH_FILES:-$work}
mkdir -p "$files"
[ -s "$files/v2.bin" ] || python3 - "$files" "$mib" <<'PY'
import os, random, sys
folder, mib = sys.argv[1], int(sys.argv[2])
rng = random.Random(7)
with open(folder + "/v1.bin", "wb") as out:
    for _ in range(mib):
        out.write(rng.randbytes(1 << 20))
with open(folder + "/v1.bin", "rb") as one, open(folder + "/v2.bin", "wb") as two:
    two.write(one.read(1 << 20))
    two.write(b"SEVENTEEN-BYTES!!")
    while block := one.read(8 << 20):
        two.write(block)
size = os.path.getsize(folder + "/v2.bin")
with open(folder + "/v2.bin", "r+b") as two:
    for _ in range(mib // 10 + 1):
        two.seek(rng.randrange(2 << 20, size - (1 << 20)))
        two.write(rng.randbytes(100 << 10))
PY
sync -f "$files"

seconds() { # CMD...: its wall seconds
  python3 -c 'import subprocess, sys, time
began = time.time(); subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
print(time.time() - began)' "$@"
}
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }
note() { echo "$1 $2" >>"$work/figures"; }

if command -v nginx >/dev/null && command -v curl >/dev/null; then
  mkdir "$work/served"
  . "$(dirname "$0")/nginx.sh"
  start_nginx "$work" "$work/served"
else
  echo "skipped: nginx and curl are not both installed (apt-get install nginx-light curl)"
fi

nginx_round() {
  rm -f "$work/served/v1.bin" "$work/out"
  note nginx_put_v1 "$(seconds sh -c "curl -sf -T $files/v1.bin http://127.0.0.1:$nginx_port/v1.bin &&
    $bench fsync $work/served/v1.bin")"
  "$bench" cold "$work/served/v1.bin"
  note nginx_get_v2 "$(seconds curl -sf -o "$work/out" "http://127.0.0.1:$nginx_port/v1.bin")"
  rm -f "$work/served/v1.bin" "$work/out"
  sync -f "$work"
}

our_round() {
  rm -rf "$work/store" "$work/target" "$work/port" "$work/in"
  mkdir "$work/in"
  "$build/bin/graft-fileservice" --data "$work/store" --listen 127.0.0.1:0 --insecure --no-auth \
    --port-file "$work/port" 2>"$work/log" &
  server=$!
  while [ ! -s "$work/port" ]; do sleep 0.05; done
  address="127.0.0.1:$(head -n 1 "$work/port")"
  for version in v1 v2; do
    ln -f "$files/$version.bin" "$work/in/file.bin"
    before=$(du -sm "$work/store" | cut -f 1)
    "$bench" put "$address" "$work/in/file.bin" workspaces/bench/filesets/file >"$work/line"
    note "put_$version" "$(field seconds <"$work/line")"
    note "client_cpu_$version" "$(field cpu_seconds <"$work/line")"
    note "added_$version" "$(($(du -sm "$work/store" | cut -f 1) - before))"
  done
  "$bench" cold "$work/store/packs"
  "$bench" get "$address" workspaces/bench/filesets/file/versions/2 "$work/target" >"$work/line"
  note get_v2 "$(field seconds <"$work/line")"
  note server_cpu "$(awk '{print ($14 + $15) / 100}' "/proc/$server/stat")"
  cmp "$work/target/file.bin" "$files/v2.bin"
  stop_server
  rm -rf "$work/store" "$work/target"
  sync -f "$work"
}

for _ in $(seq "$rounds"); do
  # What goes up is in the page cache, whoever sends it.
  cat "$files/v1.bin" "$files/v2.bin" >/dev/null
  [ -z "$nginx_pid" ] || nginx_round
  our_round
done
if [ "${4:-}" = peers ]; then . "$(dirname "$0")/peers.sh"; fi

python3 - "$work/figures" "$(cut -d ' ' -f 1-3 /proc/loadavg)" <<'PY'
import json, statistics, sys
rows = {}
for line in open(sys.argv[1]):
    name, value = line.split()
    rows.setdefault(name, []).append(float(value))
median = {name: statistics.median(values) for name, values in rows.items()}
print(f"{'row':24}{'median':>9}{'best':>9}{'worst':>9}   (seconds; added_*: MiB; load {sys.argv[2]})")
for name, values in rows.items():
    print(f"{name:24}{median[name]:9.2f}{min(values):9.2f}{max(values):9.2f}")
ok = True
def bar(metric, value, unit, peer, at_most):
    global ok
    if peer and peer not in median:
        return print(f"skipped: {metric} beside {peer}, which is not here")
    ratio = value / median[peer] if peer else value
    ok = ok and ratio <= at_most
    line = {"bench": "fileservice_put_get", "metric": metric, "value": round(value, 3), "unit": unit,
            "bar": at_most, "ok": ratio <= at_most}
    if peer:
        line.update(peer=peer, peer_value=round(median[peer], 3), ratio=round(ratio, 3))
    print(json.dumps(line))
bar("put_v1", median["put_v1"], "s", "nginx_put_v1", 1.1)
bar("put_v2", median["put_v2"], "s", "nginx_put_v1", 0.6)
bar("put_v2_added", median["added_v2"], "MiB", None, 50)
bar("get_v2", median["get_v2"], "s", "nginx_get_v2", 1.1)
sys.exit(0 if ok else 1)
PY
