#include "worker/data/dataset/dataset.h"

#include <cstdlib>

#include "base/file.h"
#include "base/status_macros.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class DatasetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/dataset_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { EXPECT_THAT(RemoveTree(folder_), IsOk()); }

  std::string Write(const std::string& name, absl::string_view content) {
    const std::string path = JoinPath(folder_, name);
    EXPECT_THAT(MakeDirectories(path.substr(0, path.rfind('/'))), IsOk());
    EXPECT_THAT(WriteFileAtomically(path, content, {.sync = false}), IsOk());
    return path;
  }
  absl::StatusOr<Dataset> Open(const std::string& name, absl::string_view content,
                               const DatasetOptions& options = {}) {
    return Dataset::Open({Write(name, content)}, options);
  }
  std::string Problem(const std::string& name, absl::string_view content,
                      const DatasetOptions& options = {}) {
    auto dataset = Open(name, content, options);
    if (!dataset.ok()) return dataset.status().ToString();
    if (dataset->report().problems.empty()) return "no problem";
    std::string text = dataset->report().problems[0].ToString();
    return text.substr(text.find(name));
  }

  std::string folder_;
};

TEST_F(DatasetTest, FindsTheFormatByTheMembers) {
  const std::pair<const char*, RowFormat> cases[] = {
      {R"({"messages":[{"role":"assistant","content":"a"}]})", RowFormat::kChat},
      {R"({"prompt":"p","completion":"c"})", RowFormat::kPromptCompletion},
      {R"({"text":"t"})", RowFormat::kText},
      {R"({"prompt":"p","chosen":"c","rejected":"r"})", RowFormat::kPreference}};
  for (const auto& [row, format] : cases) {
    GRAFT_ASSERT_OK_AND_ASSIGN(Dataset dataset, Open("a.jsonl", row));
    EXPECT_EQ(dataset.format(), format) << row;
    EXPECT_THAT(dataset.status(), IsOk());
  }
  EXPECT_THAT(Open("a.jsonl", R"({"question":"q"})").status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("members question"), HasSubstr("prompt_template"))));
}

TEST_F(DatasetTest, NamesFileLineColumnAndWhatWasExpected) {
  EXPECT_EQ(
      Problem("t.jsonl",
              "{\"messages\":[{\"role\":\"assistant\",\"content\":\"a\"}]}\n\n"
              "{\"messages\": [{\"role\": \"user\", \"content\": 7}]}\n"),
      "t.jsonl:3:43: messages[0].content: expected a string or a list of text parts, found an "
      "integer");
  EXPECT_EQ(Problem("t.jsonl", R"({"prompt":"p","completion":""})"),
            "t.jsonl:1:28: completion: expected a string that is not empty, found an empty string");
  EXPECT_THAT(Problem("t.jsonl", "{\"text\":\"ok\"}\n{\"text\": nope}\n"),
              AllOf(HasSubstr("t.jsonl:2:10"), HasSubstr("expected a JSON object")));
  EXPECT_THAT(Problem("t.jsonl", R"({"messages":[{"role":"asistant","content":"x"}]})"),
              HasSubstr("messages[0].role: expected one of system, developer, user, assistant"));
  EXPECT_THAT(Problem("t.jsonl", R"({"messages":[{"role":"user","content":"x"}]})"),
              HasSubstr("at least one message of the assistant"));
  EXPECT_THAT(Problem("t.jsonl", R"({"messages":[{"from":"gpt","value":"x"}]})"),
              HasSubstr("ShareGPT"));
}

