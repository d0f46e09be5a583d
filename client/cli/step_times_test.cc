#include "client/cli/step_times.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

StepTimes Rank(int number, double work, double communication = 0, double idle = 0,
               double data = 0) {
  return {.rank = number,
          .step = work + communication + idle + data,
          .data = data,
          .forward = work / 3,
          .backward = work / 2,
          .optimizer = work / 6,
          .communication = communication,
          .idle = idle};
}

TEST(VerdictTest, AStepOfArithmeticIsLeftAlone) {
  EXPECT_EQ(Verdict({Rank(0, 0.95, 0.05)}, {}), "95 % of a step is arithmetic; nothing stands out");
}

TEST(VerdictTest, CommunicationNamesTheLayoutThatSpendsLess) {
  const std::vector<StepTimes> ranks = {Rank(0, 0.6, 0.4), Rank(1, 0.6, 0.4)};
  EXPECT_THAT(Verdict(ranks, {.tensor = 8}),
              "40 % of a step is communication: halve tensor_parallel_size to 4 and let "
              "pipeline_parallel_size take the rest");
  EXPECT_THAT(Verdict(ranks, {.data = 2}), HasSubstr("global_batch_size"));
}

TEST(VerdictTest, APipelineThatWaitsWantsMoreMicroBatches) {
  EXPECT_THAT(Verdict({Rank(0, 0.7, 0.05, 0.25), Rank(1, 0.7, 0.05, 0.25)},
                      {.pipeline = 2, .micro_batches = 4}),
              StartsWith("25 % of a step is waiting in the pipeline: 4 micro-batches a step for 2 "
                         "stages, 16 would"));
}

TEST(VerdictTest, RowsThatComeLateAreSeen) {
  EXPECT_THAT(Verdict({Rank(0, 0.8, 0, 0, 0.2)}, {}), StartsWith("20 % of a step is waiting for"));
}

TEST(VerdictTest, ASlowRankComesBeforeWhatTheOthersWaitFor) {
  EXPECT_THAT(Verdict({Rank(0, 0.5, 0.4), Rank(1, 0.5, 0.4), Rank(2, 0.85, 0.05)}, {.data = 3}),
              StartsWith("rank 2 works 1.70 times as long as the median rank"));
}

TEST(VerdictTest, NoSecondsAreNoDivision) {
  EXPECT_EQ(Verdict({StepTimes{}}, {}), "0 % of a step is arithmetic; nothing stands out");
}

}  // namespace
}  // namespace graft::cli
