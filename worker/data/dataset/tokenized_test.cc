#include "worker/data/dataset/tokenized.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/dataset/duplicates.h"
#include "worker/data/dataset/token_cache.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace graft::data {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kEos = 256;

// Bytes as tokens 0 to 255 (byte-level), <|end|> 256, <|start|> 257.
std::unique_ptr<Tokenizer> ByteTokenizer() {
  Json vocab = Json::MakeObject();
  int extra = 0;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte != 173);
    const int c = printable ? byte : 256 + extra++;
    std::string text;
    if (c < 0x80) {
      text = std::string(1, static_cast<char>(c));
    } else {
      text = {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
    }
    vocab.Set(text, byte);
  }
  const std::string json = absl::StrCat(
      R"({"added_tokens":[{"id":256,"content":"<|end|>","special":true,"single_word":false,)"
      R"("lstrip":false,"rstrip":false,"normalized":false},{"id":257,"content":"<|start|>",)"
      R"("special":true,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false}],)"
      R"("normalizer":null,"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,)"
      R"("trim_offsets":false,"use_regex":true},"post_processor":null,"decoder":{"type":)"
      R"("ByteLevel"},"model":{"type":"BPE","dropout":null,"unk_token":null,)"
      R"("continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,)"
      R"("byte_fallback":false,"merges":[],"vocab":)",
      vocab.Dump(), "}}");
  auto tokenizer = Tokenizer::FromJson(json);
  EXPECT_THAT(tokenizer, IsOk());
  return *std::move(tokenizer);
}

constexpr absl::string_view kTemplate =
    "{% for m in messages %}<|start|>{{ m.role }}\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}";

class TokenizedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = ::testing::TempDir() + "/tokenized_XXXXXX";
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
    tokenizer_ = ByteTokenizer();
    auto chat = ChatTemplate::Compile(kTemplate);
    ASSERT_THAT(chat, IsOk());
    chat_ = std::make_unique<ChatTemplate>(*std::move(chat));
    options_.chat = chat_.get();
    options_.eos_token_id = kEos;
    options_.eos_token = "<|end|>";
  }
  void TearDown() override { EXPECT_THAT(RemoveTree(folder_), IsOk()); }

  absl::StatusOr<TokenizedDataset> Tokenize(absl::string_view rows) {
    const std::string path = JoinPath(folder_, "rows.jsonl");
    EXPECT_THAT(WriteFileAtomically(path, rows, {.sync = false}), IsOk());
    GRAFT_ASSIGN_OR_RETURN(const Dataset dataset, Dataset::Open({path}, {}));
    return TokenizeDataset(dataset, *tokenizer_, options_);
  }
  // The learnt tokens of a sequence as text.
  std::string Learnt(const TokenizedDataset& data, int64_t sequence) {
    std::vector<int32_t> ids;
    for (int t = 0; t < data.length(sequence); ++t) {
      if (data.supervised(sequence, t)) ids.push_back(data.ids(sequence)[t]);
    }
    return tokenizer_->Decode(ids);
  }

  std::string folder_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> chat_;
  TokenizeOptions options_;
};

TEST_F(TokenizedTest, AnswersAloneAreLearntWithTheirEndOfTurn) {
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const TokenizedDataset data,
      Tokenize(R"({"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":"yo"},)"
               R"({"role":"user","content":"?"},{"role":"assistant","content":"ok"}]})"));
  EXPECT_EQ(Learnt(data, 0), "yo<|end|>ok<|end|>");
  EXPECT_EQ(data.supervised_count(0), 6);
  EXPECT_EQ(tokenizer_->Decode(data.ids(0)),
            "<|start|>user\nhi<|end|>\n<|start|>assistant\nyo<|end|>\n<|start|>user\n?<|end|>\n"
            "<|start|>assistant\nok<|end|>\n");
  options_.loss_on = LossOn::kLastAnswer;
  EXPECT_EQ(
      Learnt(*Tokenize(R"({"messages":[{"role":"assistant","content":"a"},)"
                       R"({"role":"user","content":"?"},{"role":"assistant","content":"b"}]})"),
             0),
      "b<|end|>");
}

TEST_F(TokenizedTest, CompletionsEndWithEosAndPromptsAreMasked) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const TokenizedDataset data,
                             Tokenize(R"({"prompt":"Q: a","completion":" b"})"));
  EXPECT_THAT(data.ids(0), ElementsAre('Q', ':', ' ', 'a', ' ', 'b', kEos));
  EXPECT_THAT(data.mask(0), ElementsAre(0, 0, 0, 0, 1, 1, 1));
  options_.loss_on = LossOn::kAll;
  EXPECT_THAT(Tokenize(R"({"prompt":"Q","completion":"b"})")->mask(0), ElementsAre(0, 1, 1));
}

