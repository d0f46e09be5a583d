#!/usr/bin/env bash
# The whole flow with real daemons and a simulated trainer: start, import, upload, train, watch,
# pause, resume, cancel, fail and restart, kill each daemon in the middle, and find everything again.
#
#   flow_test.sh BIN_DIR SOURCE_DIR
set -euo pipefail
bin=$1 source=$2
work=$(mktemp -d)
export GRAFT_HOME="$work/home" GRAFT_CONFIG="$work/contexts.json" NO_COLOR=1
graft="$bin/graft"

finish() {
  status=$?
  "$graft" down >/dev/null 2>&1 || true
  if [ $status != 0 ]; then
    echo "--- logs"; tail -n 15 "$work"/home/logs/*.log || true
  fi
  rm -rf "$work"
}
trap finish EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }
state_of() { "$graft" job get "$1" -o json | sed -n 's/.*"state": "JOB_STATE_\([A-Z]*\)".*/\1/p' | head -n 1; }
# wait_state JOB STATE: within 60 s
wait_state() {
  local i
  for i in $(seq 1 300); do
    [ "$(state_of "$1" 2>/dev/null)" != "$2" ] || return 0
    sleep 0.2
  done
  fail "job $1 is $(state_of "$1"), not $2"
}
steps_done() { "$graft" job get "$1" -o json | sed -n 's/.*"steps_done": "\([0-9]*\)".*/\1/p' | head -n 1; }
wait_steps() {
  local i
  for i in $(seq 1 300); do
    [ "$(steps_done "$1" || echo 0)" -lt "$2" ] 2>/dev/null || [ -z "$(steps_done "$1")" ] || return 0
    sleep 0.2
  done
  fail "job $1 did not reach step $2"
}

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
"$graft" lora tiny nothing --name bad 2>"$work/err" && fail "a missing dataset was accepted"
grep -q "nothing" "$work/err" || fail "the error does not name the dataset: $(cat "$work/err")"
"$graft" jobb list 2>"$work/err" && fail "an unknown command was accepted"
grep -q 'did you mean' "$work/err" || fail "no suggestion: $(cat "$work/err")"

echo "== pause, resume, cancel"
"$graft" lora tiny tickets --name second --max-steps 150
wait_steps second 10
"$graft" job pause second >/dev/null
wait_state second PAUSED
paused_at=$(steps_done second)
"$graft" job resume second >/dev/null
wait_state second COMPLETED
[ "$paused_at" -ge 10 ] || fail "paused at $paused_at"
"$graft" lora tiny tickets --name third --max-steps 100000
wait_state third RUNNING
"$graft" job cancel third >/dev/null
wait_state third CANCELLED

echo "== every daemon killed with -9 in turn, in the middle of a job"
pid_of() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$GRAFT_HOME/state.json" | head -n 1; }
"$graft" lora tiny tickets --name fourth --max-steps 500 --set schedule.checkpoint_interval=20
for daemon in scheduler fileservice worker; do
  wait_state fourth RUNNING
  sleep 1
  pid=$(pid_of "$daemon")
  kill -9 "$pid"
  for i in $(seq 1 100); do [ "$(pid_of "$daemon")" != "$pid" ] && break; sleep 0.1; done
done
wait_state fourth COMPLETED

echo "== down and up again: nothing is lost"
"$graft" down
"$graft" up --fake-trainer
[ "$(state_of first)" = COMPLETED ] || fail "first was lost"
"$graft" job list -o name | sort | tr '\n' ' ' | grep -q "first.*fourth.*second.*third" || fail "jobs were lost"
echo "the whole flow passed"
