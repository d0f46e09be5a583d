#include "scheduler/placement/victims.h"

#include <algorithm>
#include <map>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/tier.h"

namespace graft::scheduler {
namespace {

using ::testing::ElementsAre;

class VictimsTest : public ::testing::Test {
 protected:
  void AddNodes(int nodes) {
    for (int n = 0; n < nodes; ++n) {
      Node node{.name = absl::StrCat("n", n), .rack = absl::StrCat("r", n / 2)};
      for (int d = 0; d < 4; ++d) node.devices.push_back({.index = d, .kind = "h100"});
      cluster_.PutNode(node);
    }
  }
  VictimCandidate& Runs(const std::string& id, std::vector<DeviceRef> ranks, double since) {
    GRAFT_CHECK_OK(cluster_.Take(ranks, id));
    held_[id] = std::move(ranks);
    candidates_.push_back({.id = id,
                           .ranks = &held_[id],
                           .started = absl::FromUnixSeconds(0),
                           .seconds_since_checkpoint = since});
    return candidates_.back();
  }
  bool Choose() { return ChooseVictims(cluster_.topology(), request_, candidates_, chosen_); }

  ClusterView cluster_;
  std::map<std::string, std::vector<DeviceRef>> held_;
  std::vector<VictimCandidate> candidates_;
  PreemptionRequest request_{
      .gang = {.layout = {.tp = 4}}, .priority = 5, .now = absl::FromUnixSeconds(1000)};
  Victims chosen_;
};

TEST_F(VictimsTest, TheCheapestDomainIsFreedAndNotTheCheapestGangs) {
  AddNodes(2);
  Runs("a0", {{"n0", 0}, {"n0", 1}}, 10);
  Runs("a1", {{"n0", 2}, {"n0", 3}}, 900);
  Runs("b0", {{"n1", 0}, {"n1", 1}}, 100);
  Runs("b1", {{"n1", 2}, {"n1", 3}}, 200);
  ASSERT_TRUE(Choose());
  EXPECT_THAT(chosen_.ids, ElementsAre("b0", "b1"));
  EXPECT_DOUBLE_EQ(chosen_.cost, 2 * 160 + 2 * 260);
}

TEST_F(VictimsTest, EqualPriorityIsNeverStoppedUnlessItBorrowsWhatIsReclaimed) {
  AddNodes(1);
  Runs("same", {{"n0", 0}}, 10).priority = 5;
  EXPECT_FALSE(Choose());
  candidates_[0].borrows = true;
  EXPECT_FALSE(Choose());
  request_.reclaims = true;
  ASSERT_TRUE(Choose());
  EXPECT_THAT(chosen_.ids, ElementsAre("same"));
}

TEST_F(VictimsTest, ABorrowerStopsNobodyWhoIsGuaranteedWhatHeHolds) {
  AddNodes(1);
  Runs("low", {{"n0", 0}}, 10).guaranteed = true;
  request_.borrows = true;
  EXPECT_FALSE(Choose());
  candidates_[0].guaranteed = false;
  EXPECT_TRUE(Choose());
}

TEST_F(VictimsTest, GangsThatHaveJustStartedOrMayNotBeStoppedAreLeftAlone) {
  AddNodes(1);
  Runs("young", {{"n0", 0}}, 0).started = absl::FromUnixSeconds(990);
  candidates_[0].min_run_time = absl::Seconds(60);
  EXPECT_FALSE(Choose());
  candidates_[0].started = absl::FromUnixSeconds(0);
  candidates_[0].preemptible = false;
  EXPECT_FALSE(Choose());
}

TEST_F(VictimsTest, NobodyIsStoppedForAGangThatFits) {
  AddNodes(2);
  Runs("a", {{"n0", 0}}, 0);
  ASSERT_TRUE(Choose());
  EXPECT_TRUE(chosen_.ids.empty());
}

// Against every subset of the candidates.
TEST(VictimsPropertyTest, VictimsAreEnoughAndNoneCanBeLeftOutAndTheyAreSeldomDear) {
  double cost = 0, least = 0;
  for (int seed = 0; seed < testing::ByTier(400, 4000, 40000); ++seed) {
    SeededRandom random(static_cast<uint64_t>(seed));
    ClusterView cluster;
    for (int n = 0; n < 4; ++n) {
      Node node{.name = absl::StrCat("n", n), .rack = absl::StrCat("r", n / 2)};
      for (int d = 0; d < 4; ++d) node.devices.push_back({.index = d, .kind = "h100"});
      cluster.PutNode(node);
    }
    std::map<std::string, std::vector<DeviceRef>> held;
    std::vector<VictimCandidate> candidates;
    for (int i = 0; i < 8; ++i) {
      const std::string id = absl::StrCat("j", i);
      const GangRequest gang{.layout = {.tp = 1 + static_cast<int>(random.Uniform(3)),
                                        .dp = 1 + static_cast<int>(random.Uniform(2))}};
      const std::optional<Placement> placement = TryPlace(cluster.topology(), gang);
      if (!placement.has_value()) continue;
      held[id] = placement->ranks;
      GRAFT_CHECK_OK(cluster.Take(held[id], id));
      candidates.push_back({.id = id,
                            .ranks = &held[id],
                            .priority = static_cast<int>(random.Uniform(4)),
                            .seconds_since_checkpoint = static_cast<double>(random.Uniform(1000))});
    }
    const PreemptionRequest request{.gang = {.layout = {.tp = 4, .dp = 1 + seed % 2}},
                                    .priority = 3};
    Victims chosen;
    const bool found = ChooseVictims(cluster.topology(), request, candidates, chosen);
    double best = -1;
    for (uint32_t subset = 0; subset < (1u << candidates.size()); ++subset) {
      Topology later = cluster.topology();
      double sum = 0;
      bool allowed = true;
      std::vector<std::string> ids;
      for (size_t i = 0; i < candidates.size(); ++i) {
        if ((subset >> i & 1) == 0) continue;
        allowed &= candidates[i].priority < 3;
        later.Release(*candidates[i].ranks);
        sum += candidates[i].cost();
        ids.push_back(candidates[i].id);
      }
      if (!allowed || !TryPlace(later, request.gang).has_value()) continue;
      if (best < 0 || sum < best) best = sum;
      // A proper subset of what was chosen is never enough.
      if (found && ids.size() < chosen.ids.size()) {
        ASSERT_FALSE(std::includes(chosen.ids.begin(), chosen.ids.end(), ids.begin(), ids.end()))
            << "seed " << seed;
      }
    }
    ASSERT_EQ(found, best >= 0) << "seed " << seed;
    if (!found) continue;
    ASSERT_GE(chosen.cost, best - 1e-6);
    cost += chosen.cost;
    least += best;
  }
  EXPECT_LT(cost, 1.05 * least);
}

}  // namespace
}  // namespace graft::scheduler
