#include "worker/data/tokenizer/tokenizer.h"

#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/data/tokenizer/byte_level.h"

namespace graft::data {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Pair;

// The 256 bytes, then what `merges` make, then <eot>.
GgufTokenizerFields SmallFields() {
  GgufTokenizerFields fields;
  fields.model = "gpt2";
  fields.pre = "gpt-2";
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendPrintable(std::string(1, static_cast<char>(byte)), token);
    fields.tokens.push_back(token);
  }
  fields.merges = {"h e", "l l", "he ll", "hell o", "\xc4\xa0 w", "o r"};
  for (const char* token : {"he", "ll", "hell", "hello", "\xc4\xa0w", "or", "<eot>"}) {
    fields.tokens.push_back(token);
  }
  fields.token_types.assign(fields.tokens.size(), 1);
  fields.token_types.back() = 3;
  fields.eos_token_id = 262;
  return fields;
}

std::unique_ptr<Tokenizer> Small() {
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::FromGguf(SmallFields());
  EXPECT_THAT(tokenizer, IsOk());
  return *std::move(tokenizer);
}

TEST(TokenizerTest, MergesByRankAndKeepsOffsets) {
  const auto tokenizer = Small();
  GRAFT_ASSERT_OK_AND_ASSIGN(const Encoding encoding,
                             tokenizer->Encode("hello wor", {.offsets = true}));
  EXPECT_THAT(encoding.ids, ElementsAre(259, 260, 261));
  EXPECT_THAT(encoding.offsets, ElementsAre(Pair(0, 5), Pair(5, 7), Pair(7, 9)));
  EXPECT_EQ(tokenizer->Decode(encoding.ids), "hello wor");
}

TEST(TokenizerTest, PartsOfACharacterShareItsOffsets) {
  const auto tokenizer = Small();
  GRAFT_ASSERT_OK_AND_ASSIGN(const Encoding encoding,
                             tokenizer->Encode("\xe4\xbd\xa0", {.offsets = true}));
  EXPECT_THAT(encoding.ids, ElementsAre(0xe4, 0xbd, 0xa0));
  EXPECT_THAT(encoding.offsets, ElementsAre(Pair(0, 3), Pair(0, 3), Pair(0, 3)));
}

TEST(TokenizerTest, BrokenTextReadsAsReplacementCharactersAtTheirOwnPlaces) {
  const auto tokenizer = Small();
  GRAFT_ASSERT_OK_AND_ASSIGN(const Encoding encoding,
                             tokenizer->Encode("h\xffhe", {.offsets = true}));
  EXPECT_THAT(encoding.ids, ElementsAre('h', 0xef, 0xbf, 0xbd, 256));
  EXPECT_THAT(encoding.offsets,
              ElementsAre(Pair(0, 1), Pair(1, 2), Pair(1, 2), Pair(1, 2), Pair(2, 4)));
}

TEST(TokenizerTest, SpecialTokensCanBeReadAsText) {
  const auto tokenizer = Small();
  GRAFT_ASSERT_OK_AND_ASSIGN(const Encoding special, tokenizer->Encode("he<eot>"));
  EXPECT_THAT(special.ids, ElementsAre(256, 262));
  GRAFT_ASSERT_OK_AND_ASSIGN(const Encoding text,
                             tokenizer->Encode("<eot>", {.encode_special_tokens = true}));
  EXPECT_THAT(text.ids, ElementsAre('<', 'e', 'o', 't', '>'));
  EXPECT_EQ(tokenizer->Decode(special.ids, {.skip_special_tokens = true}), "he");
  EXPECT_TRUE(tokenizer->IsSpecial(262));
  EXPECT_EQ(tokenizer->TokenToId("<eot>"), 262);
  EXPECT_EQ(tokenizer->vocab_size(), 263);
  EXPECT_EQ(tokenizer->id_limit(), 263);
}

TEST(TokenizerTest, EmptyTextHasNoTokens) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const Encoding encoding, Small()->Encode("", {.offsets = true}));
  EXPECT_THAT(encoding.ids, IsEmpty());
}

TEST(TokenizerTest, ManyThreadsEncodeTheSame) {
  const auto tokenizer = Small();
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) {
        const std::string text = absl::StrCat("hello wor ", i % 17, " hello");
        if (tokenizer->Decode(tokenizer->Encode(text)->ids) != text) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ElementsAre(0, 0, 0, 0));
}

