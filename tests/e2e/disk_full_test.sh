#!/usr/bin/env bash
# A worker whose disk fills up in the middle of a job says so. Needs the right to mount a tmpfs.
#
#   disk_full_test.sh BIN_DIR SOURCE_DIR
set -euo pipefail
bin=$1 source=$2
work=$(mktemp -d)
export GRAFT_HOME="$work/home" GRAFT_CONFIG="$work/contexts.json" NO_COLOR=1
graft="$bin/graft"
finish() {
  status=$?
  "$graft" down >/dev/null 2>&1 || true
  if [ $status != 0 ]; then tail -n 15 "$work"/home/logs/*.log || true; fi
  umount "$work/home/worker" 2>/dev/null || true
  rm -rf "$work"
}
trap finish EXIT
fail() { echo "FAILED: $*" >&2; exit 1; }

mkdir -p "$work/home/worker"
mount -t tmpfs -o size=700k tmpfs "$work/home/worker" 2>/dev/null || { echo "skipped: no right to mount a tmpfs"; exit 77; }
"$graft" up
"$graft" model import tiny --from "$source/tests/e2e/tiny_llama" >/dev/null
"$graft" dataset upload tickets "$source/worker/data/samples/support_tickets" >/dev/null
"$graft" lora tiny tickets --name full --max-steps 60 --max-seq-length 512 \
  --set schedule.checkpoint_interval=1 --set resources.max_restarts=0 >/dev/null
for i in $(seq 1 300); do
  "$graft" job get full -o json >"$work/job.json"
  grep -q '"state": "JOB_STATE_\(FAILED\|COMPLETED\)"' "$work/job.json" && break
  sleep 0.2
done
grep -q '"state": "JOB_STATE_FAILED"' "$work/job.json" || fail "$(grep '"state"' "$work/job.json")"
grep -qi 'no space left\|disk' "$work/job.json" || fail "$(grep message "$work/job.json")"
echo "a full disk was told: $(grep -m 1 '"message"' "$work/job.json")"
