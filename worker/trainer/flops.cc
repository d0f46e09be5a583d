#include "worker/trainer/flops.h"

namespace graft::trainer {
namespace {

double LinearFlops(const model::LinearGroup& group) {
  const double weights = static_cast<double>(group.in) * static_cast<double>(group.out);
  double flops = (group.weight_grad != nullptr ? 6 : 4) * weights;
  for (const model::Adapter& adapter : group.adapters) {
    flops += 6.0 * static_cast<double>(adapter.a->elements() + adapter.b->elements());
  }
  return flops;
}

}  // namespace

double StepFlops(const spec::DecoderSpec& spec, model::Decoder& decoder,
                 const data::StepBatch& batch) {
  double per_token = 0;
  for (const auto& layer : decoder.layers()) {
    for (const model::LinearGroup* group : layer->Groups()) per_token += LinearFlops(*group);
    if (layer->moe == nullptr) continue;
    // A token passes a few of the experts.
    double experts = 0;
    for (const auto* list : {&layer->moe->gate_up, &layer->moe->down}) {
      for (const model::LinearGroup& group : *list) experts += LinearFlops(group);
    }
    per_token -= experts * (1 - static_cast<double>(spec.moe.experts_per_token) /
                                    static_cast<double>(spec.moe.experts));
  }
  double total = 0;
  const double head = (decoder.head().weight_grad != nullptr ? 6.0 : 4.0) *
                      static_cast<double>(spec.vocab) * static_cast<double>(spec.hidden);
  // Scores and sums, forward 1 and backward 2.5 times, half of the square (causal).
  const double per_pair =
      3.5 * 4 * 0.5 * static_cast<double>(spec.q_width()) * static_cast<double>(spec.num_layers());
  for (const data::MicroBatch& micro : batch.micro_batches) {
    total += per_token * static_cast<double>(micro.tokens.size());
    total += head * static_cast<double>(micro.supervised_tokens);
    for (int i = 0; i < micro.segments(); ++i) {
      const double length = micro.segment_starts[i + 1] - micro.segment_starts[i];
      total += per_pair * length * length;
    }
  }
  return total;
}

}  // namespace graft::trainer
