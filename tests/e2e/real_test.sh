#!/usr/bin/env bash
# Real daemons and the real trainer on a tiny random llama: rows are read before anything waits, a
# lost worker changes no number of the result, the report compares before and after, and the adapter
# answers.
#
#   real_test.sh BIN_DIR SOURCE_DIR
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
field() { "$graft" job get "$1" -o json | sed -n "s/.*\"$2\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}$/\1/p" | head -n 1; }
state_of() { "$graft" job get "$1" -o json | sed -n 's/.*"state": "JOB_STATE_\([A-Z]*\)".*/\1/p' | head -n 1; }
wait_state() {
  local i
  for i in $(seq 1 600); do
    [ "$(state_of "$1" 2>/dev/null)" != "$2" ] || return 0
    sleep 0.2
  done
  fail "job $1 is $(state_of "$1"), not $2"
}
pid_of() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$GRAFT_HOME/state.json" | head -n 1; }
# The last point of a metric.
last() { "$graft" job metrics "$1" --metrics "$2" -o json | sed -n 's/.*"value": \([0-9.e-]*\).*/\1/p' | tail -n 1; }
train() {
  local name=$1
  shift
  "$graft" lora tiny tickets --name "$name" --max-steps 40 --max-seq-length 512 \
    --set schedule.seed=7 --set schedule.checkpoint_interval=5 "$@"
}

"$graft" up
"$graft" model import tiny --from "$source/tests/e2e/tiny_llama" >/dev/null
"$graft" dataset upload tickets "$source/worker/data/samples/support_tickets" >/dev/null

echo "== the base answers, the same for the same seed"
one=$("$graft" complete tiny -p "hello" --max-tokens 8 --seed 3)
two=$("$graft" complete tiny -p "hello" --max-tokens 8 --seed 3)
[ "$one" = "$two" ] || fail "the seed does not repeat: '$one', '$two'"
"$graft" complete tiny -p "$(printf 'long %.0s' $(seq 200))" 2>"$work/err" && fail "a prompt beyond the context was taken"
grep -q "the context holds 512" "$work/err" || fail "no numbers: $(cat "$work/err")"

echo "== bad rows fail the job before it waits, by file and line"
mkdir "$work/bad"
head -n 3 "$source/worker/data/samples/support_tickets/training.jsonl" >"$work/bad/training.jsonl"
echo '{"messages": "not a list"}' >>"$work/bad/training.jsonl"
"$graft" dataset upload bad "$work/bad" >/dev/null
"$graft" lora tiny bad --name bad >/dev/null
wait_state bad FAILED
"$graft" job get bad -o json | grep -q 'versions/1/training.jsonl:4:' || fail "$("$graft" job get bad -o json | grep message)"

echo "== a job to its end, undisturbed"
train calm
wait_state calm COMPLETED
"$graft" job get calm -o json | grep -q '"training_rows": "240"' || "$graft" job get calm -o json | grep -q training_rows \
  || fail "nothing is said of the rows"

echo "== the report compares before and after"
for i in $(seq 1 50); do  # published beside the job, not before it
  "$graft" fileset download calm-report "$work/report" 2>"$work/err" && break
  sleep 0.2
done
[ -f "$work/report/report.md" ] || fail "no report: $(cat "$work/err")"
grep -q "| validation loss | [0-9.]* | [0-9.]* |" "$work/report/report.md" || fail "$(head -n 12 "$work/report/report.md")"
grep -q "| exact match |" "$work/report/report.md" || fail "no exact match"
grep -q "<html" "$work/report/report.html" || fail "no page"
[ "$(wc -l <"$work/report/samples.jsonl")" -ge 1 ] || fail "no samples"

echo "== the same job with a worker that dies in the middle ends with the same losses"
train torn
for i in $(seq 1 300); do
  [ "$("$graft" job metrics torn --metrics train_loss -o json | grep -c '"step"')" -lt 8 ] || break
  sleep 0.1
done
kill -9 "$(pid_of worker)"
wait_state torn COMPLETED
for metric in train_loss val_loss; do
  [ "$(last calm $metric)" = "$(last torn $metric)" ] \
    || fail "$metric is $(last torn $metric) instead of $(last calm $metric)"
done

echo "== the adapter answers"
adapter=$("$graft" adapter list tiny -o name | head -n 1)
"$graft" chat "tiny+${adapter##*/}" -m "hello" --max-tokens 8 --temperature 0 >/dev/null
echo "the real trainer passed"