TEST_F(DatasetTest, BadRowsFailTheDatasetOrAreSkippedAndKept) {
  const std::string content = "{\"text\":\"a\"}\n{\"text\":1}\nbroken\n{\"text\":\"b\"}\n";
  GRAFT_ASSERT_OK_AND_ASSIGN(Dataset strict, Open("t.jsonl", content));
  EXPECT_EQ(strict.report().bad_rows, 2);
  EXPECT_THAT(strict.status(), StatusIs(absl::StatusCode::kInvalidArgument,
                                        AllOf(HasSubstr("2 of 4 rows are bad"),
                                              HasSubstr("t.jsonl:2"), HasSubstr("t.jsonl:3"))));
  GRAFT_ASSERT_OK_AND_ASSIGN(Dataset lenient,
                             Open("t.jsonl", content, {.on_bad_row = OnBadRow::kSkip}));
  EXPECT_THAT(lenient.status(), IsOk());
  ASSERT_EQ(lenient.size(), 2);
  EXPECT_EQ(lenient.RawRow(1), "{\"text\":\"b\"}");
  EXPECT_EQ(lenient.Locate(1).line, 4);
  const std::string skipped = JoinPath(folder_, "skipped.jsonl");
  ASSERT_THAT(lenient.WriteSkippedRows(skipped), IsOk());
  EXPECT_EQ(*ReadFile(skipped), "{\"text\":1}\nbroken\n");
  EXPECT_THAT(*ReadFile(skipped + ".why.jsonl"), HasSubstr("\"line\":2"));
}

