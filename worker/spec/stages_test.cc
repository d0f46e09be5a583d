#include "worker/spec/stages.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::spec {
namespace {

using ::testing::ElementsAre;

TEST(StagesTest, LayersAreDealtByCostWithTheHeadCounted) {
  const std::vector<double> alike(30, 1.0);
  EXPECT_THAT(BalanceLayers(alike, 0, 0, 2),
              ElementsAre(std::make_pair(0, 15), std::make_pair(15, 30)));
  // A head worth eight layers takes them from the last stage.
  EXPECT_THAT(BalanceLayers(alike, 0, 8, 2),
              ElementsAre(std::make_pair(0, 19), std::make_pair(19, 30)));
  EXPECT_THAT(BalanceLayers({5, 1, 1, 1, 1, 1}, 0, 0, 2),
              ElementsAre(std::make_pair(0, 1), std::make_pair(1, 6)));
  // Every stage has a layer, however heavy the head is.
  EXPECT_THAT(BalanceLayers({1, 1}, 0, 100, 2),
              ElementsAre(std::make_pair(0, 1), std::make_pair(1, 2)));
}

}  // namespace
}  // namespace graft::spec
