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
                .account = std::string(workspace),
                .priority = priority,
                .sequence = ++sequence_,
                .gang = {.layout = {.dp = devices}},
                .estimate = estimate});
  }
  void Runs(const std::string& id, const std::string& node, int devices, absl::Time end) {
    for (int d = 0; d < devices; ++d) held_[id].push_back({node, d});
    ASSERT_THAT(cluster_.Take(held_[id], id), IsOk());
    running_.push_back({id, &held_[id], end});
  }
  PassResult Pass() {
    input_.topology = &cluster_.topology();
    input_.running = [this] { return running_; };
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
  std::vector<RunningGang> running_;
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
  running_.clear();
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

TEST(QuotasTest, MoreThanTheGuaranteeIsBorrowedUpToTheCeiling) {
  Quotas quotas;
  quotas.Set("a", 8);
  quotas.Set("b", 8, 12);
  EXPECT_THAT(quotas.Admit("b", 12), IsOk());
  EXPECT_THAT(quotas.Admit("b", 13),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("0 of at most 12")));
  quotas.Charge("b", 12);
  EXPECT_EQ(quotas.Borrowed("b"), 4);
  EXPECT_TRUE(quotas.WithinGuarantee("a", 8));
  EXPECT_TRUE(quotas.Borrows("a", 9));
  EXPECT_THAT(quotas.Admit("a", 9), IsOk());
  EXPECT_THAT(quotas.Admit("c", 1000), IsOk());
  EXPECT_FALSE(quotas.Borrows("c", 1000));
}

TEST_F(QueuePassTest, WhoBorrowsIsServedAfterThoseWhoDoNot) {
  AddNodes(1);
  input_.quotas.Set("v", 4);
  Wait("borrows", 8, 0, "v");
  Wait("younger", 8);
  EXPECT_THAT(Ids(Pass()), ElementsAre("younger"));
}

TEST_F(QueuePassTest, RoomThatWasMadeForAJobIsForNobodyElse) {
  AddNodes(1);
  Runs("leaves", "n0", 4, absl::InfiniteFuture());
  Wait("first", 4, 9);
  Wait("claimant", 8);
  input_.claims.push_back({"claimant", now_, {}});
  for (int d = 0; d < 8; ++d) input_.claims[0].devices.push_back({"n0", d});
  EXPECT_THAT(Ids(Pass()), ElementsAre());
  cluster_.Release(held_["leaves"], "leaves");
  running_.clear();
  EXPECT_THAT(Ids(Pass()), ElementsAre("claimant"));
}

TEST_F(QueuePassTest, AnotherLayoutIsTakenWhereTheBestDoesNotFitNow) {
  AddNodes(2);
  Runs("a", "n0", 1, absl::InfiniteFuture());
  Runs("b", "n1", 1, absl::InfiniteFuture());
  queue_.Add(
      {.id = "j", .sequence = 1, .gang = {.layout = {.tp = 8}}, .other_layouts = {{.tp = 4}}});
  PassResult result = Pass();
  ASSERT_EQ(result.starts.size(), 1u);
  EXPECT_EQ(result.starts[0].layout.tp, 4);
}

TEST_F(QueuePassTest, NodesThatLeaveTooSoonAndThoseItFailedOnAreLastChoices) {
  for (int n = 0; n < 3; ++n) {
    Node node{.name = absl::StrCat("n", n)};
    for (int d = 0; d < 8; ++d) node.devices.push_back({.index = d, .kind = "h100"});
    if (n == 0) node.available_until = now_ + absl::Hours(1);
    cluster_.PutNode(node);
  }
  const auto first_node = [&](std::vector<std::string> rather_not) {
    queue_.Add({.id = "j",
                .sequence = 1,
                .gang = {.layout = {.dp = 8}},
                .rather_not = std::move(rather_not),
                .estimate = absl::Hours(5)});
    const PassResult result = Pass();
    queue_.Remove("j");
    return result.starts.empty() ? "" : result.starts[0].placement.ranks[0].node;
  };
  EXPECT_EQ(first_node({}), "n1");
  EXPECT_EQ(first_node({"n1"}), "n2");
  EXPECT_EQ(first_node({"n1", "n2"}), "n0");  // its checkpoint will be taken before the node leaves
  cluster_.SetSchedulable("n1", false);
  cluster_.SetSchedulable("n2", false);
  EXPECT_EQ(first_node({}), "n0");
}

TEST_F(QueuePassTest, AJobThatMayNotPassWaitsBehindABlockedOne) {
  AddNodes(1);
  Runs("running", "n0", 4, absl::InfiniteFuture());
  Wait("head", 8);
  queue_.Add({.id = "fifo", .sequence = 99, .gang = {}, .passes_others = false});
  EXPECT_THAT(Ids(Pass()), ElementsAre());
  input_.reservations = 0;
  EXPECT_THAT(Ids(Pass()), ElementsAre());
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
  shares.SetHalfLife("a", absl::Hours(2));
  EXPECT_DOUBLE_EQ(shares.Usage("a", start + absl::Hours(2)), 100);
  EXPECT_DOUBLE_EQ(shares.Usage("b", start + absl::Hours(2)), 150);
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
