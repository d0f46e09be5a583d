#!/usr/bin/env bash
# A worker whose disk fills up in the middle of a job says so. Needs the right to mount a tmpfs.
#
#   disk_full_test.sh BIN_DIR SOURCE_DIR
. "$(dirname "$0")/lib.sh"
tidy() { umount "$work/home/worker" 2>/dev/null || true; }

mkdir -p "$work/home/worker"
mount -t tmpfs -o size=700k tmpfs "$work/home/worker" 2>/dev/null || skip "no right to mount a tmpfs"
"$graft" up
import_samples
"$graft" lora tiny tickets --name full --max-steps 60 --max-seq-length 512 \
  --set schedule.checkpoint_interval=1 --set resources.max_restarts=0 >/dev/null
wait_state full FAILED
message_of full | grep -qi 'no space left\|disk' || fail "$(message_of full)"
echo "a full disk was told: $(message_of full)"
