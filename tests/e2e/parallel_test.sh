#!/usr/bin/env bash
# Gangs of the true trainer over two workers of two CPU devices each, with Gloo: two ranks share
# matrices, divide layers, or see other rows. Each is placed as the topology says and ends with the
# loss of one rank.
#
#   parallel_test.sh BIN_DIR SOURCE_DIR
. "$(dirname "$0")/lib.sh"

"$graft" up --devices cpu --cpu-devices 2
add_worker second 2
import_samples

# train NAME SETTING...
train() {
  local name=$1 setting
  shift
  local sets=(--set evaluation.sample_rows=1 --set evaluation.max_new_tokens=8)
  for setting in "$@"; do sets+=(--set "parallelism.$setting"); done
  "$graft" lora tiny tickets --name "$name" --max-steps 10 --max-seq-length 256 --seed 7 "${sets[@]}" >/dev/null
  wait_state "$name" COMPLETED
}
# The newest attempt is listed first.
places() { "$graft" job attempts "$1" | sed -n 2p; }
# same_loss JOB: as one rank's, but for the order of sums (bf16 weights, fp32 sums)
same_loss() {
  local one other
  one=$(last_of alone train_loss) other=$(last_of "$1" train_loss)
  awk -v a="$one" -v b="$other" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a > 0 && d <= 2e-3 * a) }' \
    || fail "$1 ends at $other, one rank at $one"
  echo "$1: loss $other, one rank's $one; $(places "$1")"
}

train alone nodes=1 gpus_per_node=1

echo "== tp=2 stays on one node"
train tensor nodes=1 gpus_per_node=2 tensor_parallel_size=2
places tensor | grep -Eq '(local|second): 0 1 ' || fail "$(places tensor)"
same_loss tensor

echo "== pp=2 over two nodes"
train pipeline nodes=2 gpus_per_node=1 pipeline_parallel_size=2
places pipeline | grep -Eq 'local: [01], second: [01] |second: [01], local: [01] ' || fail "$(places pipeline)"
same_loss pipeline

echo "== dp=2 over two nodes"
train data nodes=2 gpus_per_node=1
places data | grep -Eq 'local: [01], second: [01] |second: [01], local: [01] ' || fail "$(places data)"
same_loss data

echo "== tp=2 x pp=2: tp inside a node, pp across"
train both nodes=2 gpus_per_node=2 tensor_parallel_size=2 pipeline_parallel_size=2
places both | grep -Eq 'local: 0 1, second: 0 1 |second: 0 1, local: 0 1 ' || fail "$(places both)"
same_loss both

echo "== answers while it trains, also where no rank has all of the model"
for job in alone both; do
  "$graft" job logs "$job" | grep -q '  sample, step 10, validation row 1: "user: .*" → "' || fail "no sample of $job"
done

echo "== all weights, dp=2 over two nodes: states divided, weights divided, nothing divided"
for sharding in shard_optimizer=false shard_optimizer=true shard_weights=true; do
  name=all-${sharding%=*}-${sharding#*=}
  "$graft" sft tiny tickets --name "$name" --max-steps 6 --seed 3 --max-seq-length 256 --set parallelism.nodes=2 \
    --set parallelism.gpus_per_node=1 --set parallelism.$sharding >/dev/null 2>&1
  wait_state "$name" COMPLETED
  echo "$name: loss $(last_of "$name" train_loss); $(places "$name")"
done
for other in all-shard_optimizer-true all-shard_weights-true; do
  awk -v a="$(last_of all-shard_optimizer-false train_loss)" -v b="$(last_of $other train_loss)" \
    'BEGIN { d = a - b; if (d < 0) d = -d; exit !(a > 0 && d <= 2e-3 * a) }' || fail "$other ends elsewhere"
done

echo "== a tp group that leaves its node is refused with what would do"
refused "allow_tp_across_nodes" "$graft" lora tiny tickets --name wide --set parallelism.nodes=2 \
  --set parallelism.gpus_per_node=1 --set parallelism.tensor_parallel_size=2
echo "gangs passed"
