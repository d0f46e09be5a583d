#include "worker/data/dataset/batches.h"

#include <cmath>
#include <cstdlib>
#include <map>
#include <set>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace graft::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kMaxSeqLength = 64;

// Rows of digits, one token each: the completion of row i is as long as `lengths[i]`.
class BatchesTest : public ::testing::Test {
 protected:
  static TokenizedDataset Make(const std::vector<int>& lengths) {
    std::string pattern = ::testing::TempDir() + "/batches_XXXXXX";
    EXPECT_NE(mkdtemp(pattern.data()), nullptr);
    std::string rows;
    for (const int length : lengths) {
      absl::StrAppend(&rows, "{\"prompt\":\"12\",\"completion\":\"", std::string(length, '3'),
                      "\"}\n");
    }
    const std::string path = JoinPath(pattern, "rows.jsonl");
    EXPECT_THAT(WriteFileAtomically(path, rows, {.sync = false}), IsOk());
    auto tokenizer = Tokenizer::FromJson(
        R"({"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Split","pattern":{"Regex":)"
        R"("\\d"},"behavior":"Isolated","invert":false},"post_processor":null,"decoder":null,)"
        R"("model":{"type":"WordLevel","unk_token":"1","vocab":{"1":1,"2":2,"3":3}}})");
    EXPECT_THAT(tokenizer, IsOk());
    auto dataset = Dataset::Open({path}, {});
    EXPECT_THAT(dataset, IsOk());
    auto tokens = TokenizeDataset(*dataset, **tokenizer,
                                  {.eos_token_id = 0, .max_seq_length = kMaxSeqLength});
    EXPECT_THAT(tokens, IsOk());
    EXPECT_THAT(RemoveTree(pattern), IsOk());
    return *std::move(tokens);
  }
  static TokenizedDataset MakeRandom(int rows, uint64_t seed = 1) {
    SeededRandom random(seed);
    std::vector<int> lengths(rows);
    for (int& length : lengths) length = 1 + static_cast<int>(random.Uniform(40));
    return Make(lengths);
  }
  static PlanOptions Options() {
    PlanOptions options;
    options.seed = 11;
    options.max_seq_length = kMaxSeqLength;
    return options;
  }
  // The rows of a step over all ranks, in order.
  static std::multiset<std::pair<int, int>> RowsOf(const BatchPlan& plan, int64_t step) {
    std::multiset<std::pair<int, int>> rows;
    for (int rank = 0; rank < plan.options().dp_size; ++rank) {
      for (const MicroBatch& micro : plan.Step(step, rank).micro_batches) {
        for (int i = 0; !micro.filler && i < micro.segments(); ++i) {
          rows.insert({micro.datasets[i], micro.sequences[i]});
        }
      }
    }
    return rows;
  }
};

TEST_F(BatchesTest, AMicroBatchIsSegmentsWithPositionsResetAndShiftedTargets) {
  const TokenizedDataset data = Make({2, 1});
  PlanOptions options = Options();
  options.shuffle = false;
  options.global_batch_size = 2;
  GRAFT_ASSERT_OK_AND_ASSIGN(const BatchPlan plan, BatchPlan::Create({{&data}}, options));
  const StepBatch step = plan.Step(0, 0);
  ASSERT_EQ(step.micro_batches.size(), 1u);
  const MicroBatch& micro = step.micro_batches[0];
  EXPECT_THAT(micro.tokens, ElementsAre(1, 2, 3, 3, 0, 1, 2, 3, 0));
  EXPECT_THAT(micro.positions, ElementsAre(0, 1, 2, 3, 4, 0, 1, 2, 3));
  const int32_t no = kIgnoreTarget;
  EXPECT_THAT(micro.targets, ElementsAre(no, 3, 3, 0, no, no, 3, 0, no));
  EXPECT_THAT(micro.segment_starts, ElementsAre(0, 5, 9));
  EXPECT_EQ(micro.supervised_tokens, 5);
  EXPECT_EQ(step.supervised_tokens, 5);
  EXPECT_EQ(micro.max_segment, 5);
}

TEST_F(BatchesTest, EveryRowIsSeenOncePerEpoch) {
  const TokenizedDataset data = MakeRandom(37);
  PlanOptions options = Options();
  options.epochs = 3;
  options.dp_size = 2;
  GRAFT_ASSERT_OK_AND_ASSIGN(const BatchPlan plan, BatchPlan::Create({{&data}}, options));
  EXPECT_EQ(plan.steps(), (3 * 37 + 7) / 8);
  std::map<int, int> seen;
  for (int64_t step = 0; step < plan.steps(); ++step) {
    for (const auto& [dataset, row] : RowsOf(plan, step)) ++seen[row];
  }
  ASSERT_EQ(seen.size(), 37u);
  for (const auto& [row, count] : seen) EXPECT_EQ(count, 3) << row;
  EXPECT_EQ(plan.FirstStepOfEpoch(1), 5);
}