TEST_F(TokenizedTest, TextIsLearntWhole) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const TokenizedDataset data, Tokenize(R"({"text":"abc"})"));
  EXPECT_THAT(data.ids(0), ElementsAre('a', 'b', 'c', kEos));
  EXPECT_THAT(data.mask(0), ElementsAre(0, 1, 1, 1));
}

TEST_F(TokenizedTest, PreferenceRowsAreTwoSequences) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const TokenizedDataset data,
                             Tokenize(R"({"prompt":"p","chosen":"good","rejected":"bad"})"));
  EXPECT_EQ(data.sequences_per_row(), 2);
  EXPECT_EQ(Learnt(data, 0), "good<|end|>");
  EXPECT_EQ(Learnt(data, 1), "bad<|end|>");
}

TEST_F(TokenizedTest, TruncationIsCountedAndAnEmptiedRowIsRefused) {
  const std::string rows = "{\"prompt\":\"" + std::string(30, 'p') + "\",\"completion\":\"cc\"}\n" +
                           "{\"prompt\":\"p\",\"completion\":\"" + std::string(30, 'c') + "\"}\n" +
                           "{\"prompt\":\"p\",\"completion\":\"c\"}\n";
  options_.max_seq_length = 16;
  EXPECT_THAT(Tokenize(rows).status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("1 of 3 rows"), HasSubstr("rows.jsonl:1"),
                             HasSubstr("cut off whole"))));
  options_.allow_empty_after_truncation = true;
  GRAFT_ASSERT_OK_AND_ASSIGN(const TokenizedDataset data, Tokenize(rows));
  EXPECT_EQ(data.stats().rows, 2);
  EXPECT_EQ(data.stats().dropped_empty, 1);
  EXPECT_EQ(data.stats().truncated_rows, 1);
  EXPECT_EQ(data.stats().truncated_tokens, 16);
  EXPECT_EQ(data.stats().longest, 33);
  options_.drop_overlong = true;
  GRAFT_ASSERT_OK_AND_ASSIGN(const TokenizedDataset dropped, Tokenize(rows));
  EXPECT_EQ(dropped.stats().rows, 1);
  EXPECT_EQ(dropped.stats().dropped_overlong, 2);
}

TEST_F(TokenizedTest, ARowWithoutAnythingToLearnIsRefused) {
  EXPECT_THAT(
      Tokenize(R"({"messages":[{"role":"user","content":"hi"},{"role":"assistant",)"
               R"("content":"yo","weight":0}]})")
          .status(),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("at least one token to learn")));
}

TEST_F(TokenizedTest, MaxSeqLengthIsClampedToTheModel) {
  options_.model_context = 8;
  GRAFT_ASSERT_OK_AND_ASSIGN(const TokenizedDataset data, Tokenize(R"({"text":"0123456789"})"));
  EXPECT_EQ(data.length(0), 8);
  EXPECT_EQ(data.length(1), 3);  // "89" and EOS: text goes on in another sequence
  ASSERT_EQ(data.stats().warnings.size(), 1u);
  EXPECT_EQ(data.stats().warnings[0].code, "max_seq_length_clamped");
}

TEST_F(TokenizedTest, RowsThatTheTemplateRefusesNameTheirPlace) {
  auto chat = ChatTemplate::Compile("{{ raise_exception('no system messages, please') }}");
  ASSERT_THAT(chat, IsOk());
  options_.chat = &*chat;
  EXPECT_THAT(Tokenize(R"({"messages":[{"role":"assistant","content":"yo"}]})").status(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("rows.jsonl:1"), HasSubstr("no system messages, please"))));
}

