#include "worker/parallel/topology.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::parallel {
namespace {

using ::testing::ElementsAre;

constexpr spec::Layout kAll = {.tp = 2, .pp = 2, .cp = 2, .dp = 3};

TEST(TopologyTest, EveryRankHasAPlaceOfItsOwnAndTensorRanksAreNeighbours) {
  for (int64_t rank = 0; rank < kAll.world(); ++rank) {
    EXPECT_EQ(RankOf(kAll, PlaceOf(kAll, rank)), rank);
  }
  EXPECT_THAT(TensorRanks(kAll, 5), ElementsAre(4, 5));
  EXPECT_THAT(ContextRanks(kAll, 5), ElementsAre(5, 7));
  EXPECT_THAT(DataRanks(kAll, 5), ElementsAre(1, 5, 9));
  EXPECT_THAT(PipelineRanks(kAll, 5), ElementsAre(5, 17));
}

TEST(TopologyTest, HoldersAreThoseThatHaveTheSameNumbers) {
  EXPECT_THAT(HolderRanks(kAll, 5, 1, false), ElementsAre(1, 3, 5, 7, 9, 11));
  EXPECT_EQ(HolderRanks(kAll, 5, 2, false).size(), 12u);
  EXPECT_THAT(HolderRanks({.tp = 2, .pp = 3}, 0, 1, true), ElementsAre(0, 4));
  // A stage in the middle has no embedding.
  EXPECT_THAT(HolderRanks({.tp = 2, .pp = 3}, 3, 1, true), ElementsAre(3));
  EXPECT_THAT(HolderRanks({.tp = 4}, 2, 2, false), ElementsAre(2, 3));
}

TEST(TopologyTest, ExpertsAreSharedByNeighboursAndHeldAlikeAcrossThem) {
  const spec::Layout layout = {.pp = 2, .cp = 2, .dp = 2, .ep = 2};
  EXPECT_THAT(ExpertRanks(layout, 2), ElementsAre(2, 3));
  EXPECT_THAT(ExpertHolderRanks(layout, 2), ElementsAre(0, 2));
  EXPECT_THAT(ExpertRanks({.dp = 4, .ep = 4}, 1), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(ExpertHolderRanks({.dp = 4, .ep = 4}, 1), ElementsAre(1));
}

TEST(TopologyTest, RanksAreWrittenAsRanges) {
  EXPECT_EQ(RanksText({0, 1, 2, 3, 6}), "0-3, 6");
  EXPECT_EQ(RanksText({4, 5}), "4, 5");
}

}  // namespace
}  // namespace graft::parallel
