#!/usr/bin/env bash
# An administrator's queue: made, changed, looked at, and its idle jobs stopped with a checkpoint.
#
#   queue_test.sh BIN_DIR SOURCE_DIR
. "$(dirname "$0")/lib.sh"

# A step in two minutes: to the watch for idle jobs that is one that does nothing.
"$graft" up --fake-trainer --speed 0.01 --devices cpu >/dev/null
import_samples

echo "== a queue is made, changed and shown"
"$graft" queue create night --set priority=-5 --set description="for long runs" >/dev/null
"$graft" queue update night --set idle_policy.after=3s --set idle_policy.stop=true >/dev/null
"$graft" queue get night -o json | grep -q "\"stop\": true" || fail "$("$graft" queue get night -o json)"
refused "idle_policy.min_utilisation" "$graft" queue update night --set idle_policy.min_utilisation=3
refused 'did you mean "idle_policy"' "$graft" queue update night --set idle_polcy.stop=true

echo "== an idle job is told of and paused"
"$graft" lora tiny tickets --name sleeper --max-steps 20 --seed 1 --set resources.queue=night >/dev/null
wait_state sleeper RUNNING
"$graft" lora tiny tickets --name waiter --max-steps 20 --seed 1 --set resources.queue=night >/dev/null
# A new job is validated before it waits.
in_line() { "$graft" queue get night | grep -q waiter; }
until_true 300 in_line || fail "$("$graft" queue get night)"
"$graft" top --once | grep -q "1  night  .*waiter" || fail "$("$graft" top --once)"
paused() { "$graft" job get sleeper -o json | grep -q "\"reason\": \"REASON_IDLE\""; }
until_true 600 paused || fail "$("$graft" job get sleeper -o json)"
"$graft" job get sleeper | grep -q "no step for" || fail "$("$graft" job get sleeper)"

echo "== a queue with jobs stays"
refused "waiter" "$graft" queue delete night
"$graft" job cancel waiter >/dev/null
"$graft" job cancel sleeper >/dev/null
emptied() { "$graft" queue delete night 2>/dev/null; }
until_true 300 emptied || fail "$("$graft" queue get night)"
echo "queues passed"
