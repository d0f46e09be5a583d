// The token pass over the tiny model of tests/e2e, without torch.
#include "worker/trainer/check_data.h"

#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/training_data.h"

namespace graft::trainer {
namespace {

using ::testing::HasSubstr;

class CheckDataTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(::testing::TempDir(), "/check_data.", getpid());
    ASSERT_THAT(MakeDirectories(folder_), IsOk());
    const char* source = std::getenv("GRAFT_SOURCE_DIR");
    ASSERT_NE(source, nullptr) << "run by ctest";
    config_.model.path = absl::StrCat(source, "/tests/e2e/tiny_llama");
    config_.dataset.max_seq_length = 64;
    config_.dataset.packing = false;
    config_.batch.global = 2;
  }
  void TearDown() override { EXPECT_THAT(RemoveTree(folder_), IsOk()); }
  void Rows(const std::string& text) {
    const std::string path = JoinPath(folder_, "training.jsonl");
    ASSERT_THAT(WriteFileAtomically(path, text, {.sync = false}), IsOk());
    config_.dataset.training = {path};
  }
  static std::string Row(const std::string& prompt, const std::string& completion) {
    return absl::StrCat("{\"prompt\":\"", prompt, "\",\"completion\":\"", completion, "\"}\n");
  }

  std::string folder_;
  RunConfig config_;
};

TEST_F(CheckDataTest, CountsWhatWillBeTrainedOnCutAndLeftOut) {
  Rows(Row("ask ", "yes") + Row("ask ", "no") + Row("ask ", std::string(100, 'y')) +
       Row(std::string(80, 'x'), "lost"));
  config_.dataset.on_bad_row = OnBadRow::kSkip;
  GRAFT_ASSERT_OK_AND_ASSIGN(const Findings findings, CheckData(config_));
  EXPECT_EQ(findings.format, "prompt_completion");
  EXPECT_EQ(findings.training_rows, 3);
  EXPECT_EQ(findings.truncated_rows, 1);
  EXPECT_EQ(findings.empty_rows, 1) << "the cut kept nothing of its answer";
  EXPECT_EQ(findings.longest_row, 105) << "4 of the prompt, 100 of the answer, the end";
  EXPECT_EQ(findings.steps, 2);
  GRAFT_ASSERT_OK_AND_ASSIGN(const Findings again, ParseFindings(FormatFindings(findings)));
  EXPECT_EQ(again.longest_row, findings.longest_row);
  EXPECT_EQ(again.format, findings.format);
}

TEST_F(CheckDataTest, AnAnswerThatTheCutLeavesNothingOfIsRefusedUnlessRowsMayBeSkipped) {
  Rows(Row("ask ", "yes") + Row(std::string(80, 'x'), "lost"));
  EXPECT_THAT(CheckData(config_),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("training.jsonl:2")));
}

TEST_F(CheckDataTest, SkippedRowsAreCountedAndKeptWithWhatIsWrong) {
  const std::string cut = Row(std::string(80, 'x'), "lost");
  const std::string bad = "{\"prompt\":\"ask\",\"completion\":7}\n";
  Rows(Row("ask ", "yes") + bad + cut);
  config_.dataset.on_bad_row = OnBadRow::kSkip;
  config_.dataset.skipped_rows = JoinPath(folder_, "skipped");
  GRAFT_ASSERT_OK_AND_ASSIGN(const Findings findings, CheckData(config_));
  EXPECT_EQ(findings.training_rows, 1);
  EXPECT_EQ(findings.skipped_rows, 1);
  EXPECT_EQ(findings.empty_rows, 1);
  const std::string kept = JoinPath(config_.dataset.skipped_rows, "training.jsonl");
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::string rows, ReadFile(kept));
  EXPECT_EQ(rows, bad + cut);
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::string why, ReadFile(kept + ".why.jsonl"));
  EXPECT_THAT(why, HasSubstr("completion"));
}

