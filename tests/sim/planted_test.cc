#include "scheduler/core/planted.h"

#include <cstdio>

#include "gtest/gtest.h"
#include "tests/sim/planted.h"
#include "tests/sim/simulation.h"
#include "tests/support/tier.h"

namespace graft::scheduler {
namespace {

constexpr uint64_t kSeeds = 1000;

class PlantedTest : public ::testing::TestWithParam<PlantedBug> {};

TEST_P(PlantedTest, IsFoundBySimulation) {
  planted_bug = GetParam().number;
  uint64_t seed = GetParam().seed;
  SimulationResult result;
  if (graft::testing::CurrentTier() == graft::testing::Tier::kDefault) {
    result = Simulation({.seed = seed}).Run();
  }
  if (result.broken.empty()) seed = 0;
  while (result.broken.empty() && seed < kSeeds) result = Simulation({.seed = ++seed}).Run();
  planted_bug = 0;
  EXPECT_NE(result.broken, "") << GetParam().what << " was not found";
  std::printf("bug %d (%s): seed %d: %s\n", GetParam().number, GetParam().what.c_str(),
              static_cast<int>(seed), result.broken.c_str());
}

INSTANTIATE_TEST_SUITE_P(Bugs, PlantedTest, ::testing::ValuesIn(PlantedBugs()),
                         [](const auto& info) { return std::to_string(info.param.number); });

TEST(PlantedTest, WithoutABugNothingIsFound) {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    EXPECT_EQ(Simulation({.seed = seed}).Run().broken, "") << seed;
  }
}

}  // namespace
}  // namespace graft::scheduler
