// What the parity tests, whose models are small, do not see.
#include "worker/model/kernels.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"

namespace graft::model::kernels {
namespace {

// A model that is nearly sure: one logit stands out, and the many others together still weigh.
TEST(CrossEntropyRowTest, ManySmallSharesOfALargeVocabularyAreNotRoundedAway) {
  constexpr int64_t kVocab = 49152, kTarget = 321;
  constexpr float kOthers =
      -18.5f;  // 9e-9 of the largest each, below half a unit of its last place
  std::vector<float> logits(kVocab, kOthers);
  logits[kTarget] = 0;
  const double others = static_cast<double>(kVocab - 1) * std::exp(static_cast<double>(kOthers));
  EXPECT_NEAR(CrossEntropyRow(logits.data(), kVocab, kTarget, 1, 0) / std::log1p(others), 1, 1e-3);
}

TEST(SumExponentialsTest, CountsWhatStandsBehindTheLastWholeBlock) {
  for (const int64_t vocab : {1, 31, 1024, 1025, 3000, 4096 + 33}) {
    const std::vector<float> logits(static_cast<size_t>(vocab), 2.0f);
    const ExponentialSum sum = SumExponentials(logits.data(), vocab, 1);
    EXPECT_EQ(sum.largest, 2.0f);
    EXPECT_EQ(sum.sum, static_cast<float>(vocab));
  }
}

}  // namespace
}  // namespace graft::model::kernels
