#!/bin/sh
# Workers in network namespaces of their own, each limited by the kernel (tbf, both directions), fetch
# a version together from an origin that is not limited. Needs root, ip and tc (iproute2); without them
# it says so and ends well.
# $1: the build folder; $2: workers (default 8); $3: MiB (default 400); $4: MB/s (default 20).
set -eu
bench=$1/bin/fileservice_fanout_bench
workers=${2:-8} mib=${3:-400} rate=${4:-20}
work=$(mktemp -d)
tag=gf$$
pids=
cleanup() {
  for pid in $pids; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  for i in $(seq 0 "$workers"); do ip netns del "$tag-$i" 2>/dev/null || true; done
  ip link del "$tag" 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM
if ! command -v tc >/dev/null || ! ip netns add "$tag-0" 2>/dev/null; then
  echo "skipped: network namespaces need root and iproute2"
  exit 0
fi

# A bridge with a port for each namespace; 0 is the origin's.
ip link add "$tag" type bridge
ip link set "$tag" up
for i in $(seq 0 "$workers"); do
  [ "$i" = 0 ] || ip netns add "$tag-$i"
  ip link add "$tag-v$i" type veth peer name eth0 netns "$tag-$i"
  ip link set "$tag-v$i" master "$tag" up
  ip -n "$tag-$i" addr add "10.177.0.$((i + 1))/24" dev eth0
  ip -n "$tag-$i" link set eth0 up
  ip -n "$tag-$i" link set lo up
  [ "$i" = 0 ] && continue
  limit="tbf rate $((rate * 8))mbit burst 256kb latency 50ms"
  tc qdisc add dev "$tag-v$i" root $limit                       # to the worker
  ip netns exec "$tag-$i" tc qdisc add dev eth0 root $limit    # from it
done

ip netns exec "$tag-0" "$bench" serve "$work" 10.177.0.1 "$mib" &
pids=$!
while [ ! -s "$work/port" ]; do
  kill -0 "$pids"
  sleep 0.1
done
for i in $(seq "$workers"); do
  ip netns exec "$tag-$i" "$bench" fetch "$work" "10.177.0.1:$(cat "$work/port")" \
    "10.177.0.$((i + 1))" "w$i" &
  pids="$pids $!"
done
for i in $(seq "$workers"); do
  while [ ! -s "$work/w$i.json" ]; do
    kill -0 $pids
    sleep 0.1
  done
done

python3 - "$work" "$workers" "$rate" "$(cut -d ' ' -f 1-3 /proc/loadavg)" <<'PY'
import glob, json, sys
work, workers, rate, load = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]) * 1e6, sys.argv[4]
rows = [json.load(open(path)) for path in glob.glob(work + "/w*.json")]
size = rows[0]["bytes"]
slowest = max(row["seconds"] for row in rows)
copies = sum(row["from_origin"] for row in rows) / size
print(f"{len(rows)} workers, {size >> 20} MiB, {rate / 1e6:.0f} MB/s each way: slowest {slowest:.1f} s, "
      f"bound {size / rate:.1f} s, origin {copies:.2f} copies (load {load})")
ok = len(rows) == workers
for metric, value, unit, bar in (("netns_time_over_bound", slowest * rate / size, "x", 1.3),
                                 ("netns_origin_copies", copies, "copies", 1.5)):
    ok = ok and value <= bar
    print(json.dumps({"bench": "fileservice_fanout", "metric": metric, "value": round(value, 3),
                      "unit": unit, "bar": bar, "ok": value <= bar}))
sys.exit(0 if ok else 1)
PY
