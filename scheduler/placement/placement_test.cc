#include "scheduler/placement/placement.h"

#include <string>
#include <vector>

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
  EXPECT_THAT(placement.ranks, ElementsAre(DeviceRef{"n1", 6}, DeviceRef{"n1", 7}));
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

TEST(PlaceTest, AGangStandsOnAsManyNodesAsItNames) {
  ClusterView cluster = Nodes(3, 2);
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement,
                             Place(cluster, {.layout = {.dp = 2}, .nodes = 2}));
  EXPECT_THAT(placement.ranks, ElementsAre(DeviceRef{"n0", 0}, DeviceRef{"n1", 0}));
  ASSERT_THAT(cluster.Take({{"n1", 0}}, "a"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(placement, Place(cluster, {.layout = {.tp = 2, .pp = 2}, .nodes = 2}));
  EXPECT_THAT(placement.Nodes(), ElementsAre("n0", "n2"));
  GRAFT_ASSERT_OK_AND_ASSIGN(placement, Place(cluster, {.layout = {.dp = 2}, .nodes = 1}));
  EXPECT_THAT(placement.Nodes(), ElementsAre("n0"));
  EXPECT_THAT(Place(cluster, {.layout = {.dp = 6}, .nodes = 3}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("2 on each of 3 nodes")));
  EXPECT_THAT(Place(cluster, {.layout = {.dp = 3}, .nodes = 2}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("do not divide over 2")));
  EXPECT_THAT(FitsEmptyCluster(cluster, {.layout = {.dp = 4}, .nodes = 1}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("leave nodes out")));
  EXPECT_THAT(FitsEmptyCluster(cluster, {.layout = {.tp = 2}, .nodes = 2}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("use tp 1 with pp 2, or allow_tp_across_nodes")));
}

TEST(PlaceTest, TheTpThatWouldDoFitsADomain) {
  const ClusterView pairs = Nodes(2, 4, 2);
  EXPECT_THAT(FitsEmptyCluster(pairs, {.layout = {.tp = 4, .dp = 2}, .nodes = 2}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("use tp 2 with pp 2")));
  const ClusterView sixes = Nodes(2, 6);
  EXPECT_THAT(FitsEmptyCluster(sixes, {.layout = {.tp = 8}}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("use tp 4 with pp 2")));
}

TEST(PlaceTest, ANodeGivesItsShareFromSeveralDomains) {
  ClusterView cluster = Nodes(2, 8, 2);
  ASSERT_THAT(cluster.Take({{"n0", 1}, {"n0", 3}}, "a"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement,
                             Place(cluster, {.layout = {.tp = 2, .dp = 4}, .nodes = 2}));
  EXPECT_THAT(
      placement.ranks,
      ElementsAre(DeviceRef{"n0", 4}, DeviceRef{"n0", 5}, DeviceRef{"n0", 6}, DeviceRef{"n0", 7},
                  DeviceRef{"n1", 0}, DeviceRef{"n1", 1}, DeviceRef{"n1", 2}, DeviceRef{"n1", 3}));
  EXPECT_THAT(Place(cluster, {.layout = {.tp = 2, .dp = 6}, .nodes = 2}),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST(PlaceTest, ATpGroupMaySpanNodesOfOneDomain) {
  ClusterView cluster;
  for (int n = 0; n < 4; ++n) {
    Node node{.name = absl::StrCat("n", n)};
    for (int d = 0; d < 4; ++d) {
      node.devices.push_back(
          {.index = d, .kind = "gb200", .nvlink_domain = absl::StrCat("rack", n / 2)});
    }
    cluster.PutNode(node);
  }
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement,
                             Place(cluster, {.layout = {.tp = 8}, .nodes = 2}));
  EXPECT_THAT(placement.Nodes(), ElementsAre("n0", "n1"));
  EXPECT_EQ(placement.domains, 1);
  ASSERT_THAT(cluster.Take({{"n1", 0}, {"n2", 0}}, "a"), IsOk());
  EXPECT_THAT(Place(cluster, {.layout = {.tp = 8}, .nodes = 2}),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

// An EP group that is wider than every domain stays in a leaf, but not in one of its racks.
TEST(PlaceTest, AnExpertGroupSpreadsOverTheRacksOfALeaf) {
  ClusterView cluster;
  for (int n = 0; n < 4; ++n) {
    Node node{.name = absl::StrCat("n", n), .rack = absl::StrCat("r", n / 3), .rail_group = "leaf"};
    for (int d = 0; d < 2; ++d) node.devices.push_back({.index = d, .kind = "h100"});
    cluster.PutNode(node);
  }
  EXPECT_THAT(Place(cluster, {.layout = {.dp = 8, .ep = 8}}), IsOk());
  EXPECT_THAT(Place(cluster, {.layout = {.dp = 8, .ep = 8}, .nodes = 4}), IsOk());
}

TEST(PlaceTest, CordonedNodesAreLeftOut) {
  ClusterView cluster = Nodes(2, 1);
  cluster.SetSchedulable("n0", false);
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement, Place(cluster, {}));
  EXPECT_THAT(placement.ranks, ElementsAre(DeviceRef{"n1", 0}));
}

// Spines of two racks of two nodes of eight.
ClusterView Fabric(int spines) {
  ClusterView cluster;
  for (int n = 0; n < spines * 4; ++n) {
    Node node{.name = absl::StrCat("n", n / 10, n % 10),
              .rack = absl::StrCat("r", n / 2),
              .spine = absl::StrCat("s", n / 4)};
    for (int d = 0; d < 8; ++d) {
      node.devices.push_back({.index = d, .kind = "h100", .memory_bytes = 80LL << 30});
    }
    cluster.PutNode(node);
  }
  return cluster;
}

void Hold(ClusterView& cluster, const std::string& node, int devices) {
  std::vector<DeviceRef> refs;
  for (int d = 0; d < devices; ++d) refs.push_back({node, d});
  ASSERT_THAT(cluster.Take(refs, "other"), IsOk());
}

TEST(PlaceTest, TheNarrowestSwitchThatHoldsTheGangIsTaken) {
  ClusterView cluster = Fabric(2);
  Hold(cluster, "n00", 1);
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement rack, Place(cluster, {.layout = {.tp = 8, .pp = 2}}));
  EXPECT_EQ(rack.level, Level::kRack);
  EXPECT_THAT(rack.Nodes(), ElementsAre("n02", "n03"));  // the spine that is used already
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement spine, Place(cluster, {.layout = {.tp = 8, .dp = 3}}));
  EXPECT_EQ(spine.level, Level::kSpine);
  EXPECT_THAT(spine.Nodes(), ElementsAre("n01", "n02", "n03"));
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement core, Place(cluster, {.layout = {.tp = 8, .dp = 5}}));
  EXPECT_EQ(core.level, Level::kCluster);
}

TEST(PlaceTest, MaxLevelIsKept) {
  const ClusterView cluster = Fabric(2);
  EXPECT_THAT(Place(cluster, {.layout = {.tp = 8, .dp = 3}, .max_level = Level::kRack}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("inside one rack")));
  EXPECT_THAT(FitsEmptyCluster(cluster, {.layout = {.tp = 8, .dp = 3}, .max_level = Level::kRack}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("wider max_level")));
  GRAFT_ASSERT_OK_AND_ASSIGN(
      Placement node, Place(cluster, {.layout = {.tp = 2, .dp = 3}, .max_level = Level::kNode}));
  EXPECT_EQ(node.Nodes().size(), 1u);
}

TEST(PlaceTest, WholeStagesGoToEachRackSoThatOnlyThePipelineCrosses) {
  ClusterView cluster = Fabric(1);
  // Two stages of 8: n00 and n02 have 4 free each beside two whole nodes.
  Hold(cluster, "n00", 4);
  Hold(cluster, "n02", 4);
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement,
                             Place(cluster, {.layout = {.tp = 4, .dp = 2, .pp = 2}}));
  EXPECT_EQ(placement.crossings, 1);
  EXPECT_THAT(placement.Nodes(), ElementsAre("n01", "n03"));
  for (int rank = 0; rank < 8; ++rank) EXPECT_EQ(placement.ranks[rank].node, "n01");
}

