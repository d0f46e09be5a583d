#include "scheduler/placement/shape.h"

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::scheduler {
namespace {

using ::testing::HasSubstr;

constexpr ModelFacts kLlama8b{
    .parameters = 8'030'000'000, .layers = 32, .heads = 32, .kv_heads = 8, .hidden = 4096};
constexpr ModelFacts kLlama70b{
    .parameters = 70'600'000'000, .layers = 80, .heads = 64, .kv_heads = 8, .hidden = 8192};
constexpr ModelFacts kSmol{
    .parameters = 134'500'000, .layers = 30, .heads = 9, .kv_heads = 3, .hidden = 576};

ClusterView Nodes(int nodes) {
  ClusterView cluster;
  for (int n = 0; n < nodes; ++n) {
    Node node{.name = absl::StrCat("n", n)};
    for (int d = 0; d < 8; ++d) node.devices.push_back({.index = d, .kind = "h100"});
    cluster.PutNode(node);
  }
  return cluster;
}

absl::StatusOr<ShapeChoice> Choose(const ModelFacts& model, const ShapeRequest& request,
                                   int nodes = 4) {
  const ClusterView cluster = Nodes(nodes);
  return ChooseShape(model, request, {}, cluster.topology(), {});
}

TEST(ShapeTest, AnAdapterOfASmallModelIsTrainedByReplicas) {
  GRAFT_ASSERT_OK_AND_ASSIGN(ShapeChoice choice, Choose(kLlama8b, {.devices = 8}));
  EXPECT_EQ(choice.shapes[0].layout, (Layout{.dp = 8}));
  EXPECT_TRUE(choice.shapes[0].starts_now);
  EXPECT_GT(choice.shapes.size(), 1u);  // runners-up
}

TEST(ShapeTest, WithoutANumberTheFewestDevicesThatHoldTheModelAreTaken) {
  GRAFT_ASSERT_OK_AND_ASSIGN(ShapeChoice small, Choose(kLlama8b, {}));
  EXPECT_EQ(small.shapes[0].layout.world(), 1);
  GRAFT_ASSERT_OK_AND_ASSIGN(ShapeChoice large, Choose(kLlama70b, {}));
  EXPECT_GT(large.shapes[0].layout.world(), 1);
  EXPECT_LE(large.shapes[0].layout.world(), 4);
  EXPECT_LE(large.shapes[0].memory_bytes, 0.9 * (80LL << 30));
}

TEST(ShapeTest, AllWeightsOfALargeModelAreDividedInsideNodesFirst) {
  GRAFT_ASSERT_OK_AND_ASSIGN(
      ShapeChoice choice,
      Choose(kLlama70b, {.devices = 32, .global_batch = 64, .trained_share = 1}));
  const Layout& layout = choice.shapes[0].layout;
  EXPECT_LE(layout.tp, 8);
  EXPECT_GE(layout.tp * layout.pp, 4);
}

TEST(ShapeTest, NineHeadsAreDividedByThreeOrNotAtAll) {
  GRAFT_ASSERT_OK_AND_ASSIGN(ShapeChoice choice, Choose(kSmol, {.devices = 6}));
  for (const Shape& shape : choice.shapes) {
    EXPECT_TRUE(shape.layout.tp == 1 || shape.layout.tp == 3) << shape.layout.tp;
  }
  GRAFT_ASSERT_OK_AND_ASSIGN(ShapeChoice pinned, Choose(kSmol, {.devices = 3, .tp = 3}));
  EXPECT_EQ(pinned.shapes[0].layout, (Layout{.tp = 3}));
  EXPECT_THAT(Choose(kSmol, {.devices = 8, .tp = 2}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("3 KV heads")));
}

TEST(ShapeTest, WhatNeverFitsIsRefusedWithItsNumber) {
  EXPECT_THAT(Choose(kLlama70b, {.devices = 1}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("GiB of each device")));
}

TEST(ShapeTest, MoreReplicasOfWhatDoesNotFitAreToldToBeNoHelp) {
  const absl::Status refused = Choose(kLlama70b, {.devices = 8, .tp = 1, .pp = 1}).status();
  EXPECT_THAT(refused,
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       HasSubstr("ranks repeat the weights, so that more of them do not help")));
  GRAFT_ASSERT_OK_AND_ASSIGN(ShapeChoice free, Choose(kLlama70b, {}));
  EXPECT_THAT(refused.message(),
              HasSubstr(absl::StrCat("are ", free.shapes[0].layout.world(), " devices with tp ")));
}

TEST(ShapeTest, ALayoutThatCanStartNowGoesBeforeOneThatCannot) {
  ClusterView cluster = Nodes(2);
  // Three of each four are held: no four are left in one NVLink domain.
  for (const char* node : {"n0", "n1"}) {
    std::vector<DeviceRef> held;
    for (int d = 0; d < 6; ++d) held.push_back({node, d});
    ASSERT_THAT(cluster.Take(held, "r"), IsOk());
  }
  GRAFT_ASSERT_OK_AND_ASSIGN(ShapeChoice choice,
                             ChooseShape(kLlama70b, {.devices = 4}, {}, cluster.topology(), {}));
  EXPECT_TRUE(choice.shapes[0].starts_now);
  EXPECT_LE(choice.shapes[0].layout.tp, 2);
}

TEST(ShapeTest, ExpertsAreDividedWhereTheyDoNotFitWhole) {
  const ModelFacts moe{.parameters = 140'000'000'000,
                       .active_parameters = 39'000'000'000,
                       .layers = 56,
                       .heads = 48,
                       .kv_heads = 8,
                       .hidden = 6144,
                       .experts = 8,
                       .experts_per_token = 2};
  GRAFT_ASSERT_OK_AND_ASSIGN(ShapeChoice choice, Choose(moe, {.devices = 8, .ep = 8}));
  EXPECT_EQ(choice.shapes[0].layout.ep, 8);
  EXPECT_EQ(choice.shapes[0].layout.tp, 1);
}

}  // namespace
}  // namespace graft::scheduler
