#include "worker/trainer/sampler.h"

#include <algorithm>
#include <cmath>

namespace graft::trainer {

int32_t Sampler::Choose(const float* logits, int64_t vocab) {
  if (options_.temperature <= 0) {
    return static_cast<int32_t>(std::max_element(logits, logits + vocab) - logits);
  }
  candidates_.resize(static_cast<size_t>(vocab));
  for (int64_t i = 0; i < vocab; ++i) candidates_[i] = {logits[i], static_cast<int32_t>(i)};
  const auto larger = [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  };
  const int64_t keep = options_.top_k > 0 ? std::min<int64_t>(options_.top_k, vocab) : vocab;
  std::partial_sort(candidates_.begin(), candidates_.begin() + keep, candidates_.end(), larger);
  candidates_.resize(static_cast<size_t>(keep));
  double sum = 0;
  std::vector<double> weights(candidates_.size());
  for (size_t i = 0; i < weights.size(); ++i) {
    weights[i] = std::exp((candidates_[i].first - candidates_[0].first) / options_.temperature);
    sum += weights[i];
  }
  // The shortest head of the distribution that holds top_p of it; at least one.
  size_t last = weights.size();
  if (options_.top_p < 1) {
    double seen = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      seen += weights[i];
      if (seen >= options_.top_p * sum) {
        last = i + 1;
        sum = seen;
        break;
      }
    }
  }
  double at = random_.UniformDouble() * sum;
  for (size_t i = 0; i < last; ++i) {
    at -= weights[i];
    if (at < 0) return candidates_[i].second;
  }
  return candidates_[last - 1].second;
}

}  // namespace graft::trainer