TEST(PlaceTest, PeersOfTwoNodesStandOnTheSameRail) {
  const ClusterView cluster = Fabric(2);
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement,
                             Place(cluster, {.layout = {.tp = 2, .dp = 4, .pp = 4}}));
  for (int rank = 0; rank + 8 < 32; ++rank) {
    EXPECT_EQ(placement.ranks[rank].device, placement.ranks[rank + 8].device) << rank;
    EXPECT_NE(placement.ranks[rank].node, placement.ranks[rank + 8].node) << rank;
  }
}

TEST(PlaceTest, NineHeadsInGroupsOfThreeLeaveTwoDevicesOfEachNode) {
  ClusterView cluster = Nodes(2, 8);
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement, Place(cluster, {.layout = {.tp = 3, .dp = 4}}));
  ASSERT_THAT(cluster.Take(placement.ranks, "a"), IsOk());
  EXPECT_THAT(Place(cluster, {.layout = {.tp = 3}}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("4 of 16")));
  EXPECT_THAT(Place(cluster, {.layout = {.tp = 2, .dp = 2}}), IsOk());
}

TEST(PlaceTest, AFragmentedNvlinkDomainIsNotCountedTwice) {
  ClusterView cluster = Nodes(1, 8, 4);
  ASSERT_THAT(cluster.Take({{"n0", 0}, {"n0", 5}}, "a"), IsOk());
  EXPECT_THAT(Place(cluster, {.layout = {.tp = 4}}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("at most 3")));
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement, Place(cluster, {.layout = {.tp = 3, .dp = 2}}));
  EXPECT_THAT(Validate(cluster, {.layout = {.tp = 3, .dp = 2}}, placement), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(
      Placement split, Place(cluster, {.layout = {.tp = 4}, .allow_tp_across_domains = true}));
  EXPECT_EQ(split.unit, 2);
}