TEST_F(BatchesTest, HowAStepIsCutUpNeverShowsInItsRowsOrItsDenominator) {
  const TokenizedDataset data = MakeRandom(50);
  GRAFT_ASSERT_OK_AND_ASSIGN(const BatchPlan reference, BatchPlan::Create({{&data}}, Options()));
  for (const bool packing : {false, true}) {
    for (const int dp : {1, 2, 4, 7}) {
      for (const int micro : {1, 2, 3}) {
        PlanOptions options = Options();
        options.packing = packing;
        options.dp_size = dp;
        options.micro_batch_size = micro;
        GRAFT_ASSERT_OK_AND_ASSIGN(const BatchPlan plan, BatchPlan::Create({{&data}}, options));
        ASSERT_EQ(plan.steps(), reference.steps());
        for (int64_t step = 0; step < plan.steps(); ++step) {
          EXPECT_EQ(RowsOf(plan, step), RowsOf(reference, step));
          int64_t supervised = 0;
          size_t passes = plan.Step(step, 0).micro_batches.size();
          for (int rank = 0; rank < dp; ++rank) {
            const StepBatch batch = plan.Step(step, rank);
            EXPECT_EQ(batch.micro_batches.size(), passes);
            EXPECT_EQ(batch.supervised_tokens, reference.Step(step, 0).supervised_tokens);
            for (const MicroBatch& m : batch.micro_batches) {
              supervised += m.supervised_tokens;
              EXPECT_LE(m.tokens.size(), static_cast<size_t>(micro) * kMaxSeqLength);
              EXPECT_TRUE(packing || m.segments() <= micro);
            }
          }
          EXPECT_EQ(supervised, reference.Step(step, 0).supervised_tokens);
        }
      }
    }
  }
}

TEST_F(BatchesTest, AnyStepCanBeHadAtOnceAndAgain) {
  const TokenizedDataset data = MakeRandom(60);
  GRAFT_ASSERT_OK_AND_ASSIGN(const BatchPlan a, BatchPlan::Create({{&data}}, Options()));
  GRAFT_ASSERT_OK_AND_ASSIGN(const BatchPlan b, BatchPlan::Create({{&data}}, Options()));
  for (int64_t step = 0; step < a.steps(); ++step) a.Step(step, 0);
  EXPECT_EQ(a.Step(5, 0).micro_batches[0].tokens, b.Step(5, 0).micro_batches[0].tokens);
  PlanOptions other = Options();
  other.seed = 12;
  GRAFT_ASSERT_OK_AND_ASSIGN(const BatchPlan c, BatchPlan::Create({{&data}}, other));
  EXPECT_NE(RowsOf(a, 0), RowsOf(c, 0));
}

TEST_F(BatchesTest, PackingSavesPassesAndShowsBothCounts) {
  const TokenizedDataset data = MakeRandom(80);
  GRAFT_ASSERT_OK_AND_ASSIGN(const BatchPlan plan, BatchPlan::Create({{&data}}, Options()));
  const BatchPlan::Cost cost = plan.EstimateCost();
  EXPECT_EQ(cost.steps_packed, cost.steps_unpacked);
  EXPECT_EQ(cost.micro_batches_unpacked, 80);
  EXPECT_LT(cost.micro_batches_packed, 40);
  EXPECT_GT(cost.mean_fill, 0.7);
}

TEST_F(BatchesTest, WeightsMixDatasetsExactly) {
  const TokenizedDataset main = MakeRandom(40, 2);
  const TokenizedDataset replay = MakeRandom(100, 3);
  PlanOptions options = Options();
  options.epochs = 10;
  GRAFT_ASSERT_OK_AND_ASSIGN(const BatchPlan plan,
                             BatchPlan::Create({{&main, 1.0}, {&replay, 0.1}}, options));
  EXPECT_EQ(plan.examples_per_epoch(), 50);
  std::map<std::pair<int, int>, int> seen;
  for (int64_t step = 0; step < plan.steps(); ++step) {
    for (const auto& row : RowsOf(plan, step)) ++seen[row];
  }
  // Ten epochs show every row of the tenth once.
  EXPECT_EQ(seen.size(), 140u);
  EXPECT_EQ((seen[{0, 0}]), 10);
  EXPECT_EQ((seen[{1, 0}]), 1);
}

TEST_F(BatchesTest, RowsCanBeRestricted) {
  const TokenizedDataset data = MakeRandom(30);
  const RowSplit split = SplitRows(30, {.fraction = 0.2, .seed = 4});
  ASSERT_EQ(split.validation.size(), 6u);
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const BatchPlan plan,
      BatchPlan::Create({{.data = &data, .rows = split.training}}, Options()));
  std::set<int> seen;
  for (int64_t step = 0; step < plan.steps(); ++step) {
    for (const auto& [dataset, row] : RowsOf(plan, step)) seen.insert(row);
  }
  EXPECT_EQ(seen, std::set<int>(split.training.begin(), split.training.end()));
}

TEST_F(BatchesTest, BadOptionsAreNamed) {
  const TokenizedDataset data = MakeRandom(10);
  PlanOptions options = Options();
  options.dp_size = 16;
  EXPECT_THAT(BatchPlan::Create({{&data}}, options).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("global_batch_size 8")));
  options = Options();
  options.max_seq_length = 4;
  EXPECT_THAT(BatchPlan::Create({{&data}}, options).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("max_seq_length 4")));
  EXPECT_THAT(BatchPlan::Create({{&data, 0.0}}, Options()).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("weight")));
}

TEST_F(BatchesTest, MaxStepsCapsTheRun) {
  const TokenizedDataset data = MakeRandom(40);
  PlanOptions options = Options();
  options.max_steps = 3;
  GRAFT_ASSERT_OK_AND_ASSIGN(const BatchPlan plan, BatchPlan::Create({{&data}}, options));
  EXPECT_EQ(plan.steps(), 3);
}

}  // namespace
}  // namespace graft::data
