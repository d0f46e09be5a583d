#!/usr/bin/env bash
# Real daemons and the real trainer on a tiny random llama: rows are read before anything waits, a
# lost worker changes no number of the result, the report compares before and after, and the adapter
# answers.
#
#   real_test.sh BIN_DIR SOURCE_DIR
. "$(dirname "$0")/lib.sh"

train() {
  local name=$1
  shift
  "$graft" lora tiny tickets --name "$name" --max-steps "${steps_wanted:-40}" --max-seq-length 512 \
    --set schedule.seed=7 --set schedule.checkpoint_interval=5 "$@"
}

"$graft" up
import_samples

echo "== the base answers, the same for the same seed"
one=$("$graft" complete tiny -p "hello" --max-tokens 8 --seed 3)
two=$("$graft" complete tiny -p "hello" --max-tokens 8 --seed 3)
[ "$one" = "$two" ] || fail "the seed does not repeat: '$one', '$two'"
refused "the context holds 512" "$graft" complete tiny -p "$(printf 'long %.0s' $(seq 200))"

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
# Published beside the job, not before it.
until_true 100 "$graft" fileset download calm-report "$work/report" 2>"$work/err" || fail "no report: $(cat "$work/err")"
grep -q "| validation loss | [0-9.]* | [0-9.]* |" "$work/report/report.md" || fail "$(head -n 12 "$work/report/report.md")"
grep -q "| exact match |" "$work/report/report.md" || fail "no exact match"
grep -q "<html" "$work/report/report.html" || fail "no page"
[ "$(wc -l <"$work/report/samples.jsonl")" -ge 1 ] || fail "no samples"

echo "== the same job with every daemon killed in the middle ends with the same losses"
train torn
steps=0
for daemon in scheduler fileservice worker; do
  steps=$((steps + 8))
  wait_steps torn "$steps"
  kill_daemon "$daemon"
done
wait_state torn COMPLETED
[ "$(first_step torn)" -ge 5 ] || fail "it began again at step $(first_step torn), and not at a checkpoint"
for metric in train_loss val_loss; do
  [ "$(last_of calm $metric)" = "$(last_of torn $metric)" ] \
    || fail "$metric is $(last_of torn $metric) instead of $(last_of calm $metric)"
done

echo "== pause, resume, a checkpoint that is asked for, and an early end"
steps_wanted=4000 train held --epochs 200
wait_steps held 8
"$graft" job pause held >/dev/null
wait_state held PAUSED
paused_at=$(steps_done held)
"$graft" job resume held >/dev/null
wait_steps held $((paused_at + 2))
[ "$(first_step held)" = "$paused_at" ] || fail "it went on from step $(first_step held), not $paused_at"
"$graft" job checkpoint held >/dev/null
"$graft" job finish held >/dev/null
wait_state held COMPLETED
[ "$(steps_done held)" -lt 4000 ] || fail "it did not finish early"

echo "== the newest two checkpoints stay, and the best"
kept=$("$graft" job checkpoints calm -o json | grep -c '"fileset_version"')
[ "$kept" = 2 ] || [ "$kept" = 3 ] || fail "$("$graft" job checkpoints calm)"
"$graft" job checkpoints calm | grep -q ' best' || fail "$("$graft" job checkpoints calm)"

echo "== a fork goes on from the checkpoint that it names"
kept=$("$graft" job checkpoints calm | sed -n '$p' | awk '{ print $1 }')  # the oldest
"$graft" job fork calm --name forked --from "$kept" >/dev/null
wait_state forked COMPLETED
[ "$(first_step forked)" = "$kept" ] || fail "it began at step $(first_step forked), not at $kept"

echo "== a new job begins with the weights of another, and learns no more here"
for from in calm calm/latest; do
  name=onward-${from#calm/}
  "$graft" lora tiny tickets --name "$name" --from-job "$from" --lr 1e-30 --max-steps 2 \
    --max-seq-length 512 --set schedule.seed=8 >/dev/null
  wait_state "$name" COMPLETED
  [ "$(first_step "$name")" = 0 ] || fail "it began at step $(first_step "$name")"
  [ "$(last_of "$name" val_loss)" = "$(last_of calm val_loss)" ] \
    || fail "validation loss $(last_of "$name" val_loss), not $(last_of calm val_loss)"
done
"$graft" job fork calm --name slower --set optimizer.learning_rate=1e-30 --set schedule.max_steps=2 >/dev/null
wait_state slower COMPLETED
[ "$(last_of slower val_loss)" = "$(last_of calm val_loss)" ] || fail "the fork has not its weights"
refused "spec.tuning.lora.rank" "$graft" lora tiny tickets --from-job calm --rank 3

echo "== the adapter answers"
"$graft" chat "tiny+$(adapter_of tiny)" -m "hello" --max-tokens 8 --temperature 0 >/dev/null
echo "the real trainer passed"
