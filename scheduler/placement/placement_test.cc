#include "scheduler/placement/placement.h"

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::scheduler {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

ClusterView Nodes(int nodes, int devices, int devices_per_domain = 8) {
  ClusterView cluster;
  for (int n = 0; n < nodes; ++n) {
    Node node{.name = absl::StrCat("n", n)};
    for (int d = 0; d < devices; ++d) {
      node.devices.push_back({.index = d,
                              .kind = "h100",
                              .memory_bytes = 80LL << 30,
                              .nvlink_domain = absl::StrCat("n", n, "/", d / devices_per_domain)});
    }
    cluster.PutNode(node);
  }
  return cluster;
}

TEST(PlaceTest, ASmallGangTakesTheTightestDomain) {
  ClusterView cluster = Nodes(2, 8);
  ASSERT_THAT(cluster.Take({{"n1", 0}, {"n1", 1}, {"n1", 2}, {"n1", 3}, {"n1", 4}}, "a"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement, Place(cluster, {.layout = {.tp = 2}}));
  EXPECT_THAT(placement.ranks, ElementsAre(DeviceRef{"n1", 5}, DeviceRef{"n1", 6}));
}

TEST(PlaceTest, PipelineStagesCrossNodesAndTpGroupsDoNot) {
  ClusterView cluster = Nodes(2, 4);
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement, Place(cluster, {.layout = {.tp = 4, .pp = 2}}));
  for (int rank = 0; rank < 8; ++rank) {
    EXPECT_EQ(placement.ranks[rank].node, placement.ranks[rank / 4 * 4].node);
  }
  EXPECT_THAT(placement.Nodes(), ElementsAre("n0", "n1"));
}

TEST(PlaceTest, ATpGroupNeverLeavesItsDomainThoughEnoughDevicesAreFree) {
  ClusterView cluster = Nodes(2, 4);
  ASSERT_THAT(cluster.Take({{"n0", 0}, {"n1", 0}}, "a"), IsOk());
  EXPECT_THAT(Place(cluster, {.layout = {.tp = 4}}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("6 of 8")));
  EXPECT_THAT(FitsEmptyCluster(cluster, {.layout = {.tp = 4}}), IsOk());
  EXPECT_THAT(FitsEmptyCluster(cluster, {.layout = {.tp = 8}}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("largest has 4")));
}

TEST(PlaceTest, CordonedNodesAreLeftOut) {
  ClusterView cluster = Nodes(2, 1);
  cluster.SetSchedulable("n0", false);
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement, Place(cluster, {}));
  EXPECT_THAT(placement.ranks, ElementsAre(DeviceRef{"n1", 0}));
}

TEST(ClusterViewTest, TakeGivesAllOrNothing) {
  ClusterView cluster = Nodes(1, 2);
  ASSERT_THAT(cluster.Take({{"n0", 1}}, "a"), IsOk());
  EXPECT_THAT(cluster.Take({{"n0", 0}, {"n0", 1}}, "b"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("held by a")));
  EXPECT_EQ(cluster.Find("n0")->devices[0].holder, "");
  cluster.Release({{"n0", 1}}, "b");
  EXPECT_EQ(cluster.Find("n0")->devices[1].holder, "a");
}

}  // namespace
}  // namespace graft::scheduler