TEST(PlaceTest, AnExpertGroupStaysInADomainElseInALeafElseIsRefused) {
  const ClusterView cluster = Fabric(2);
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement in, Place(cluster, {.layout = {.dp = 16, .ep = 8}}));
  EXPECT_EQ(in.unit, 8);
  const GangRequest leaf{.layout = {.dp = 32, .ep = 16}};
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement wide, Place(cluster, leaf));
  EXPECT_THAT(Validate(cluster, leaf, wide), IsOk());
  EXPECT_THAT(FitsEmptyCluster(cluster, {.layout = {.dp = 32, .ep = 32}}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("EP groups of 32")));
}

TEST(PlaceTest, ACpGroupStaysInADomainWhereItCanAndIsSplitWhereItCannot) {
  ClusterView cluster = Nodes(2, 4);
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement whole, Place(cluster, {.layout = {.tp = 2, .cp = 2}}));
  EXPECT_EQ(whole.Nodes().size(), 1u);
  ASSERT_THAT(cluster.Take({{"n0", 0}, {"n0", 1}, {"n1", 0}, {"n1", 1}}, "a"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement split, Place(cluster, {.layout = {.tp = 2, .cp = 2}}));
  EXPECT_EQ(split.unit, 2);
  EXPECT_EQ(split.Nodes().size(), 2u);
}

