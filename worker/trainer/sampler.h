// Chooses a token from logits: greedy, or by temperature with top-k and then top-p, from a
// generator that repeats itself by its seed. Free of torch.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/random.h"

namespace graft::trainer {

struct SampleOptions {
  double temperature = 0;  // 0: the largest logit, the lowest id among equals
  double top_p = 1;
  int64_t top_k = 0;
};

class Sampler {
 public:
  Sampler(const SampleOptions& options, uint64_t seed) : options_(options), random_(seed) {}
  int32_t Choose(const float* logits, int64_t vocab);

 private:
  const SampleOptions options_;
  SeededRandom random_;
  std::vector<std::pair<float, int32_t>> candidates_;
};

}  // namespace graft::trainer
