#include "worker/spec/stages.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace graft::spec {

std::vector<std::pair<int64_t, int64_t>> BalanceLayers(const std::vector<double>& costs,
                                                       double first, double last, int64_t stages) {
  const int64_t layers = static_cast<int64_t>(costs.size());
  GRAFT_CHECK(stages >= 1 && stages <= layers) << stages << " stages of " << layers << " layers";
  std::vector<double> sums(costs.size() + 1, 0.0);
  for (int64_t i = 0; i < layers; ++i) sums[i + 1] = sums[i] + costs[i];
  const auto cost = [&](int64_t stage, int64_t begin, int64_t end) {
    return sums[end] - sums[begin] + (stage == 0 ? first : 0) + (stage == stages - 1 ? last : 0);
  };
  // best[s][n]: the slowest of the first s stages over the first n layers.
  const double none = std::numeric_limits<double>::infinity();
  std::vector<std::vector<double>> best(stages + 1, std::vector<double>(layers + 1, none));
  std::vector<std::vector<int64_t>> cut(stages + 1, std::vector<int64_t>(layers + 1, 0));
  best[0][0] = 0;
  for (int64_t s = 1; s <= stages; ++s) {
    for (int64_t n = s; n <= layers; ++n) {
      for (int64_t begin = s - 1; begin < n; ++begin) {
        const double slowest = std::max(best[s - 1][begin], cost(s - 1, begin, n));
        if (slowest < best[s][n]) {
          best[s][n] = slowest;
          cut[s][n] = begin;
        }
      }
    }
  }
  std::vector<std::pair<int64_t, int64_t>> ranges(static_cast<size_t>(stages));
  int64_t end = layers;
  for (int64_t s = stages; s >= 1; --s) {
    ranges[static_cast<size_t>(s - 1)] = {cut[s][end], end};
    end = cut[s][end];
  }
  return ranges;
}

LayerCosts CostsOf(const DecoderSpec& spec, int64_t sequence, double supervised_share) {
  LayerCosts costs;
  const double hidden = static_cast<double>(spec.hidden);
  const double attention = hidden * static_cast<double>(2 * spec.q_width() + 2 * spec.kv_width());
  for (const LayerSpec& layer : spec.layers) {
    const double seen = static_cast<double>(
        layer.sliding_window > 0 ? std::min(layer.sliding_window, sequence) : sequence / 2);
    const bool gated = layer.moe ? spec.moe.expert.gated : spec.mlp.gated;
    const double inside =
        layer.moe ? static_cast<double>(spec.moe.experts_per_token * spec.moe.expert_ffn +
                                        spec.moe.shared_ffn)
                  : static_cast<double>(layer.ffn);
    costs.layers.push_back(attention + hidden * inside * (gated ? 3 : 2) +
                           2 * seen * static_cast<double>(spec.q_width()));
  }
  costs.head = hidden * static_cast<double>(spec.vocab) * supervised_share;
  return costs;
}

std::vector<std::pair<int64_t, int64_t>> CutLayers(const DecoderSpec& spec, int64_t sequence,
                                                   double supervised_share, int64_t parts) {
  const LayerCosts costs = CostsOf(spec, sequence, supervised_share);
  return BalanceLayers(costs.layers, 0, costs.head, parts);
}

}  // namespace graft::spec