TEST_F(TokenizedTest, SavedTokensAreMappedBackAndBoundToTheirKey) {
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const TokenizedDataset data,
      Tokenize(
          "{\"prompt\":\"a\",\"completion\":\"bcd\"}\n{\"prompt\":\"e\",\"completion\":\"f\"}\n"));
  const std::string path = JoinPath(folder_, "tokens");
  ASSERT_THAT(data.Save(path, "key"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const TokenizedDataset loaded, TokenizedDataset::Load(path, "key"));
  ASSERT_EQ(loaded.size(), 2);
  for (int64_t i = 0; i < 2; ++i) {
    EXPECT_EQ(loaded.ids(i), data.ids(i));
    EXPECT_EQ(loaded.mask(i), data.mask(i));
    EXPECT_EQ(loaded.supervised_count(i), data.supervised_count(i));
  }
  EXPECT_EQ(loaded.stats().tokens, data.stats().tokens);
  EXPECT_THAT(TokenizedDataset::Load(path, "other").status(),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  std::string bytes = *ReadFile(path);
  bytes[bytes.size() - 70] ^= 1;
  ASSERT_THAT(WriteFileAtomically(path, bytes), IsOk());
  EXPECT_THAT(TokenizedDataset::Load(path, "key").status(), StatusIs(absl::StatusCode::kDataLoss));
  ASSERT_THAT(WriteFileAtomically(path, bytes.substr(0, bytes.size() / 2)), IsOk());
  EXPECT_THAT(TokenizedDataset::Load(path, "key").status(), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(TokenizedTest, RowsThatStandTwiceAreFoundByTheirTokens) {
  const std::string one = "{\"prompt\":\"a\",\"completion\":\"b\"}\n";
  const std::string again = "{ \"completion\":\"b\", \"prompt\":\"a\", \"id\": 7}\n";
  const std::string other = "{\"prompt\":\"ab\",\"completion\":\"\"}\n";
  const std::string third = "{\"prompt\":\"a\",\"completion\":\"c\"}\n";
  GRAFT_ASSERT_OK_AND_ASSIGN(const TokenizedDataset training, Tokenize(one + again + third));
  GRAFT_ASSERT_OK_AND_ASSIGN(const TokenizedDataset held_out, Tokenize(third + other));
  const DuplicateRows found = FindDuplicates({{&training, {}}}, {{&held_out, {}}});
  EXPECT_EQ(found.repeated, 1);
  EXPECT_EQ(found.leaked, 1);
  EXPECT_EQ(found.Warnings().size(), 2u);
  // Of one set, the rows named alone.
  const std::vector<uint32_t> first = {0}, last = {2};
  const DuplicateRows apart = FindDuplicates({{&training, first}}, {{&training, last}});
  EXPECT_EQ(apart.repeated + apart.leaked, 0);
  EXPECT_TRUE(apart.Warnings().empty());
}

TEST_F(TokenizedTest, ASystemMessageStandsBeforeConversationsThatHaveNone) {
  options_.system = "Be brief.";
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const TokenizedDataset data,
      Tokenize(R"({"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]})"
               "\n"
               R"({"messages":[{"role":"system","content":"Own."},{"role":"user","content":"q"},)"
               R"({"role":"assistant","content":"a"}]})"));
  EXPECT_THAT(tokenizer_->Decode(data.ids(0)), HasSubstr("system\nBe brief.<|end|>"));
  EXPECT_THAT(tokenizer_->Decode(data.ids(1)),
              AllOf(HasSubstr("system\nOwn."), Not(HasSubstr("brief"))));
}

class TokenCacheTest : public TokenizedTest {
 protected:
  absl::StatusOr<CachedTokens> Cached(absl::string_view rows) {
    const std::string path = JoinPath(folder_, "rows.jsonl");
    EXPECT_THAT(WriteFileAtomically(path, rows, {.sync = false}), IsOk());
    GRAFT_ASSIGN_OR_RETURN(const Dataset dataset,
                           Dataset::Open({path}, {.on_bad_row = OnBadRow::kSkip}));
    return TokenizeCached(dataset, *tokenizer_, options_, sources_, JoinPath(folder_, "cache"),
                          max_bytes_);
  }
  int64_t max_bytes_ = kMaxTokenCacheBytes;
  TokenSources sources_ = {"tokenizer", "template"};
  const std::string rows_ = "{\"prompt\":\"a\",\"completion\":\"bcd\"}\n";
};

TEST_F(TokenCacheTest, ASecondLookMapsTheSameTokens) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens made, Cached(rows_));
  EXPECT_FALSE(made.from_cache);
  EXPECT_THAT(made.kept, IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens again, Cached(rows_));
  EXPECT_TRUE(again.from_cache);
  EXPECT_EQ(again.path, made.path);
  EXPECT_EQ(again.data.ids(0), made.data.ids(0));
}

