// The scheduler dies at every step of a job's life, and its disk is full at every turn: what was
// acknowledged is there, nothing starts twice, and all comes to its end. Simulation checks that.
#include <algorithm>
#include <cstdio>

#include "gtest/gtest.h"
#include "tests/sim/simulation.h"
#include "tests/support/tier.h"

namespace graft::scheduler {
namespace {

struct CrashPoint {
  const char* name;
  Milestone at;
};

class CrashTest : public ::testing::TestWithParam<CrashPoint> {};

TEST_P(CrashTest, LosesAndDoublesNothing) {
  const int seeds = graft::testing::ByTier(3, 20, 200);
  for (const bool committed : {false, true}) {
    int crashed = 0;
    for (int seed = 1; crashed < seeds && seed <= 10 * seeds; ++seed) {
      const SimulationResult result =
          Simulation({.seed = static_cast<uint64_t>(seed),
                      .crash = Crash{.at = GetParam().at, .committed = committed}})
              .Run();
      ASSERT_EQ(result.broken, "") << "seed " << seed << "\n" << result.trace;
      crashed += result.crashed ? 1 : 0;
    }
    EXPECT_EQ(crashed, seeds) << "the step was hardly ever taken";
    std::printf(
        "{\"bench\":\"scheduler\",\"metric\":\"crash_%s_%s\",\"crashes\":%d,\"broken\":0}\n",
        committed ? "after" : "before", GetParam().name, crashed);
  }
}

INSTANTIATE_TEST_SUITE_P(Steps, CrashTest,
                         ::testing::Values(CrashPoint{"submit", Milestone::kSubmitted},
                                           CrashPoint{"place", Milestone::kPlaced},
                                           CrashPoint{"start", Milestone::kRunning},
                                           CrashPoint{"preempt", Milestone::kPreempted},
                                           CrashPoint{"checkpoint", Milestone::kCheckpointed},
                                           CrashPoint{"complete", Milestone::kCompleted}),
                         [](const auto& info) { return info.param.name; });

// Every Nth turn in turn finds the disk full; no other fault happens.
TEST(FullDiskTest, AtAnyTurnNothingAcknowledgedIsLostAndItGoesOnByItself) {
  const SimulationOptions quiet{
      .jobs = 8, .chaos = absl::ZeroDuration(), .healing = absl::Minutes(40)};
  const int turns = Simulation(quiet).Run().turns;
  const int step = std::max(1, turns / graft::testing::ByTier(40, 1000, 100'000));
  int refused = 0;
  for (int at = 1; at <= turns; at += step) {
    SimulationOptions full = quiet;
    full.full_at_turn = at;
    const SimulationResult result = Simulation(full).Run();
    ASSERT_EQ(result.broken, "") << "turn " << at << "\n" << result.trace;
    refused += result.failed_commits;
  }
  EXPECT_GT(refused, 0);
  std::printf(
      "{\"bench\":\"scheduler\",\"metric\":\"disk_full\",\"turns\":%d,\"refused\":%d,\"lost\":0}\n",
      turns, refused);
}

}  // namespace
}  // namespace graft::scheduler
