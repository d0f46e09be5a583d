#!/usr/bin/env bash
# The walk-through of deploy/README.md, carried out: a scheduler, a fileservice, three workers with
# eight declared GPUs each and a user, every one in a network namespace of its own, with mTLS and a
# simulated trainer. Then what happens to clusters: a full one, a cordoned node, a daemon that is
# killed, a cable that is pulled. Needs root.
#
#   three_nodes_test.sh BIN_DIR SOURCE_DIR
. "$(dirname "$0")/lib.sh"
[ "$(id -u)" = 0 ] || skip "network namespaces need root"
command -v ip >/dev/null || skip "ip (iproute2) is not installed"

net=graft$$
hosts=(ctl:1 files:2 n1:11 n2:12 n3:13 user:100)
tidy() {
  local host
  for host in "${hosts[@]}" switch; do ip netns del "$net-${host%:*}" 2>/dev/null || true; done
}
# In the foreground alone: behind `&` the process to kill would be the shell that runs it.
on() { local host=$1; shift; ip netns exec "$net-$host" "$@"; }

ip netns add "$net-switch" 2>/dev/null || skip "this machine allows no network namespaces"
on switch ip link add br0 type bridge
on switch ip link set br0 up
for host in "${hosts[@]}"; do
  name=${host%:*}
  ip netns add "$net-$name"
  on switch ip link add "to-$name" type veth peer name eth0 netns "$net-$name"
  on switch ip link set "to-$name" master br0 up
  on "$name" ip address add "10.77.0.${host#*:}/24" dev eth0
  on "$name" ip link set eth0 up
  on "$name" ip link set lo up
done

echo "== 1. certificates: one authority, one for each host"
tls="$work/tls"
mkdir "$tls"
# authority NAME
authority() {
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj "/CN=$1" \
    -keyout "$tls/$1.key" -out "$tls/$1.pem" 2>/dev/null
}
# certify AUTHORITY NAME [ADDRESS]
certify() {
  openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$2" -keyout "$tls/$2.key" 2>/dev/null |
    openssl x509 -req -days 2 -CA "$tls/$1.pem" -CAkey "$tls/$1.key" -CAcreateserial -out "$tls/$2.pem" \
      -extfile <(echo "subjectAltName=DNS:$2${3:+,IP:$3}") 2>/dev/null
}
authority ca
authority stranger-ca
for host in "${hosts[@]}"; do certify ca "${host%:*}" "10.77.0.${host#*:}"; done
certify stranger-ca stranger

echo "== 2. scheduler, 3. fileservice"
scheduler() {
  ip netns exec "$net-ctl" "$bin/graft-scheduler" --data "$work/scheduler" --listen 10.77.0.1:7600 --fileservice 10.77.0.2:7071 \
    --tls-certificate "$tls/ctl.pem" --tls-key "$tls/ctl.key" --client-ca "$tls/ca.pem" --server-ca "$tls/ca.pem" \
    --fake-trainer >>"$work/scheduler.log" 2>&1 &
  scheduler_pid=$!
  workers+=($!)
}
scheduler
cat >"$work/fileservice.json" <<END
{"data": "$work/fileservice", "listen": "10.77.0.2:7071", "tls_certificate": "$tls/files.pem",
 "tls_key": "$tls/files.key", "client_ca": "$tls/ca.pem", "scheduler": "10.77.0.1:7600", "scheduler_ca": "$tls/ca.pem"}
END
ip netns exec "$net-files" "$bin/graft-fileservice" --config "$work/fileservice.json" >"$work/fileservice.log" 2>&1 &
workers+=($!)
until_true 200 test -s "$work/scheduler/admin-token" || fail "$(tail -n 3 "$work/scheduler.log")"

echo "== 4. a context with a certificate"
program=$graft
graft() { on user "$program" "$@"; }
graft=graft  # lib.sh asks through it
graft context add cluster --address 10.77.0.1:7600 --token "$(cat "$work/scheduler/admin-token")" --ca "$tls/ca.pem" \
  --certificate "$tls/user.pem" --key "$tls/user.key"
answers() { graft node list >/dev/null 2>&1; }
until_true 200 answers || fail "$(graft node list 2>&1)"
GRAFT_CERTIFICATE="$tls/stranger.pem" GRAFT_KEY="$tls/stranger.key" graft node list >/dev/null 2>&1 \
  && fail "a certificate of another authority was accepted"