TEST(PlaceTest, ADomainThatSpansNodesHoldsATpGroupAcrossThem) {
  ClusterView cluster;
  for (int n = 0; n < 4; ++n) {
    Node node{.name = absl::StrCat("n", n)};
    for (int d = 0; d < 4; ++d) {
      node.devices.push_back({.index = d, .kind = "gb200", .nvlink_domain = "nvl16"});
    }
    if (n == 2) node.labels["tray"] = "lower";
    cluster.PutNode(node);
  }
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement, Place(cluster, {.layout = {.tp = 16}}));
  EXPECT_EQ(placement.level, Level::kDomain);
  EXPECT_THAT(Place(cluster, {.layout = {.tp = 8}, .max_level = Level::kNode}),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST(PlaceTest, SlicesOfCardsCarryRanksButNoTpGroups) {
  ClusterView cluster;
  Node node{.name = "n0"};
  for (int d = 0; d < 4; ++d) {
    node.devices.push_back({.index = d, .kind = "h100-3g", .memory_bytes = 40, .card = d / 2});
  }
  cluster.PutNode(node);
  ASSERT_THAT(cluster.Take({{"n0", 2}}, "a"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement one, Place(cluster, {}));
  EXPECT_THAT(one.ranks, ElementsAre(DeviceRef{"n0", 3}));  // the other card stays whole
  EXPECT_THAT(Place(cluster, {.layout = {.tp = 2}}),
              StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(Place(cluster, {.layout = {.dp = 2}}), IsOk());
}

TEST(PlaceTest, NodesThatLeaveTooSoonAreLeftOut) {
  ClusterView cluster = Nodes(2, 1);
  Node leaving = *cluster.Find("n0");
  leaving.available_until = absl::FromUnixSeconds(100);
  cluster.PutNode(leaving);
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement late,
                             Place(cluster, {.needed_until = absl::FromUnixSeconds(200)}));
  EXPECT_THAT(late.Nodes(), ElementsAre("n1"));
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement soon,
                             Place(cluster, {.needed_until = absl::FromUnixSeconds(50)}));
  EXPECT_THAT(soon.Nodes(), ElementsAre("n0"));
}

TEST(PlaceTest, ALabelThatNamesEveryNodeIsAnsweredFromThoseNodes) {
  ClusterView cluster;
  for (int n = 0; n < 200; ++n) {
    cluster.PutNode({.name = absl::StrCat("n", n),
                     .devices = {{.index = 0, .kind = "h100"}},
                     .labels = {{"host", absl::StrCat("n", n)}, {"zone", n % 2 ? "a" : "b"}}});
  }
  EXPECT_LE(cluster.topology().pools().size(), 2u);
  GRAFT_ASSERT_OK_AND_ASSIGN(Placement placement, Place(cluster, {.labels = {{"host", "n117"}}}));
  EXPECT_THAT(placement.Nodes(), ElementsAre("n117"));
  EXPECT_THAT(Place(cluster, {.labels = {{"host", "n117"}, {"zone", "b"}}}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("0 of 0")));
}

TEST(ValidateTest, WhatChangedSinceThePlacementWasFoundIsNamed) {
  ClusterView cluster = Fabric(1);
  const GangRequest request{.layout = {.tp = 8, .dp = 2}, .max_level = Level::kRack};
  GRAFT_ASSERT_OK_AND_ASSIGN(const Placement placement, Place(cluster, request));
  EXPECT_THAT(Validate(cluster, request, placement), IsOk());
  const auto broken = [&](absl::string_view why) {
    return StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(std::string(why)));
  };
  ClusterView lost = cluster;
  lost.RemoveNode("n01");
  EXPECT_THAT(Validate(lost, request, placement), broken("n01 is not there"));
  ClusterView cordoned = cluster;
  cordoned.SetSchedulable("n00", false);
  EXPECT_THAT(Validate(cordoned, request, placement), broken("n00 takes no jobs"));
  ClusterView held = cluster;
  Hold(held, "n00", 1);
  EXPECT_THAT(Validate(held, request, placement), broken("held by other"));
  ClusterView moved = cluster;
  Node node = *cluster.Find("n01");
  node.rack = "elsewhere";
  moved.PutNode(node);
  EXPECT_THAT(Validate(moved, request, placement), broken("leaves its rack"));
  GangRequest four = request;
  four.nodes = 4;
  EXPECT_THAT(Validate(cluster, four, placement), broken("wants 4"));
  Placement torn = placement;
  std::swap(torn.ranks[0], torn.ranks[8]);
  EXPECT_THAT(Validate(cluster, request, torn), broken("TP group of rank 0"));
}

TEST(ClusterViewTest, ALostNodeTakesItsDevicesAwayAndBringsThemBack) {
  ClusterView cluster = Nodes(2, 8);
  Hold(cluster, "n0", 2);
  const Node node = *cluster.Find("n0");
  cluster.SetSchedulable("n0", false);
  EXPECT_THAT(Place(cluster, {.layout = {.tp = 2, .dp = 5}}),
              StatusIs(absl::StatusCode::kResourceExhausted));
  cluster.Release({{"n0", 0}, {"n0", 1}}, "other");  // its ranks end after it is lost
  cluster.RemoveNode("n0");
  cluster.PutNode(node);
  cluster.SetSchedulable("n0", true);
  EXPECT_THAT(Place(cluster, {.layout = {.tp = 2, .dp = 7}}), IsOk());
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
