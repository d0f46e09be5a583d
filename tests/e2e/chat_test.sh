#!/usr/bin/env bash
# Asking models with real daemons and a simulated trainer: answers, refusals that teach, a trainer
# and a scheduler that die, and a session that outlives its askers.
#
#   chat_test.sh BIN_DIR SOURCE_DIR
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
# refused WANTED COMMAND...: it fails, and says WANTED
refused() {
  local wanted=$1
  shift
  "$@" >"$work/out" 2>"$work/err" && fail "accepted: $*"
  grep -q -- "$wanted" "$work/err" || fail "'$*' said: $(cat "$work/err")"
}
pid_of() { sed -n "s/.*\"$1\": \([0-9]*\).*/\1/p" "$GRAFT_HOME/state.json" | head -n 1; }
trainer_pid() { pgrep -P "$(pid_of worker)" -f -- --generate || true; }

"$graft" up --fake-trainer
"$graft" model import tiny --from "$source/tests/e2e/tiny_llama" >/dev/null
"$graft" dataset upload tickets "$source/worker/data/samples/support_tickets" >/dev/null
"$graft" lora tiny tickets --name job --max-steps 3 --watch >/dev/null
adapter=$("$graft" adapter list tiny -o name | head -n 1)
adapter=${adapter##*/}

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
for i in $(seq 1 100); do [ -n "$(trainer_pid)" ] || break; sleep 0.1; done
[ "$("$graft" complete tiny -p 'after the death')" = "(fake) after the death" ] || fail "no answer"

echo "== the scheduler dies, the session lives"
before=$(trainer_pid)
old=$(pid_of scheduler)
kill -9 "$old"
for i in $(seq 1 100); do [ "$(pid_of scheduler)" != "$old" ] && break; sleep 0.1; done
for i in $(seq 1 100); do "$graft" status >/dev/null 2>&1 && break; sleep 0.1; done
[ "$("$graft" complete tiny -p 'still here')" = "(fake) still here" ] || fail "no answer"
[ "$(trainer_pid)" = "$before" ] || fail "the session was begun again"
echo "chat passed"
