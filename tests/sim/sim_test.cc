// GRAFT_SEED=n runs that one seed and prints its trace.
#include <cstdio>
#include <cstdlib>

#include "gtest/gtest.h"
#include "tests/sim/simulation.h"
#include "tests/support/tier.h"

namespace graft::scheduler {
namespace {

TEST(SimulationTest, NoSeedBreaksAnInvariant) {
  const char* only = std::getenv("GRAFT_SEED");
  const int seeds = graft::testing::ByTier(200, 1000, 10'000);
  int completed = 0, restarts = 0, failed_commits = 0;
  for (int i = 1; i <= (only == nullptr ? seeds : 1); ++i) {
    const uint64_t seed = only == nullptr ? i : std::strtoull(only, nullptr, 10);
    const SimulationResult result = Simulation({.seed = seed}).Run();
    ASSERT_EQ(result.broken, "") << "seed " << seed << "\n" << result.trace;
    if (only != nullptr) {
      std::printf("%s\nseed %s: trace hash %016llx\n", result.trace.c_str(), only,
                  static_cast<unsigned long long>(result.trace_hash));
    }
    completed += result.completed;
    restarts += result.restarts;
    failed_commits += result.failed_commits;
  }
  std::printf("%d jobs completed, %d restarts of the scheduler, %d failed commits\n", completed,
              restarts, failed_commits);
  if (only == nullptr) {
    EXPECT_GT(completed, seeds * 10) << "the clusters hardly did anything";
    EXPECT_GT(restarts, seeds / 2);
  }
}

TEST(SimulationTest, ASeedReplaysToTheSameTrace) {
  for (uint64_t seed : {3, 17}) {
    EXPECT_EQ(Simulation({.seed = seed}).Run().trace_hash,
              Simulation({.seed = seed}).Run().trace_hash);
  }
}

}  // namespace
}  // namespace graft::scheduler
