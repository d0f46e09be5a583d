#include <algorithm>
#include <utility>
#include <vector>

#include "worker/spec/estimate.h"

namespace graft::spec {
namespace {

// Shorter pieces of a sequence do not hide the ring's communication.
constexpr int64_t kLeastTokensOfContextRank = 2048;

}  // namespace

const std::vector<CardSize>& CardSizes() {
  static const std::vector<CardSize>* const sizes =
      new std::vector<CardSize>{{24, int64_t{24} << 30},
                                {40, int64_t{39} << 30},
                                {80, int64_t{79} << 30},
                                {141, int64_t{139} << 30}};
  return *sizes;
}

LeastGpus CostModel::FindLeastGpus(Tuning tuning, int64_t card_bytes) const {
  const double usable = kUsableShare * static_cast<double>(card_bytes);
  for (int64_t gpus = 1; gpus <= kMostGpus; gpus *= 2) {
    LeastGpus best;
    // A batch that every layout can divide: its size hardly matters to memory.
    const LayoutRequest request{.gpus = gpus, .global_batch = gpus, .gpus_per_nvlink_domain = 8};
    for (const Layout& layout : EnumerateLayouts(spec_, request)) {
      if (layout.cp > 1) continue;
      TrainingPlan plan{.tuning = tuning, .recompute = Recompute::kLayers, .layout = layout};
      plan.global_batch = gpus;
      plan.zero = tuning == Tuning::kAllWeights ? 3 : 0;
      MemoryEstimate memory = Memory(plan);
      if (static_cast<double>(memory.total()) > usable) continue;
      if (best.gpus == 0 || memory.total() < best.memory.total()) {
        best = {gpus, layout, std::move(memory)};
      }
    }
    if (best.gpus > 0) return best;
  }
  return {};
}

std::vector<RankedPlan> CostModel::RankPlans(const TrainingPlan& plan, int64_t gpus,
                                             int64_t card_bytes, const DeviceRates& rates) const {
  const LayoutRequest request{.gpus = gpus,
                              .micro_batch = plan.micro_batch,
                              .global_batch = plan.global_batch,
                              .sequence = plan.sequence,
                              .gpus_per_nvlink_domain = rates.gpus_per_domain};
  const double usable = kUsableShare * static_cast<double>(card_bytes);
  std::vector<RankedPlan> ranked;
  for (const Layout& layout : EnumerateLayouts(spec_, request)) {
    if (layout.cp > 1 && plan.sequence / layout.cp < kLeastTokensOfContextRank) continue;
    TrainingPlan candidate = plan;
    candidate.layout = layout;
    const bool divides = layout.dp * layout.cp > 1 && plan.tuning == Tuning::kAllWeights;
    for (const int zero : divides ? std::vector<int>{1, 3} : std::vector<int>{0}) {
      for (const Recompute recompute : {Recompute::kNone, Recompute::kLayers}) {
        candidate.zero = zero;
        candidate.recompute = recompute;
        MemoryEstimate memory = Memory(candidate);
        if (static_cast<double>(memory.total()) > usable) continue;
        ranked.push_back({candidate, std::move(memory), Step(candidate, rates)});
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
