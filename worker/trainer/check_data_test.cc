// The token pass over the tiny model of tests/e2e, without torch.
#include "worker/trainer/check_data.h"

#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"

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

TEST_F(CheckDataTest, BadRowsAreNamedByFileLineAndColumn) {
  Rows(Row("ask ", "yes") + "{\"prompt\":\"ask\",\"completion\":7}\n");
  const auto findings = CheckData(config_);
  EXPECT_THAT(findings.status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("training.jsonl:2:")));
}

}  // namespace
}  // namespace graft::trainer
