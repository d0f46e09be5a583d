#include "worker/trainer/report.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::trainer {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

TEST(ReportScoreTest, ExactIgnoresSpaceAtTheEndsAlone) {
  EXPECT_TRUE(Score(" yes\n", "yes").exact);
  EXPECT_FALSE(Score("Yes", "yes").exact);
}

TEST(ReportScoreTest, WordsInCommonCountWhateverTheirOrder) {
  const Scores scores = Score("the cat sat", "Sat, the dog!");
  EXPECT_DOUBLE_EQ(scores.token_f1, 2.0 * 2 / 6);
  EXPECT_DOUBLE_EQ(scores.rouge_l, 2.0 * 1 / 6) << "their order counts here";
  EXPECT_DOUBLE_EQ(Score("", "").token_f1, 1);
  EXPECT_DOUBLE_EQ(Score("a a a", "a").token_f1, 2.0 * 1 / 4) << "each occurrence once";
}

TEST(ReportScoreTest, JsonCountsWhereJsonIsWanted) {
  std::vector<ReportRow> rows(2);
  rows[0].wanted = R"({"a": 1})";
  rows[0].after = R"({"a": 2})";
  rows[1].wanted = "words";
  rows[1].after = "words";
  const Means means = MeansOf(rows, &ReportRow::after);
  EXPECT_EQ(means.valid_json, 1.0);
  EXPECT_EQ(means.exact, 0.5);
  EXPECT_EQ(MeansOf({rows[1]}, &ReportRow::after).valid_json, std::nullopt);
}

class ReportTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = absl::StrCat(::testing::TempDir(), "/report.", getpid());
    ASSERT_THAT(MakeDirectories(folder_), IsOk());
  }
  void TearDown() override { EXPECT_THAT(RemoveTree(folder_), IsOk()); }
  RunConfig WithValidation(const std::string& rows) {
    const std::string path = JoinPath(folder_, "validation.jsonl");
    EXPECT_THAT(WriteFileAtomically(path, rows, {.sync = false}), IsOk());
    RunConfig config;
    config.dataset.training = {path};
    config.dataset.validation = {path};
    return config;
  }
  std::string folder_;
};

TEST_F(ReportTest, AConversationIsAskedUpToItsLastAnswer) {
  const RunConfig config = WithValidation(
      R"({"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"yo"}]})"
      "\n");
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto rows, ChooseRows(config, {}, 20, 9));
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].wanted, "yo");
  EXPECT_EQ(rows[0].question.messages.as_array().size(), 1u);
  EXPECT_EQ(rows[0].question.max_tokens, 9);
}

TEST_F(ReportTest, RowsAreSpreadOverTheWholeSet) {
  std::string text;
  for (int i = 0; i < 10; ++i) {
    absl::StrAppend(&text, "{\"prompt\":\"p", i, "\",\"completion\":\"c\"}\n");
  }
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto rows, ChooseRows(WithValidation(text), {}, 2, 9));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].prompt, "p0");
  EXPECT_EQ(rows[1].prompt, "p5");
}

TEST_F(ReportTest, WithoutValidationFilesTheRowsSplitOffAreAsked) {
  std::string text;
  for (int i = 0; i < 10; ++i) {
    absl::StrAppend(&text, "{\"prompt\":\"p", i, "\",\"completion\":\"c\"}\n");
  }
  RunConfig config = WithValidation(text);
  config.dataset.validation.clear();
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto none, ChooseRows(config, {}, 2, 9));
  EXPECT_THAT(none, IsEmpty());
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto rows, ChooseRows(config, {1, 4, 7, 8}, 2, 9));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].prompt, "p1");
  EXPECT_EQ(rows[0].row, 2);
  EXPECT_EQ(rows[1].prompt, "p7");
}

TEST_F(ReportTest, PlainTextHasNoAnswers) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto rows,
                             ChooseRows(WithValidation("{\"text\":\"a\"}\n"), {}, 2, 9));
  EXPECT_THAT(rows, IsEmpty());
}

TEST_F(ReportTest, TheWorstRowStandsFirstAndNothingOfARowIsMarkup) {
  Report report{.title = "job <1>",
                .base = "b",
                .tuned = "t",
                .loss_before = 2.5,
                .loss_after = 0.5,
                .rows_chosen = 3};
  report.rows = {{.row = 1, .prompt = "p", .wanted = "good", .before = "bad", .after = "good"},
                 {.row = 2, .prompt = "p", .wanted = "x", .before = "y", .after = "<script>"}};
  const std::string html = ReportHtml(report);
  EXPECT_THAT(html, Not(HasSubstr("<script>")));
  EXPECT_THAT(html, HasSubstr("&lt;script&gt;"));
  EXPECT_LT(html.find("Row 2"), html.find("Row 1"));
  const std::string markdown = ReportMarkdown(report);
  EXPECT_THAT(markdown, HasSubstr("| validation loss | 2.5000 | 0.5000 |"));
  EXPECT_THAT(markdown, HasSubstr("| exact match | 0.0 % | 50.0 % |"));
  EXPECT_THAT(markdown, HasSubstr("Time did not suffice for 1 more."));
  EXPECT_THAT(WriteReport(report, JoinPath(folder_, "out")), IsOk());
  EXPECT_TRUE(FileExists(JoinPath(folder_, "out/report.html")));
}

}  // namespace
}  // namespace graft::trainer
