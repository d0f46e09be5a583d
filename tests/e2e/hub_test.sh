#!/usr/bin/env bash
# A model from a hub: listed, downloaded across cut connections, imported; the second time nothing
# is fetched. Refusals name what to do.
#
#   hub_test.sh BIN_DIR SOURCE_DIR
. "$(dirname "$0")/lib.sh"
export XDG_CACHE_HOME="$work/cache"

mkdir "$work/hub"
cp "$source"/tests/e2e/tiny_llama/* "$work/hub/"
echo "weights of another kind" >"$work/hub/pytorch_model.bin"
python3 "$source/tests/e2e/hub_server.py" "$work/hub" "$work/port" >"$work/served" &
workers+=($!)
until_true 100 test -s "$work/port" || fail "the hub does not start"
export HF_ENDPOINT="http://127.0.0.1:$(cat "$work/port")"

"$graft" up --fake-trainer >/dev/null
"$graft" model import tiny --from hf://org/tiny >"$work/out" 2>"$work/err" || fail "$(cat "$work/err")"
grep -q "parameters" "$work/out" || fail "$(cat "$work/out")"
"$graft" model export tiny "$work/copy" 2>/dev/null
cmp "$work/copy/model.safetensors" "$source/tests/e2e/tiny_llama/model.safetensors" || fail "the weights differ"
[ ! -e "$work/copy/pytorch_model.bin" ] || fail "a pickle was taken"
grep -q 'model.safetensors from [1-9]' "$work/served" || fail "a cut download began anew: $(cat "$work/served")"

echo "== again: nothing is fetched"
: >"$work/served"
"$graft" model import again --from hf://org/tiny@main >/dev/null 2>&1 || fail "the second import"
[ ! -s "$work/served" ] || fail "fetched again: $(cat "$work/served")"

echo "== refusals teach"
refused "accept its licence" "$graft" model import gated --from hf://org/gated
HF_TOKEN=right "$graft" model import gated --from hf://org/gated >/dev/null 2>&1 || fail "the right token"
refused "check name and revision" "$graft" model import missing --from hf://org/missing
refused "expected hf://ORG/NAME" "$graft" model import broken --from hf://../tiny
echo "the hub passed"