TEST(StreamDecoderTest, NeverGivesOutHalfACharacter) {
  const auto tokenizer = Small();
  StreamDecoder stream(*tokenizer);
  EXPECT_EQ(stream.Add(0xe4), "");
  EXPECT_EQ(stream.Add(0xbd), "");
  EXPECT_EQ(stream.Add(0xa0), "\xe4\xbd\xa0");
  EXPECT_EQ(stream.Add(0xf0), "");
  EXPECT_EQ(stream.Add(259), "\xef\xbf\xbdhello");
  EXPECT_EQ(stream.Add(0xe4), "");
  EXPECT_EQ(stream.Finish(), "\xef\xbf\xbd");
  EXPECT_EQ(stream.Finish(), "");
}

// A tokenizer.json with one member replaced.
std::string SmallJson(absl::string_view member, absl::string_view value) {
  Json json = Json::MakeObject();
  json.Set("model", *Json::Parse(R"({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2},
                                     "merges": [["a", "b"]]})"));
  json.Set(member, *Json::Parse(value));
  return json.Dump();
}

TEST(TokenizerJsonTest, NamesWhatIsWrong) {
  const auto code = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(Tokenizer::FromJson("{"), StatusIs(code, HasSubstr("line 1")));
  EXPECT_THAT(Tokenizer::FromJson("[]"), StatusIs(code, HasSubstr("must be an object")));
  EXPECT_THAT(Tokenizer::FromJson("{}"), StatusIs(code, HasSubstr("'model' is missing")));
  EXPECT_THAT(Tokenizer::FromJson(SmallJson("model", R"({"vocab": {"a": -1}, "merges": []})")),
              StatusIs(code, HasSubstr("-1")));
  EXPECT_THAT(Tokenizer::FromJson(SmallJson("model", R"({"vocab": {"a": 0}, "merges": ["a z"]})")),
              StatusIs(code, HasSubstr("model.merges[0]")));
  EXPECT_THAT(Tokenizer::FromJson(
                  SmallJson("pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "a("},
                                       "behavior": "Isolated", "invert": false})")),
              StatusIs(code, HasSubstr("not closed")));
}

TEST(TokenizerJsonTest, NamesWhatIsNotSupported) {
  const auto code = absl::StatusCode::kUnimplemented;
  EXPECT_THAT(Tokenizer::FromJson(SmallJson("normalizer", R"({"type": "Rot13"})")),
              StatusIs(code, HasSubstr("Rot13")));
  EXPECT_THAT(Tokenizer::FromJson(SmallJson("model", R"({"type": "BPE", "dropout": 0.1})")),
              StatusIs(code, HasSubstr("dropout")));
  EXPECT_THAT(Tokenizer::FromJson(
                  SmallJson("pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "(a)\\1"},
                                       "behavior": "Isolated", "invert": false})")),
              StatusIs(code, HasSubstr("back reference")));
}

TEST(TokenizerJsonTest, DeepNestingIsAnError) {
  std::string nested = R"({"type": "NFC"})";
  for (int i = 0; i < 60; ++i) {
    nested = absl::StrCat(R"({"type": "Sequence", "normalizers": [)", nested, "]}");
  }
  EXPECT_THAT(Tokenizer::FromJson(SmallJson("normalizer", nested)),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("too deeply")));
}