TEST_F(CheckDataTest, AWeightSaysHowOftenTheRowsOfASourceAreSeen) {
  std::string some, more;
  for (int i = 0; i < 10; ++i) some += Row(absl::StrCat("a", i), "yes");
  for (int i = 0; i < 20; ++i) more += Row(absl::StrCat("b", i), "no");
  Rows(some);
  const std::string replay = JoinPath(folder_, "replay.jsonl");
  ASSERT_THAT(WriteFileAtomically(replay, more, {.sync = false}), IsOk());
  config_.dataset.training.push_back(replay);
  GRAFT_ASSERT_OK_AND_ASSIGN(const Findings whole, CheckData(config_));
  EXPECT_EQ(whole.steps, 15);
  config_.dataset.weights = {1, 0.1};
  GRAFT_ASSERT_OK_AND_ASSIGN(const Findings tenth, CheckData(config_));
  EXPECT_EQ(tenth.training_rows, 30);
  EXPECT_EQ(tenth.steps, 6) << "10 rows and a tenth of 20, two a step";
  config_.dataset.limits = {4, 0};
  GRAFT_ASSERT_OK_AND_ASSIGN(const Findings limited, CheckData(config_));
  EXPECT_EQ(limited.steps, 3);
}

TEST_F(CheckDataTest, RowsAreSplitOffForValidationAndTheSameOnesEachTime) {
  std::string rows;
  for (int i = 0; i < 40; ++i) rows += Row(absl::StrCat("ask ", i), "yes");
  Rows(rows);
  config_.dataset.validation_split = 0.1;
  GRAFT_ASSERT_OK_AND_ASSIGN(const Findings findings, CheckData(config_));
  EXPECT_EQ(findings.training_rows, 36);
  EXPECT_EQ(findings.validation_rows, 4);
  EXPECT_EQ(findings.steps, 18);
}

TEST_F(CheckDataTest, RowsThatAreThereTwiceAreWarnedOf) {
  Rows(Row("ask ", "yes") + Row("ask ", "yes") + Row("ask ", "no"));
  const std::string validation = JoinPath(folder_, "held_out.jsonl");
  ASSERT_THAT(
      WriteFileAtomically(validation, Row("ask ", "no") + Row("other ", "no"), {.sync = false}),
      IsOk());
  config_.dataset.validation = {validation};
  GRAFT_ASSERT_OK_AND_ASSIGN(const Findings findings, CheckData(config_));
  ASSERT_EQ(findings.warnings.size(), 2u);
  EXPECT_EQ(findings.warnings[0].code, "duplicate_rows");
  EXPECT_THAT(findings.warnings[0].message, HasSubstr("1 of 3"));
  EXPECT_EQ(findings.warnings[1].code, "validation_leak");
  EXPECT_THAT(findings.warnings[1].message, HasSubstr("1 of 2"));
}

TEST_F(CheckDataTest, PackingShowsTheStepsAndPassesOfBothWays) {
  std::string rows;
  for (int i = 0; i < 8; ++i) rows += Row(absl::StrCat("ask ", i), "yes");
  Rows(rows);
  config_.batch.global = 4;
  config_.dataset.packing = true;
  GRAFT_ASSERT_OK_AND_ASSIGN(const Findings findings, CheckData(config_));
  EXPECT_EQ(findings.steps, 2);
  EXPECT_EQ(findings.unpacked_steps, 2);
  EXPECT_EQ(findings.passes, 2) << "four rows of ten tokens fit into one pass of 64";
  EXPECT_EQ(findings.unpacked_passes, 8);
}

TEST_F(CheckDataTest, TheSecondLookAtTheSameRowsMapsTheTokensOfTheFirst) {
  Rows(Row("ask ", "yes") + Row("ask ", "no"));
  config_.dataset.token_cache = JoinPath(folder_, "tokens");
  GRAFT_ASSERT_OK_AND_ASSIGN(const Findings first, CheckData(config_));
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::vector<std::string> kept,
                             ListDirectory(config_.dataset.token_cache));
  ASSERT_EQ(kept.size(), 1u);
  // What is kept is read: no other tokens could say this.
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<ModelSource> model,
                             OpenModel(config_.model.path, ""));
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::unique_ptr<TrainingData> data,
                             PrepareData(config_, *model));
  EXPECT_TRUE(data->training[0].mapped());
  GRAFT_ASSERT_OK_AND_ASSIGN(const Findings second, CheckData(config_));
  EXPECT_EQ(FormatFindings(second), FormatFindings(first));
}

TEST_F(CheckDataTest, BadRowsAreNamedByFileLineAndColumn) {
  Rows(Row("ask ", "yes") + "{\"prompt\":\"ask\",\"completion\":7}\n");
  const auto findings = CheckData(config_);
  EXPECT_THAT(findings.status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("training.jsonl:2:")));
}

}  // namespace
}  // namespace graft::trainer