TEST_F(DatasetTest, ReadsArraysOfObjects) {
  GRAFT_ASSERT_OK_AND_ASSIGN(
      Dataset dataset,
      Open("a.json", "[\n  {\"text\": \"a, ] }\"},\n  {\"text\":\n   \"b\"}\n]\n"));
  ASSERT_EQ(dataset.size(), 2);
  EXPECT_EQ(dataset.ReadRow(0)->text, "a, ] }");
  EXPECT_EQ(dataset.ReadRow(1)->text, "b");
  EXPECT_EQ(dataset.Locate(1).line, 3);
  EXPECT_THAT(Open("a.json", "[{\"text\":\"a\"}", {.format = RowFormat::kText}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not closed")));
}

TEST_F(DatasetTest, ReadsCsvWithQuotesLineBreaksBomAndCrlf) {
  GRAFT_ASSERT_OK_AND_ASSIGN(Dataset dataset,
                             Open("a.csv",
                                  "\xEF\xBB\xBFprompt,completion\r\n\"say \"\"hi\"\", "
                                  "please\",\"two\nlines\"\r\nplain, spaced\r\n"));
  ASSERT_EQ(dataset.size(), 2);
  EXPECT_EQ(dataset.ReadRow(0)->prompt, "say \"hi\", please");
  EXPECT_EQ(dataset.ReadRow(0)->completion, "two\nlines");
  EXPECT_EQ(dataset.ReadRow(1)->completion, " spaced");
  EXPECT_EQ(dataset.Locate(1).line, 4);
  EXPECT_THAT(Problem("b.csv", "prompt,completion\na\n"), HasSubstr("line 2: expected 2 fields"));
  EXPECT_THAT(Problem("c.csv", "prompt,completion\n\"a,b\n"), HasSubstr("never closed"));
}

TEST_F(DatasetTest, FillsPromptTemplates) {
  DatasetOptions options;
  options.prompt_template = "Q: {question} {{x}} ({n})\nA:";
  options.fields.completion = "answer";
  GRAFT_ASSERT_OK_AND_ASSIGN(
      Dataset dataset, Open("a.jsonl", R"({"question":"why?","n":3,"answer":"so"})", options));
  EXPECT_EQ(dataset.ReadRow(0)->prompt, "Q: why? {x} (3)\nA:");
  EXPECT_EQ(dataset.ReadRow(0)->completion, "so");
  EXPECT_THAT(Problem("a.jsonl", R"({"n":3,"answer":"so"})", options),
              HasSubstr("the member \"question\" that the template names"));
}

TEST_F(DatasetTest, NamesForeignEncodingsAndFormats) {
  EXPECT_THAT(Problem("a.jsonl", "{\"text\":\"Z\xFCrich\"}"),
              AllOf(HasSubstr("a.jsonl:1:11"), HasSubstr("0xfc"), HasSubstr("WINDOWS-1252")));
  EXPECT_THAT(Open("a.parquet", "PAR1").status(),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("Parquet")));
  EXPECT_THAT(Open("a.jsonl", absl::string_view("\xFF\xFE{\0", 4)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("UTF-16")));
  EXPECT_THAT(Open("a.jsonl.gz", "x").status(),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("gunzip")));
  EXPECT_THAT(Open("empty.jsonl", "").status(), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(DatasetTest, ThreadsAndChunksGiveTheSameIndex) {
  std::string content;
  for (int i = 0; content.size() < (20u << 20); ++i) {
    content += i % 1000 == 7 ? "{\"text\":3}\n"
                             : "{\"text\":\"" + std::string(200, 'x') + std::to_string(i) + "\"}\n";
  }
  DatasetOptions options{.on_bad_row = OnBadRow::kSkip};
  GRAFT_ASSERT_OK_AND_ASSIGN(Dataset one, Open("big.jsonl", content, options));
  options.threads = 3;
  GRAFT_ASSERT_OK_AND_ASSIGN(Dataset three, Open("big.jsonl", content, options));
  ASSERT_EQ(one.size(), three.size());
  EXPECT_EQ(one.report().bad_rows, three.report().bad_rows);
  for (int64_t i = 0; i < one.size(); i += 997) {
    EXPECT_EQ(one.Locate(i).line, three.Locate(i).line);
    EXPECT_EQ(one.RawRow(i), three.RawRow(i));
  }
  EXPECT_EQ(one.report().problems.back().line, three.report().problems.back().line);
}

TEST_F(DatasetTest, PreferenceAnswersShareTheirCommonPrompt) {
  GRAFT_ASSERT_OK_AND_ASSIGN(
      Dataset dataset,
      Open("a.jsonl",
           R"({"chosen":[{"role":"user","content":"q"},{"role":"assistant","content":"good"}],)"
           R"("rejected":[{"role":"user","content":"q"},{"role":"assistant","content":"bad"}]})"));
  const absl::StatusOr<Row> row = dataset.ReadRow(0);
  ASSERT_THAT(row, IsOk());
  EXPECT_EQ(row->messages.as_array().size(), 1u);
  EXPECT_EQ(row->chosen_messages.as_array().size(), 1u);
  EXPECT_EQ(row->rejected_messages.as_array()[0].GetString("content"), "bad");
}

TEST_F(DatasetTest, FoldersFollowTheTrainingAndValidationRule) {
  const std::string a = Write("set/training/a.jsonl", "{\"text\":\"a\"}");
  const std::string v = Write("set/validation/v.ndjson", "{\"text\":\"v\"}");
  Write("set/extra.jsonl", "{}");
  Write("set/training/README.md", "x");
  GRAFT_ASSERT_OK_AND_ASSIGN(DatasetFiles files, FindDatasetFiles(JoinPath(folder_, "set")));
  EXPECT_THAT(files.training, ElementsAre(a));
  EXPECT_THAT(files.validation, ElementsAre(v));
  ASSERT_EQ(files.warnings.size(), 2u);
  EXPECT_EQ(files.warnings[1].code, "misplaced_file");
}

TEST_F(DatasetTest, FilesNamedAfterTheFoldersServeAsWell) {
  const std::string t = Write("set/training.jsonl", "{\"text\":\"a\"}");
  const std::string v = Write("set/validation.jsonl", "{\"text\":\"v\"}");
  GRAFT_ASSERT_OK_AND_ASSIGN(DatasetFiles files, FindDatasetFiles(JoinPath(folder_, "set")));
  EXPECT_THAT(files.training, ElementsAre(t));
  EXPECT_THAT(files.validation, ElementsAre(v));
  EXPECT_THAT(files.warnings, IsEmpty());
}

TEST_F(DatasetTest, AFilesetOfOneFileIsTrainedOn) {
  const std::string file = Write("set/my tickets.jsonl", "{\"text\":\"a\"}");
  Write("set/README.md", "x");
  GRAFT_ASSERT_OK_AND_ASSIGN(DatasetFiles files, FindDatasetFiles(JoinPath(folder_, "set")));
  EXPECT_THAT(files.training, ElementsAre(file));
  EXPECT_THAT(files.validation, IsEmpty());
  EXPECT_THAT(files.warnings, IsEmpty());
}

TEST_F(DatasetTest, TheSampleSetsAreGoodRows) {
  struct Sample {
    const char* name;
    RowFormat format;
    int64_t training, validation;
  };
  const Sample samples[] = {{"support_tickets", RowFormat::kChat, 240, 40},
                            {"classification", RowFormat::kPromptCompletion, 60, 12},
                            {"extractive_qa", RowFormat::kPromptCompletion, 60, 12},
                            {"simplification", RowFormat::kPromptCompletion, 60, 12},
                            {"conversation", RowFormat::kChat, 60, 12},
                            {"tools", RowFormat::kChat, 60, 12}};
  const char* root = std::getenv("GRAFT_SOURCE_DIR");
  for (const Sample& sample : samples) {
    SCOPED_TRACE(sample.name);
    const std::string folder =
        JoinPath(root == nullptr ? "." : root, std::string("worker/data/samples/") + sample.name);
    GRAFT_ASSERT_OK_AND_ASSIGN(DatasetFiles files, FindDatasetFiles(folder));
    GRAFT_ASSERT_OK_AND_ASSIGN(Dataset training, Dataset::Open(files.training, {}));
    GRAFT_ASSERT_OK_AND_ASSIGN(Dataset validation, Dataset::Open(files.validation, {}));
    EXPECT_THAT(training.status(), IsOk());
    EXPECT_THAT(validation.status(), IsOk());
    EXPECT_EQ(training.format(), sample.format);
    EXPECT_EQ(training.size(), sample.training);
    EXPECT_EQ(validation.size(), sample.validation);
  }
}

TEST_F(DatasetTest, Windows1252TablesAreReadWithAWarning) {
  GRAFT_ASSERT_OK_AND_ASSIGN(
      Dataset dataset,
      Open("t.csv", "prompt,completion\r\ncaf\xe9 \x80 5,\"\x93na\xefve\x94\nline\"\r\n"));
  EXPECT_THAT(dataset.status(), IsOk());
  const absl::StatusOr<Row> row = dataset.ReadRow(0);
  ASSERT_THAT(row, IsOk());
  EXPECT_EQ(row->prompt, "caf\u00e9 \u20ac 5");
  EXPECT_EQ(row->completion, "\u201cna\u00efve\u201d\nline");
  ASSERT_EQ(dataset.report().warnings.size(), 1u);
  EXPECT_EQ(dataset.report().warnings[0].code, "read_as_windows_1252");
  // 0x81 is no character of Windows-1252: the row is named instead.
  EXPECT_THAT(Problem("u.csv", "prompt,completion\na\x81,b\nc,d\n"), HasSubstr("expected UTF-8"));
}

TEST_F(DatasetTest, MisplacedFilesAreExplained) {
  Write("two/a.jsonl", "{\"text\":\"a\"}");
  Write("two/b.jsonl", "{\"text\":\"b\"}");
  EXPECT_THAT(FindDatasetFiles(JoinPath(folder_, "two")).status(),
              StatusIs(absl::StatusCode::kNotFound,
                       HasSubstr("inside: mkdir -p training && mv a.jsonl b.jsonl training/")));
  Write("train_folder/train/tickets.jsonl", "{\"text\":\"a\"}");
  EXPECT_THAT(FindDatasetFiles(JoinPath(folder_, "train_folder")).status(),
              StatusIs(absl::StatusCode::kNotFound, AllOf(HasSubstr("found them in train/"),
                                                          HasSubstr("inside: mv train training"))));
  Write("none/notes.txt", "x");
  EXPECT_THAT(FindDatasetFiles(JoinPath(folder_, "none")).status(),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("in training/, found notes.txt")));
  EXPECT_THAT(FindDatasetFiles(JoinPath(folder_, "nowhere")).status(),
              StatusIs(absl::StatusCode::kNotFound));
}

TEST(SplitRowsTest, IsDeterministicAndLeavesSmallSetsWhole) {
  const RowSplit split = SplitRows(1000, {.fraction = 0.05, .seed = 9});
  EXPECT_EQ(split.validation.size(), 50u);
  EXPECT_EQ(split.training.size(), 950u);
  EXPECT_EQ(split.validation, SplitRows(1000, {.fraction = 0.05, .seed = 9}).validation);
  EXPECT_NE(split.validation, SplitRows(1000, {.fraction = 0.05, .seed = 10}).validation);
  EXPECT_THAT(SplitRows(10, {}).validation, IsEmpty());
}

}  // namespace
}  // namespace graft::data