TEST(TokenizerJsonTest, AnExpressionThatExplodesIsStopped) {
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const auto tokenizer,
      Tokenizer::FromJson(SmallJson("pre_tokenizer",
                                    R"({"type": "Split", "pattern": {"Regex": "(a|a|aa)*c"},
                                        "behavior": "Isolated", "invert": false})")));
  EXPECT_THAT(tokenizer->Encode(std::string(200, 'a')),
              StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST(TokenizerGgufTest, RefusesTokensThatAreNotUtf8) {
  GgufTokenizerFields fields = SmallFields();
  fields.tokens[3] = "\xcc";
  EXPECT_THAT(Tokenizer::FromGguf(fields),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not UTF-8")));
  EXPECT_THAT(Tokenizer::FromJson("{\"\xcc\": 1}"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("byte 2")));
}

TEST(TokenizerGgufTest, NamesAnUnknownPreTokenizer) {
  GgufTokenizerFields fields = SmallFields();
  fields.pre = "nobody";
  EXPECT_THAT(Tokenizer::FromGguf(fields),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("nobody")));
  fields = SmallFields();
  fields.eos_token_id = 9999;
  EXPECT_THAT(Tokenizer::FromGguf(fields), StatusIs(absl::StatusCode::kInvalidArgument));
  fields = SmallFields();
  fields.token_types.pop_back();
  EXPECT_THAT(Tokenizer::FromGguf(fields), StatusIs(absl::StatusCode::kInvalidArgument));
}

// A field of a protocol buffer: length-delimited, or a number.
std::string Field(int number, absl::string_view bytes) {
  return absl::StrCat(std::string(1, static_cast<char>(number << 3 | 2)),
                      std::string(1, static_cast<char>(bytes.size())), bytes);
}
std::string Number(int number, int value) {
  return {static_cast<char>(number << 3), static_cast<char>(value)};
}
std::string PieceOf(absl::string_view text, float score, int type) {
  std::string fixed(1, static_cast<char>(2 << 3 | 5));
  fixed.append(reinterpret_cast<const char*>(&score), sizeof(score));
  return Field(1, absl::StrCat(Field(1, text), fixed, Number(3, type)));
}

TEST(TokenizerSentencePieceTest, ReadsAUnigramModel) {
  const std::string model = absl::StrCat(
      PieceOf("<unk>", 0, 2), PieceOf("<s>", 0, 3), PieceOf("</s>", 0, 3),
      PieceOf("\xe2\x96\x81hello", -1, 1), PieceOf("\xe2\x96\x81", -2, 1), PieceOf("world", -2, 1),
      Field(2, Number(3, 1)), Field(3, absl::StrCat(Number(3, 1), Number(4, 1))));
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto tokenizer, Tokenizer::FromSentencePiece(model));
  GRAFT_ASSERT_OK_AND_ASSIGN(const Encoding encoding,
                             tokenizer->Encode("hello world", {.offsets = true}));
  EXPECT_THAT(encoding.ids, ElementsAre(3, 4, 5));
  EXPECT_THAT(encoding.offsets, ElementsAre(Pair(0, 5), Pair(5, 6), Pair(6, 11)));
  EXPECT_EQ(tokenizer->Decode(encoding.ids), "hello world");
}

// Both ways to read "!!!" score alike but for the last bit, which hangs on how the unknown
// characters before them were added up.
TEST(TokenizerUnigramTest, AddsUpUnknownCharactersAsTheReferenceDoes) {
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const auto tokenizer,
      Tokenizer::FromJson(R"({"model": {"type": "Unigram", "unk_id": 0, "byte_fallback": false,
          "vocab": [["<unk>", 0.0], ["a", -4.31], ["!", -2.34], ["!!", -1.85]]}})"));
  GRAFT_ASSERT_OK_AND_ASSIGN(const Encoding encoding, tokenizer->Encode("zzz!!!"));
  EXPECT_THAT(encoding.ids, ElementsAre(0, 3, 2));
}

TEST(TokenizerSentencePieceTest, ReadsABpeModelWithBytes) {
  const std::string model = absl::StrCat(
      PieceOf("<unk>", 0, 2), PieceOf("<s>", 0, 3), PieceOf("</s>", 0, 3), PieceOf("<0xC3>", 0, 6),
      PieceOf("<0xA9>", 0, 6), PieceOf("\xe2\x96\x81", -3, 1), PieceOf("a", -4, 1),
      PieceOf("\xe2\x96\x81"
              "a",
              -1, 1),
      Field(2, absl::StrCat(Number(3, 2), std::string("\x98\x02\x01", 3))));
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto tokenizer, Tokenizer::FromSentencePiece(model));
  GRAFT_ASSERT_OK_AND_ASSIGN(const Encoding encoding,
                             tokenizer->Encode("a\xc3\xa9", {.add_special_tokens = true}));
  EXPECT_THAT(encoding.ids, ElementsAre(1, 7, 3, 4));
  EXPECT_EQ(tokenizer->Decode(encoding.ids, {.skip_special_tokens = true}), "a\xc3\xa9");
}

TEST(TokenizerSentencePieceTest, RefusesWhatIsNoModel) {
  EXPECT_THAT(Tokenizer::FromSentencePiece("plain text"),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Tokenizer::FromSentencePiece(""), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace graft::data
