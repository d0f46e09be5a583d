#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "worker/spec/estimate.h"

namespace graft::spec {
namespace {

double BytesPerNumber(DType type) {
  return static_cast<double>(BlockBytes(type)) / static_cast<double>(BlockElements(type));
}

// Numbers of the matrices that one token is multiplied with. Rows of an embedding are looked up,
// not multiplied, unless they are the head.
double MultipliedNumbers(const ModelDescription& model) {
  double sum = 0;
  for (const Parameter& p : model.parameters) {
    if (p.shape.size() == 1 || p.name == "positions.weight") continue;
    if (p.name == "embed.weight" && !model.spec.tied_embeddings) continue;
    double n = static_cast<double>(p.elements());
    if (absl::StrContains(p.name, ".moe.experts.")) {
      n *= static_cast<double>(model.spec.moe.experts_per_token) /
           static_cast<double>(model.spec.moe.experts);
    }
    sum += n;
  }
  return sum;
}

double AdapterNumbers(const ModelDescription& model, const TrainingPlan& plan) {
  double sum = 0;
  for (const HubLinear& linear : HubLinears(model)) {
    sum += static_cast<double>(plan.lora_rank * (linear.in + linear.out));
  }
  return sum;
}

// Of scores and their use: a causal token sees half of its segment, or its window.
double AttentionFlops(const ModelDescription& model, const TrainingPlan& plan) {
  const AttentionSpec& a = model.spec.attention;
  const double length =
      static_cast<double>(plan.effective_length > 0 ? plan.effective_length : plan.sequence);
  double sum = 0;
  for (const LayerSpec& layer : model.spec.layers) {
    double seen = length / 2;
    if (layer.sliding_window > 0) {
      seen = std::min(seen, static_cast<double>(layer.sliding_window));
    }
    sum += 2 * seen * static_cast<double>(a.heads * (a.head_dim + a.value_dim));
  }
  return sum;  // of a forward
}

// Tensor-parallel products get slimmer and slower.
double Efficiency(const TrainingPlan& plan, const ModelDescription& model,
                  const DeviceRates& rates) {
  const double slice = static_cast<double>(model.spec.hidden) / static_cast<double>(plan.layout.tp);
  return rates.matmul_efficiency * std::min(1.0, 0.6 + 0.4 * slice / 1024);
}

double BandwidthOf(int64_t consecutive, const DeviceRates& rates) {
  return consecutive <= rates.gpus_per_domain ? rates.nvlink_bandwidth : rates.network_bandwidth;
}

// The share of a ring collective's bytes that crosses a link.
double RingShare(int64_t ranks) {
  return static_cast<double>(ranks - 1) / static_cast<double>(ranks);
}

}  // namespace

double FlopsPerToken(const ModelDescription& model, const TrainingPlan& plan) {
  const double forward = 2 * MultipliedNumbers(model);
  const double attention = AttentionFlops(model, plan);
  const bool all = plan.tuning == Tuning::kAllWeights;
  // Forward and the gradient of the input; that of the weights where they are trained.
  double flops = forward * (all ? 3 : 2) + attention * 3.5;
  if (!all) flops += 6 * AdapterNumbers(model, plan);
  if (plan.recompute == Recompute::kLayers) flops += forward + attention;
  return flops;
}

StepTime EstimateStep(const ModelDescription& model, const TrainingPlan& plan,
                      const DeviceRates& rates) {
  const Layout& l = plan.layout;
  const double bytes = BytesPerNumber(plan.compute);
  const double h = static_cast<double>(model.spec.hidden);
  const double layers = static_cast<double>(model.spec.num_layers()) / static_cast<double>(l.pp);
  const double micro_batches = std::max(
      1.0, static_cast<double>(plan.global_batch) / static_cast<double>(plan.micro_batch * l.dp));
  // Of a micro-batch on one rank.
  const double tokens =
      static_cast<double>(plan.micro_batch * plan.sequence) / static_cast<double>(l.cp);
  const double passes = plan.recompute == Recompute::kLayers ? 3 : 2;
  StepTime t;
  t.compute = micro_batches * tokens * FlopsPerToken(model, plan) /
              static_cast<double>(l.tp * l.pp) /
              (rates.matmul_flops * Efficiency(plan, model, rates));
  if (l.tp > 1) {  // two gathers and two scatters of a layer's stream in each pass
    t.tensor_parallel = micro_batches * layers * passes * 4 * tokens * h * bytes * RingShare(l.tp) /
                        BandwidthOf(l.tp, rates);
  }
  if (l.cp > 1) {  // keys and values around the ring, and their gradients back
    const double kv = 2 * static_cast<double>(model.spec.kv_width()) / static_cast<double>(l.tp);
    t.context_parallel = micro_batches * layers * (passes + 1) * static_cast<double>(l.cp - 1) *
                         tokens * kv * bytes / BandwidthOf(l.tp * l.cp, rates);
  }
  if (l.ep > 1) {  // dispatch and combine
    t.expert_parallel = micro_batches * layers * passes * 2 *
                        static_cast<double>(model.spec.moe.experts_per_token) * tokens * h * bytes *
                        RingShare(l.ep) / BandwidthOf(l.tp * l.ep, rates);
  }
  const double held =
      static_cast<double>(model.facts.parameters) / static_cast<double>(l.tp * l.pp * l.ep);
  const int64_t replicas = l.dp * l.cp;
  if (replicas > 1) {
    const double bandwidth = BandwidthOf(l.tp * replicas, rates);
    const bool all = plan.tuning == Tuning::kAllWeights;
    const double trained =
        all ? held : AdapterNumbers(model, plan) / static_cast<double>(l.tp * l.pp);
    t.data_parallel = 2 * trained * 4 * RingShare(replicas) / bandwidth;
    if (plan.zero >= 3) {  // weights are gathered for each pass of each micro-batch
      t.data_parallel += micro_batches * passes * held * bytes * RingShare(replicas) / bandwidth;
    }
    // All but the last micro-batch's backward hides it.
    t.data_parallel = std::max(0.0, t.data_parallel - 0.5 * t.compute);
  }
  if (l.pp > 1) {
    t.pipeline = 2 * micro_batches * tokens * h * bytes / BandwidthOf(l.world(), rates) /
                 static_cast<double>(l.tp);
    const double stages = static_cast<double>(l.pp);
    t.bubble = (t.compute + t.tensor_parallel + t.context_parallel + t.expert_parallel) *
               (stages - 1) / micro_batches;
  }
  return t;
}

std::vector<RankedPlan> RankPlans(const ModelDescription& model, const TrainingPlan& plan,
                                  int64_t gpus, int64_t card_bytes, const DeviceRates& rates) {
  const LayoutRequest request{.gpus = gpus,
                              .micro_batch = plan.micro_batch,
                              .global_batch = plan.global_batch,
                              .sequence = plan.sequence,
                              .gpus_per_nvlink_domain = rates.gpus_per_domain};
  const double usable = kUsableShare * static_cast<double>(card_bytes);
  std::vector<RankedPlan> ranked;
  for (const Layout& layout : EnumerateLayouts(model.spec, request)) {
    TrainingPlan candidate = plan;
    candidate.layout = layout;
    const bool divides = layout.dp * layout.cp > 1 && plan.tuning == Tuning::kAllWeights;
    for (const int zero : divides ? std::vector<int>{1, 3} : std::vector<int>{0}) {
      for (const Recompute recompute : {Recompute::kNone, Recompute::kLayers}) {
        candidate.zero = zero;
        candidate.recompute = recompute;
        MemoryEstimate memory = EstimateMemory(model, candidate);
        if (static_cast<double>(memory.total()) > usable) continue;
        ranked.push_back({candidate, std::move(memory), EstimateStep(model, candidate, rates)});
        break;  // making layers again only costs time once it fits
      }
    }
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const RankedPlan& a, const RankedPlan& b) {
    return a.step.total() < b.step.total();
  });
  return ranked;
}

}  // namespace graft::spec
