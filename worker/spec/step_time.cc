#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/match.h"
#include "worker/spec/estimate.h"

namespace graft::spec {
namespace {

// Of scores and their use: a causal token sees half of its segment, or its window.
double AttentionFlops(const DecoderSpec& spec, const TrainingPlan& plan) {
  const AttentionSpec& a = spec.attention;
  const double length =
      static_cast<double>(plan.effective_length > 0 ? plan.effective_length : plan.sequence);
  double sum = 0;
  for (const LayerSpec& layer : spec.layers) {
    double seen = length / 2;
    if (layer.sliding_window > 0) {
      seen = std::min(seen, static_cast<double>(layer.sliding_window));
    }
    sum += 2 * seen * static_cast<double>(a.heads * (a.head_dim + a.value_dim));
  }
  return sum;  // of a forward
}

// Tensor-parallel products get slimmer and slower, and so do those of few tokens.
double Efficiency(const DecoderSpec& spec, const TrainingPlan& plan, double tokens,
                  const DeviceRates& rates) {
  const double slice = static_cast<double>(spec.hidden) / static_cast<double>(plan.layout.tp);
  return rates.matmul_efficiency * std::min(1.0, 0.6 + 0.4 * slice / 1024) *
         std::min(1.0, 0.5 + 0.5 * tokens / 2048);
}

double BandwidthOf(int64_t consecutive, const DeviceRates& rates) {
  return consecutive <= rates.gpus_per_domain ? rates.nvlink_bandwidth : rates.network_bandwidth;
}

double AdapterNumbers(const std::vector<CostModel::Linear>& linears, const TrainingPlan& plan) {
  double sum = 0;
  for (const CostModel::Linear& linear : linears) {
    const bool adapted = plan.targets.empty() || std::find(plan.targets.begin(), plan.targets.end(),
                                                           linear.role) != plan.targets.end();
    if (adapted) sum += static_cast<double>(plan.lora_rank) * (linear.in + linear.out);
  }
  return sum;
}

// The share of a ring collective's bytes that crosses a link.
double RingShare(int64_t ranks) {
  return static_cast<double>(ranks - 1) / static_cast<double>(ranks);
}

}  // namespace

double CostModel::FlopsPerToken(const TrainingPlan& plan) const {
  const double forward = 2 * multiplied_;
  const double attention = AttentionFlops(spec_, plan);
  const bool all = plan.tuning == Tuning::kAllWeights;
  // Forward and the gradient of the input; that of the weights where they are trained.
  double flops = forward * (all ? 3 : 2) + attention * 3.5;
  if (!all) flops += 6 * AdapterNumbers(linears_, plan);
  if (plan.recompute == Recompute::kLayers) flops += forward + attention;
  return flops;
}

StepTime CostModel::Step(const TrainingPlan& plan, const DeviceRates& rates) const {
  const Layout& l = plan.layout;
  const double bytes = BytesPerNumber(plan.compute);
  const double h = static_cast<double>(spec_.hidden);
  const double layers = static_cast<double>(spec_.num_layers()) / static_cast<double>(l.pp);
  const double micro_batches = std::max(
      1.0, static_cast<double>(plan.global_batch) / static_cast<double>(plan.micro_batch * l.dp));
  // Of a micro-batch on one rank.
  const double tokens =
      static_cast<double>(plan.micro_batch * plan.sequence) / static_cast<double>(l.cp);
  const double passes = plan.recompute == Recompute::kLayers ? 3 : 2;
  StepTime t;
  t.compute = micro_batches * tokens * FlopsPerToken(plan) / static_cast<double>(l.tp * l.pp) /
              (rates.matmul_flops * Efficiency(spec_, plan, tokens, rates));
  if (l.tp > 1) {  // two gathers and two scatters of a layer's stream in each pass
    t.tensor_parallel = micro_batches * layers * passes * 4 * tokens * h * bytes * RingShare(l.tp) /
                        BandwidthOf(l.tp, rates);
  }
  if (l.cp > 1) {  // keys and values around the ring, and their gradients back
    const double kv = 2 * static_cast<double>(spec_.kv_width()) / static_cast<double>(l.tp);
    t.context_parallel = micro_batches * layers * (passes + 1) * static_cast<double>(l.cp - 1) *
                         tokens * kv * bytes / BandwidthOf(l.tp * l.cp, rates);
  }
  if (l.ep > 1) {  // dispatch and combine
    t.expert_parallel = micro_batches * layers * passes * 2 *
                        static_cast<double>(spec_.moe.experts_per_token) * tokens * h * bytes *
                        RingShare(l.ep) / BandwidthOf(l.tp * l.ep, rates);
  }
  const double held = static_cast<double>(parameters_) / static_cast<double>(l.tp * l.pp * l.ep);
  const int64_t replicas = l.dp * l.cp;
  if (replicas > 1) {
    const double bandwidth = BandwidthOf(l.tp * replicas, rates);
    const bool all = plan.tuning == Tuning::kAllWeights;
    const double trained =
        all ? held : AdapterNumbers(linears_, plan) / static_cast<double>(l.tp * l.pp);
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

}  // namespace graft::spec
