// How long something took, by a clock that nobody sets.
#pragma once

#include <chrono>

namespace graft::trainer {

using SteadyClock = std::chrono::steady_clock;

inline double SecondsSince(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

}  // namespace graft::trainer
