#!/usr/bin/env bash
# A worker inside a Slurm allocation (deploy/slurm/graft-worker.sbatch, run as Slurm would run it):
# the node is there until the allocation ends, takes what ends before, and nothing else.
#
#   allocation_test.sh BIN_DIR SOURCE_DIR
. "$(dirname "$0")/lib.sh"

"$graft" up --fake-trainer --speed 200 --devices cpu >/dev/null
import_samples
"$graft" node cordon local >/dev/null
"$graft" node join-token guest -o json | sed -n 's/.*"secret": "\(.*\)".*/\1/p' >"$work/join-token"
[ -s "$work/join-token" ] || "$graft" node join-token guest >"$work/join-token"
eval "$("$graft" context env)"

# allocation SECONDS: as sbatch starts the script, in the background
allocation() {
  SLURM_JOB_ID=17 SLURMD_NODENAME=guest SLURM_JOB_END_TIME=$(($(date +%s) + $1)) TMPDIR="$work" \
    GRAFT_SCHEDULER="$GRAFT_ADDRESS" GRAFT_CA="$GRAFT_CA" GRAFT_JOIN_TOKEN_FILE="$work/join-token" \
    GRAFT_WORKER="$bin/graft-worker" GRAFT_WORKER_HOME="$work/guest" \
    bash "$source/deploy/slurm/graft-worker.sbatch" >>"$work/guest.log" 2>&1 &
  guest=$!
  workers+=($!)
}
guest_is() { "$graft" node list | grep "^guest " | grep -q " $1 "; }

echo "== a day's allocation takes a job"
allocation 86400
until_true 300 guest_is ready || fail "$("$graft" node list; cat "$work/guest.log")"
"$graft" node get guest -o json | grep -q '"available_until"' || fail "$("$graft" node get guest -o json)"
"$graft" lora tiny tickets --name inside --max-steps 20 --seed 1 >/dev/null
wait_state inside COMPLETED
"$graft" job attempts inside | grep -q guest || fail "$("$graft" job attempts inside)"

echo "== Slurm's signal lets it leave by itself"
kill -TERM "$guest"
until_true 300 eval '! kill -0 "$guest" 2>/dev/null' || fail "the worker stays: $(cat "$work/guest.log")"

echo "== an allocation that is about to end takes nothing"
allocation 60
until_true 300 eval 'guest_is ready || guest_is draining || guest_is drained' || fail "$("$graft" node list; cat "$work/guest.log")"
"$graft" lora tiny tickets --name late --max-steps 20 --seed 1 >/dev/null
waits() { "$graft" job explain late | grep -Eq 'leave|cordon|drain'; }
until_true 100 waits || fail "$("$graft" job explain late)"
is_state late QUEUED || is_state late PENDING || fail "late is $(state_of late)"
echo "allocation passed"
