#include "scheduler/placement/queue_pass.h"

#include <map>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class QueuePassTest : public ::testing::Test {
 protected:
  void AddNodes(int nodes) {
    for (int n = 0; n < nodes; ++n) {
      Node node{.name = absl::StrCat("n", n)};
      for (int d = 0; d < 8; ++d) node.devices.push_back({.index = d, .kind = "h100"});
      cluster_.PutNode(node);
    }
  }
  void Wait(const std::string& id, int devices, int priority = 0, absl::string_view workspace = "w",
            absl::Duration estimate = absl::InfiniteDuration()) {
    queue_.Add({.id = id,
                .workspace = std::string(workspace),
                .priority = priority,
                .sequence = ++sequence_,
                .gang = {.layout = {.dp = devices}},
                .estimate = estimate});
  }
  void Runs(const std::string& id, const std::string& node, int devices, absl::Time end) {
    for (int d = 0; d < devices; ++d) held_[id].push_back({node, d});
    ASSERT_THAT(cluster_.Take(held_[id], id), IsOk());
    input_.running.push_back({id, &held_[id], end});
  }
  PassResult Pass() {
    input_.topology = &cluster_.topology();
    input_.now = now_;
    return RunPass(queue_, input_);
  }
  static std::vector<std::string> Ids(const PassResult& result) {
    std::vector<std::string> ids;
    for (const PassStart& start : result.starts) ids.push_back(start.id);
    return ids;
  }

  absl::Time now_ = absl::FromUnixSeconds(1000);
  ClusterView cluster_;
  WaitingQueue queue_;
  PassInput input_;
  std::map<std::string, std::vector<DeviceRef>> held_;
  int64_t sequence_ = 0;
};

TEST_F(QueuePassTest, PriorityGoesBeforeAge) {
  AddNodes(1);
  Wait("old", 8);
  Wait("urgent", 8, 5);
  EXPECT_THAT(Ids(Pass()), ElementsAre("urgent"));
}

TEST_F(QueuePassTest, TheWorkspaceThatHadLeastGoesFirst) {
  AddNodes(1);
  FairShare shares(absl::Hours(1));
  shares.Charge("greedy", 8, absl::Hours(1), now_);
  input_.shares = &shares;
  Wait("a", 8, 0, "greedy");
  Wait("b", 8, 0, "modest");
  EXPECT_THAT(Ids(Pass()), ElementsAre("b"));
}

TEST_F(QueuePassTest, BackfillNeverTakesTheRoomThatTheHeadWillNeed) {
  AddNodes(2);
  Runs("running", "n0", 8, now_ + absl::Hours(1));
  Wait("head", 16);
  Wait("long", 4, 0, "w", absl::Hours(3));
  Wait("short", 4, 0, "w", absl::Minutes(30));
  const PassResult result = Pass();
  EXPECT_THAT(Ids(result), ElementsAre("short"));
  EXPECT_EQ(result.starts[0].how, "in kept room that it leaves in time");
  ASSERT_GE(result.reservations.size(), 1u);
  EXPECT_EQ(result.reservations[0].id, "head");
  EXPECT_EQ(result.reservations[0].start, now_ + absl::Hours(1));
}

TEST_F(QueuePassTest, OthersStartBesideKeptRoom) {
  AddNodes(3);
  Runs("soon", "n0", 8, now_ + absl::Hours(1));
  Runs("late", "n1", 2, now_ + absl::Hours(9));
  Wait("head", 16);
  Wait("long", 6, 0, "w", absl::Hours(30));
  const PassResult result = Pass();
  EXPECT_THAT(Ids(result), ElementsAre("long"));  // on n1, which the head does not wait for
  EXPECT_EQ(result.starts[0].placement.ranks[0].node, "n1");
}

TEST_F(QueuePassTest, AJobThatNeverFitsKeepsNoRoomFromOthers) {
  AddNodes(1);
  Wait("giant", 64);
  Wait("small", 8);
  EXPECT_THAT(Ids(Pass()), ElementsAre("small"));
}

TEST_F(QueuePassTest, AClassThatDoesNotFitIsTriedOnceAndAgainOnlyWhenSomethingGrows) {
  AddNodes(1);
  Runs("running", "n0", 8, absl::InfiniteFuture());
  for (int i = 0; i < 1000; ++i) Wait(absl::StrCat("j", i), 4);
  EXPECT_EQ(Pass().classes_tried, 1);
  EXPECT_EQ(Pass().classes_skipped, 1);
  cluster_.Release(held_["running"], "running");
  input_.running.clear();
  EXPECT_THAT(Ids(Pass()), ElementsAre("j0", "j1"));
}

TEST_F(QueuePassTest, AQuotaHoldsItsWorkspaceAndNobodyElse) {
  AddNodes(2);
  input_.quotas.Set("w", 4, 4);
  input_.quotas.Set("v", 12);
  Wait("a", 4);
  Wait("b", 4);
  Wait("c", 8, 0, "v");
  EXPECT_THAT(Ids(Pass()), ElementsAre("a", "c"));
}

TEST(QuotasTest, WhatOthersLeaveIsLentAndCanBeReclaimed) {
  Quotas quotas;
  quotas.Set("a", 8);
  quotas.Set("b", 8, 12);
  EXPECT_THAT(quotas.Admit("b", 12), IsOk());
  EXPECT_THAT(quotas.Admit("b", 13),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("0 of at most 12")));
  quotas.Charge("b", 12);
  EXPECT_EQ(quotas.Borrowed("b"), 4);
  EXPECT_TRUE(quotas.WithinGuarantee("a", 8));
  EXPECT_THAT(quotas.Admit("a", 8), IsOk());
  EXPECT_THAT(quotas.Admit("a", 9),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("leave 4 to borrow")));
  EXPECT_THAT(quotas.Admit("c", 1000), IsOk());
}

TEST(FairShareTest, UsageHalvesWithEachHalfLife) {
  const absl::Time start = absl::FromUnixSeconds(0);
  FairShare shares(absl::Hours(1));
  shares.Charge("a", 2, absl::Seconds(100), start);
  EXPECT_DOUBLE_EQ(shares.Usage("a", start + absl::Hours(2)), 50);
  shares.SetWeight("b", 3);
  shares.Charge("b", 6, absl::Seconds(100), start);
  EXPECT_DOUBLE_EQ(shares.Level("a", start), shares.Level("b", start));
  EXPECT_NEAR(shares.Deficit("a", start), 0, 1e-12);
  EXPECT_DOUBLE_EQ(shares.Usage("a", start - absl::Hours(5)), 200);  // a clock that jumps back
}

// The pass starts what a walk over every single job would start.
TEST_F(QueuePassTest, ClassesStartWhatAWalkOverEveryJobStarts) {
  AddNodes(6);
  SeededRandom random(3);
  std::vector<std::pair<std::string, int>> jobs;
  for (int i = 0; i < 60; ++i) {
    jobs.push_back({absl::StrCat("j", i), 1 + static_cast<int>(random.Uniform(12))});
    Wait(jobs.back().first, jobs.back().second);
  }
  input_.reservations = 0;
  Topology left = cluster_.topology();
  std::vector<std::string> expected;
  for (const auto& [id, devices] : jobs) {
    const std::optional<Placement> placement = TryPlace(left, {.layout = {.dp = devices}});
    if (!placement.has_value()) continue;
    left.Take(placement->ranks);
    expected.push_back(id);
  }
  EXPECT_EQ(Ids(Pass()), expected);
}

}  // namespace
}  // namespace graft::scheduler