TEST_F(TokenCacheTest, WhatWasUsedLongestAgoMakesRoom) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens first, Cached(rows_));
  GRAFT_ASSERT_OK_AND_ASSIGN(const int64_t bytes, FileSize(first.path));
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens second, Cached(rows_ + rows_));
  const timespec long_ago[2] = {{1, 0}, {1, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, first.path.c_str(), long_ago, 0), 0);
  ASSERT_THAT(Cached(rows_).status(), IsOk());  // used again, which makes the second the older one
  const timespec earlier[2] = {{2, 0}, {2, 0}};
  ASSERT_EQ(utimensat(AT_FDCWD, second.path.c_str(), earlier, 0), 0);
  max_bytes_ = 2 * bytes + bytes / 2;
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens third, Cached(rows_ + rows_ + rows_));
  EXPECT_TRUE(FileExists(first.path));
  EXPECT_FALSE(FileExists(second.path));
  EXPECT_TRUE(FileExists(third.path));
  EXPECT_EQ(second.data.ids(0), first.data.ids(0)) << "mapped files stay readable";
}

TEST_F(TokenCacheTest, WhateverTheTokensHangOnMakesNewOnes) {
  ASSERT_THAT(Cached(rows_).status(), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens other_rows, Cached(rows_ + rows_));
  EXPECT_FALSE(other_rows.from_cache);
  sources_.tokenizer_digest = "another";
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens other_tokenizer, Cached(rows_));
  EXPECT_FALSE(other_tokenizer.from_cache);
  sources_.template_digest = "another";
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens other_template, Cached(rows_));
  EXPECT_FALSE(other_template.from_cache);
  options_.max_seq_length = 3;
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens other_option, Cached(rows_));
  EXPECT_FALSE(other_option.from_cache);
  EXPECT_EQ(other_option.data.length(0), 3);
}

TEST_F(TokenCacheTest, ATornFileIsMadeAgain) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens made, Cached(rows_));
  ASSERT_THAT(WriteFileAtomically(made.path, "GRAFTTOK torn"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens again, Cached(rows_));
  EXPECT_FALSE(again.from_cache);
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens third, Cached(rows_));
  EXPECT_TRUE(third.from_cache);
}

TEST_F(TokenCacheTest, ProblemsOfSkippedRowsAreKept) {
  auto chat = ChatTemplate::Compile(
      "{% if messages|length > 2 %}{{ raise_exception('too long') }}{% endif %}"
      "{% for m in messages %}{{ m.content }}{% endfor %}");
  ASSERT_THAT(chat, IsOk());
  options_.chat = &*chat;
  options_.on_bad_row = OnBadRow::kSkip;
  const std::string good = R"({"messages":[{"role":"assistant","content":"yo"}]})";
  const std::string bad =
      R"({"messages":[{"role":"user","content":"a"},{"role":"user","content":"b"},)"
      R"({"role":"assistant","content":"c"}]})";
  ASSERT_THAT(Cached(absl::StrCat(good, "\n", bad, "\n")).status(), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const CachedTokens again, Cached(absl::StrCat(good, "\n", bad, "\n")));
  EXPECT_TRUE(again.from_cache);
  ASSERT_EQ(again.data.stats().problems.size(), 1u);
  EXPECT_EQ(again.data.stats().problems[0].line, 2);
  EXPECT_THAT(again.data.stats().problems[0].ToString(), HasSubstr("too long"));
}

TEST_F(TokenizedTest, ThreadsGiveTheSameTokens) {
  std::string rows;
  for (int i = 0; i < 500; ++i) {
    absl::StrAppend(&rows, "{\"prompt\":\"p", i, "\",\"completion\":\"c", i * i, "\"}\n");
  }
  GRAFT_ASSERT_OK_AND_ASSIGN(const TokenizedDataset one, Tokenize(rows));
  options_.threads = 3;
  GRAFT_ASSERT_OK_AND_ASSIGN(const TokenizedDataset three, Tokenize(rows));
  ASSERT_EQ(one.size(), three.size());
  for (int64_t i = 0; i < one.size(); ++i) EXPECT_EQ(one.ids(i), three.ids(i));
}

TEST_F(TokenizedTest, HighlightsWhatIsLearnt) {
  Row row;
  row.messages =
      *Json::Parse(R"([{"role":"user","content":"hi"},{"role":"assistant","content":"yo"}])");
  auto sequences = TokenizeRow(RowFormat::kChat, row, *tokenizer_, options_);
  ASSERT_THAT(sequences, IsOk());
  EXPECT_EQ(HighlightSupervised((*sequences)[0], "[", "]"),
            "<|start|>user\nhi<|end|>\n<|start|>assistant\n[yo<|end|>]\n");
}

}  // namespace
}  // namespace graft::data