echo "== 5. workers"
# worker NAME ADDRESS
worker() {
  mkdir -p "$work/$1"
  [ -f "$work/$1/join-token" ] || graft node join-token "$1" >"$work/$1/join-token"
  echo '{"hostname": "'"$1"'", "devices": [{"count": 8, "product": "H100", "memory_gb": 80, "nvlink_domain": 0}]}' >"$work/$1/devices.json"
  cat >"$work/$1/worker.textproto" <<END
node_id: "$1"
scheduler_address: "10.77.0.1:7600"
server_ca_file: "$tls/ca.pem"
client_certificate_file: "$tls/$1.pem"
client_key_file: "$tls/$1.key"
join_token_file: "$work/$1/join-token"
state_folder: "$work/$1/state"
fabric_address: "$2"
trainer_program: "$bin/graft-fake-trainer"
validator_program: "$bin/graft-fake-trainer"
devices { kind: "declared" declared_file: "$work/$1/devices.json" }
END
  GRAFT_FAKE_STEP_SECONDS=0.05 ip netns exec "$net-$1" "$bin/graft-worker" --config "$work/$1/worker.textproto" >>"$work/$1/log" 2>&1 &
  workers+=($!)
}
for host in n1:11 n2:12 n3:13; do worker "${host%:*}" "10.77.0.${host#*:}"; done
for node in n1 n2 n3; do until_true 200 node_is_ready $node || fail "$node: $(tail -n 3 "$work/$node/log")"; done
graft node list
graft doctor | grep -q '24 devices can be used' || fail "$(graft doctor)"
import_samples

# job NAME NODES STEPS: a gang of so many whole nodes, two ranks to a matrix
job() {
  graft lora tiny tickets --name "$1" --max-steps "$3" --batch 48 --set parallelism.nodes="$2" --set parallelism.gpus_per_node=8 \
    --set parallelism.tensor_parallel_size=2 --set schedule.checkpoint_interval=20 >/dev/null
}
# The newest attempt is listed first.
places() { graft job attempts "$1" | sed -n 2p; }

echo "== 24 ranks over three nodes"
job all 3 20
wait_state all COMPLETED
for node in n1 n2 n3; do places all | grep -q "$node: 0 1 2 3 4 5 6 7" || fail "$(places all)"; done
places all

echo "== a full cluster: the third gang waits and says why"
job wide 2 100000
job narrow 1 100000
wait_state wide RUNNING
wait_state narrow RUNNING
job waits 1 20
wait_state waits QUEUED
graft top --once | tee "$work/top"
grep -q 'n1 .* \(AAAAAAAA\|BBBBBBBB\)' "$work/top" || fail "top does not say who holds n1"
graft job explain waits
graft job explain waits | grep -q 8 || fail "no number in the explanation"
graft job cancel wide >/dev/null
wait_state waits COMPLETED
graft job cancel narrow >/dev/null
wait_state narrow CANCELLED

echo "== a cordoned node gets nothing new"
graft node cordon n1 --reason "a fan is loud" >/dev/null
job elsewhere 1 20
wait_state elsewhere COMPLETED
places elsewhere | grep -q 'n1:' && fail "$(places elsewhere)"
graft node uncordon n1 >/dev/null

echo "== the scheduler is killed in the middle; nobody notices"
job through 3 200
wait_steps through 20
kill -9 "$scheduler_pid"
wait "$scheduler_pid" 2>/dev/null || true
scheduler
wait_state through COMPLETED
[ "$(job_field through restarts)" = "" ] || fail "it was restarted $(job_field through restarts) times"

echo "== a pulled cable: the gang goes on elsewhere"
job moves 1 600
wait_steps moves 40
lost=$(places moves | grep -o 'n[123]:' | tr -d :)
on switch ip link set "to-$lost" down
moved() { ! places moves | grep -q "$lost:"; }
until_true 600 moved || fail "$(places moves)"
on switch ip link set "to-$lost" up
wait_state moves COMPLETED
graft job attempts moves
node_is_back() { graft node list | grep "^$lost " | grep -q ' ready '; }
until_true 600 node_is_back || fail "$lost does not come back: $(graft node list)"
echo "three nodes passed"
