#!/usr/bin/env bash
# A rolling upgrade, as deploy/README.md describes it: the programs are replaced on the disk, then the
# scheduler, the fileservice and two workers are ended one at a time under a running job, with SIGTERM
# as systemd sends it. The job loses no step, spends no restart and ends with the losses of one that
# nobody disturbed.
#
#   upgrade_test.sh BIN_DIR SOURCE_DIR
. "$(dirname "$0")/lib.sh"

programs=(graft graft-scheduler graft-fileservice graft-worker graft-trainer graft-trainer-rank graft-validate)
mkdir "$work/bin"
for program in "${programs[@]}"; do cp "$bin/$program" "$work/bin/"; done
bin=$work/bin
graft=$bin/graft

train() {
  "$graft" lora tiny tickets --name "$1" --max-steps 240 --epochs 20 --max-seq-length 512 \
    --set schedule.seed=7 --set schedule.checkpoint_interval=100 >/dev/null
}
# Files that run stay as they are; a new process finds the new ones.
replace_programs() {
  local program
  for program in "${programs[@]}"; do
    cp "$bin/$program" "$bin/$program.new"
    mv "$bin/$program.new" "$bin/$program"
  done
}
is_new() { [ "$(readlink "/proc/$1/exe")" = "$bin/$2" ]; }

# restart DAEMON: as systemd does, and waits until the supervisor has started it again
restart() {
  local old
  old=$(pid_of "$1")
  is_new "$old" "graft-$1" && fail "$1 ran the new program before it was restarted"
  kill -TERM "$old"
  until_true 300 has_new_pid "$1" "$old" || fail "$1 was not started again"
  is_new "$(pid_of "$1")" "graft-$1" || fail "$1 is still the old program"
}
restart_worker() {
  if [ "$1" = local ]; then
    restart worker
  else
    is_new "$second" graft-worker && fail "$1 ran the new program before it was restarted"
    kill -TERM "$second"
    wait "$second" || fail "$1: $(tail -n 3 "$work/second/log")"
    add_worker second 1
  fi
  until_true 300 node_is_ready "$1" || fail "$("$graft" node list)"
}
# node_of ATTEMPT: where it is, or was
node_of() { "$graft" job attempts moved | sed -n "s/^ *$1 .* \(local\|second\): 0 .*/\1/p"; }
is_at() { [ "$(node_of "$1")" = "$2" ]; }
# trains_at ATTEMPT NODE: there, and ten steps further
trains_at() {
  until_true 600 is_at "$1" "$2" || fail "$("$graft" job attempts moved)"
  wait_steps moved $(($(steps_done moved) + 10))
}

"$graft" up
import_samples
add_worker second 1
second=${workers[0]}
train calm
wait_state calm COMPLETED
train moved
"$graft" job watch moved >"$work/watched" 2>&1 &
watcher=$!
wait_steps moved 5
replace_programs

echo "== scheduler and fileservice: the job trains on"
restart scheduler
restart fileservice
wait_steps moved $(($(steps_done moved) + 10))
"$graft" fileset list -o name | grep -q tickets || fail "the fileservice has lost its filesets"
[ "$(node_of 2)" = "" ] || fail "$("$graft" job attempts moved)"

echo "== the workers, one at a time: the job checkpoints and goes on with the other"
from=$(node_of 1)
[ "$from" = local ] && to=second || to=local
restart_worker "$from"
trains_at 2 "$to"
restart_worker "$to"
trains_at 3 "$from"
wait_state moved COMPLETED
"$graft" job attempts moved
"$graft" node list

echo "== who watched saw it to its end"
wait "$watcher" || fail "the watch ended: $(tail -n 3 "$work/watched")"

echo "== no step lost, no restart spent, the same losses"
[ "$(job_field moved restarts)" = "" ] || fail "it was restarted $(job_field moved restarts) times"
[ "$("$graft" job attempts moved | grep -c ': 0 ')" = 3 ] || fail "$("$graft" job attempts moved)"
# Steps and values, one a line.
losses() {
  "$graft" job metrics "$1" --metrics train_loss,val_loss --points 1000 -o json |
    sed -n 's/.*"\(step\|value\)": \([^,]*\),*/\1 \2/p'
}
losses calm >"$work/calm.losses"
losses moved | diff "$work/calm.losses" - || fail "the losses differ"
[ "$(grep -c step "$work/calm.losses")" -ge 240 ] || fail "$(grep -c step "$work/calm.losses") losses"
echo "the upgrade passed"
