// The tier of this test run, from which a test takes its counts: default (every change), full
// (every count that is promised) or soak (no limit). tests/run.sh sets it.
#pragma once

#include <cstdlib>
#include <string>

namespace graft::testing {

enum class Tier { kDefault, kFull, kSoak };

inline Tier CurrentTier() {
  const char* tier = std::getenv("GRAFT_TIER");
  const std::string name = tier == nullptr ? "default" : tier;
  if (name == "full") return Tier::kFull;
  if (name == "soak") return Tier::kSoak;
  return Tier::kDefault;
}

// The count for the current tier.
inline int ByTier(int in_default, int in_full, int in_soak) {
  switch (CurrentTier()) {
    case Tier::kFull:
      return in_full;
    case Tier::kSoak:
      return in_soak;
    default:
      return in_default;
  }
}

}  // namespace graft::testing
