// The jobs of the placement benchmarks: sizes and lengths as clusters see them, drawn from a seed.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <random>

#include "scheduler/placement/placement.h"

namespace graft::scheduler {

struct TraceJob {
  double submit = 0;  // seconds
  double length = 0;
  Layout layout;

  int devices() const { return layout.world(); }
};

class TraceSource {
 public:
  explicit TraceSource(uint32_t seed) : random_(seed) {}

  // Shares of sizes: most jobs are small, most device-hours are not. Lengths are lognormal around
  // an hour, cut at 83 hours.
  TraceJob Next(double mean_gap) {
    static constexpr std::array<int, 12> kSizes = {1,  2,   4,   8,   16,   32,
                                                   64, 128, 256, 512, 1024, 2048};
    now_ += std::exponential_distribution<double>(1 / mean_gap)(random_);
    const int devices = kSizes[static_cast<size_t>(size_(random_))];
    const double length = std::lognormal_distribution<double>(std::log(3600), 1.2)(random_);
    return {.submit = now_,
            .length = std::min(length, 3e5),
            .layout = {.tp = std::min(devices, 8), .dp = std::max(1, devices / 8)}};
  }

  uint64_t Uniform(uint64_t bound) { return random_() % bound; }

 private:
  // The standard's own generator: the trace that published figures were measured on is made by it.
  std::mt19937 random_;
  std::discrete_distribution<int> size_{30, 10, 12, 22, 8, 7, 5, 3, 1.6, 0.9, 0.35, 0.15};
  double now_ = 0;
};

}  // namespace graft::scheduler
