#!/usr/bin/env bash
# The whole flow with real daemons and a simulated trainer: start, import, upload, train, watch,
# pause, resume, cancel, fail and restart, kill each daemon in the middle, and find everything again.
#
#   flow_test.sh BIN_DIR SOURCE_DIR
. "$(dirname "$0")/lib.sh"

export GRAFT_FAKE_STEP_SECONDS=0.02
echo "== up"
"$graft" up --fake-trainer
"$graft" status | grep -q "1 of 1 nodes ready" || fail "the node is not ready"

echo "== model and dataset"
"$graft" model import tiny --from "$source/tests/e2e/tiny_llama" | grep -q "parameters" || fail "import"
"$graft" model list -o name | grep -q "workspaces/default/models/tiny" || fail "model list"
version=$("$graft" dataset upload tickets "$source/worker/data/samples/support_tickets")
[ "$version" = "workspaces/default/filesets/tickets/versions/1" ] || fail "version is $version"
"$graft" fileset download tickets "$work/copy"
diff -r "$work/copy" "$source/worker/data/samples/support_tickets" || fail "the download differs"

echo "== a job to its end"
"$graft" lora tiny tickets --name first --max-steps 20 --watch
[ "$(state_of first)" = COMPLETED ] || fail "first is $(state_of first)"
"$graft" adapter list tiny -o name | grep -q "models/tiny/adapters/" || fail "no adapter"
[ "$("$graft" job metrics first -o json | grep -c '"step"')" -ge 10 ] || fail "metrics are missing"

echo "== errors teach"
refused "filesets/nothing" "$graft" lora tiny nothing --name bad
refused "did you mean" "$graft" jobb list
refused "what --name gives" "$graft" lora tiny tickets --name a

echo "== pause, resume, cancel"
"$graft" lora tiny tickets --name second --max-steps 150
wait_steps second 10
"$graft" job pause second >/dev/null
wait_state second PAUSED
paused_at=$(steps_done second)
"$graft" job resume second >/dev/null
wait_state second COMPLETED
[ "$paused_at" -ge 10 ] || fail "paused at $paused_at"
[ "$(first_step second)" = "$paused_at" ] || fail "it went on from step $(first_step second), not $paused_at"
"$graft" job fork second --name forked >/dev/null
wait_state forked COMPLETED
refused "has no checkpoint '7'" "$graft" job fork second --from 7
"$graft" lora tiny tickets --name third --max-steps 100000
wait_state third RUNNING
"$graft" job cancel third >/dev/null
wait_state third CANCELLED

echo "== every daemon killed with -9 in turn, in the middle of a job"
"$graft" lora tiny tickets --name fourth --max-steps 500 --set schedule.checkpoint_interval=20
steps=0
for daemon in scheduler fileservice worker; do
  steps=$((steps + 60))
  wait_steps fourth "$steps"
  kill_daemon "$daemon"
done
wait_state fourth COMPLETED

echo "== down and up again: nothing is lost, and what ran goes on where it was"
"$graft" lora tiny tickets --name fifth --max-steps 300
wait_steps fifth 30
"$graft" down
"$graft" up --fake-trainer
[ "$(state_of first)" = COMPLETED ] || fail "first was lost"
"$graft" job list -o name | sort | tr '\n' ' ' | grep -q "fifth.*first.*forked.*fourth.*second.*third" || fail "jobs were lost"
wait_state fifth COMPLETED
[ "$(first_step fifth)" -ge 30 ] || fail "it began again at step $(first_step fifth)"
[ "$(job_field fifth restarts)" = "" ] || fail "it was restarted $(job_field fifth restarts) times"
echo "the whole flow passed"
