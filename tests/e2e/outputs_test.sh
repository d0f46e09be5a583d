#!/usr/bin/env bash
# What each tuning gives: an adapter under its base, a merged model, a model with all weights
# trained. With the reference libraries installed (full tier) peft and transformers load them.
#
#   outputs_test.sh BIN_DIR SOURCE_DIR
. "$(dirname "$0")/lib.sh"

"$graft" up
import_samples
for type in lora lora_merged all_weights; do
  "$graft" lora tiny tickets --name "$type" --max-steps 6 --max-seq-length 256 --seed 7 --lr 2e-4 \
    --set tuning.type=$type --output-name "out-${type//_/-}" >/dev/null
  wait_state "$type" COMPLETED
done

echo "== lora is an adapter of its base"
"$graft" adapter list tiny -o name | grep -q 'models/tiny/adapters/out-lora$' || fail "$("$graft" adapter list)"
"$graft" adapter export tiny out-lora "$work/lora" 2>/dev/null
echo "== merged and all weights are models with a base"
for type in lora-merged all-weights; do
  "$graft" model list | grep -Eq "^out-$type .* tiny " || fail "$("$graft" model list)"
  "$graft" model export "out-$type" "$work/$type" 2>/dev/null
  "$graft" complete "out-$type" -p "hello" --max-tokens 4 >/dev/null || fail "out-$type does not answer"
done

python="${GRAFT_DEPS_DIR:-$HOME/.cache/graft/deps}/parity-venv/bin/python"
[ "${GRAFT_TIER:-default}" != default ] || { echo "outputs passed; peft and transformers load them in the full tier"; exit 0; }
[ -x "$python" ] || skip "the references are not installed (deploy/deps.sh --parity)"
HF_HUB_OFFLINE=1 "$python" "$source/tests/e2e/load_outputs.py" "$source/tests/e2e/tiny_llama" \
  "$work/lora" "$work/lora-merged" "$work/all-weights" || fail "the outputs are not loaded"
echo "outputs passed"
