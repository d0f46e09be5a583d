#!/usr/bin/env bash
# Asking models with real daemons and a simulated trainer: answers, refusals that teach, a trainer
# and a scheduler that die, and a session that outlives its askers.
#
#   chat_test.sh BIN_DIR SOURCE_DIR
. "$(dirname "$0")/lib.sh"

trainer_pid() { pgrep -P "$(pid_of worker)" -f -- --generate || true; }
no_trainer() { [ -z "$(trainer_pid)" ]; }

"$graft" up --fake-trainer
import_samples
"$graft" lora tiny tickets --name job --max-steps 3 --watch >/dev/null
adapter=$(adapter_of tiny)

echo "== a model and its adapter answer"
[ "$("$graft" complete tiny -p 'one two three')" = "(fake) one two three" ] || fail "complete"
first=$(trainer_pid)
"$graft" complete tiny -p again >/dev/null
[ "$(trainer_pid)" = "$first" ] || fail "another trainer was started for the same model"
# The machine has one device: the idle session gives way.
[ "$("$graft" complete "tiny+$adapter" -p 'and the adapter')" = "(fake) and the adapter" ] \
  || fail "complete with the adapter"

[ "$("$graft" chat tiny -m 'a conversation')" = "(fake) a conversation" ] || fail "chat"

echo "== refusals teach"
mkdir "$work/plain"
cp "$source"/tests/e2e/tiny_llama/{config.json,model.safetensors,tokenizer.json} "$work/plain/"
"$graft" model import plain --from "$work/plain" >/dev/null
refused "models/none" "$graft" complete none -p x
refused "adapters/none" "$graft" complete tiny+none -p x
refused "graft complete" "$graft" chat plain -m x
refused "tokens; the context holds 2048" "$graft" complete tiny -p "$(printf 'w %.0s' $(seq 2100))"
refused "temperature" "$graft" complete tiny -p x --temperature 9
"$graft" adapter disable tiny "$adapter" >/dev/null 2>&1
refused "graft adapter enable tiny $adapter" "$graft" complete "tiny+$adapter" -p x
"$graft" adapter enable tiny "$adapter" >/dev/null 2>&1
[ "$("$graft" complete "tiny+$adapter" -p back)" = "(fake) back" ] || fail "the enabled adapter"

echo "== a trainer that dies is told, and the next question is answered by another"
for pid in $(trainer_pid); do kill -9 "$pid"; done
until_true 100 no_trainer || fail "a killed trainer is still there"
[ "$("$graft" complete tiny -p 'after the death')" = "(fake) after the death" ] || fail "no answer"

echo "== the scheduler dies, the session lives"
before=$(trainer_pid)
kill_daemon scheduler
until_true 100 "$graft" status >/dev/null 2>&1 || fail "the scheduler does not answer"
[ "$("$graft" complete tiny -p 'still here')" = "(fake) still here" ] || fail "no answer"
[ "$(trainer_pid)" = "$before" ] || fail "the session was begun again"
echo "chat passed"
