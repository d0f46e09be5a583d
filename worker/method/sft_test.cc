#include "worker/method/sft.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::method {
namespace {

// Two rows of 4 and 1 tokens in a micro-batch that is filled up to 6.
TEST(SftTest, NoiseIsWeakerInLongRowsAndNoneWhereNothingStands) {
  data::MicroBatch micro;
  micro.segment_starts = {0, 4, 5};
  const auto of_four = static_cast<float>(5 / std::sqrt(4.0 * 16));
  const auto of_one = static_cast<float>(5 / std::sqrt(1.0 * 16));
  EXPECT_THAT(NoiseOf(micro, /*alpha=*/5, /*hidden=*/16, /*rows=*/6),
              ::testing::ElementsAre(of_four, of_four, of_four, of_four, of_one, 0.0f));
}

}  // namespace
}  // namespace graft::method
