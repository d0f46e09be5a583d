// A piece that is cut at its seams has to give the tokens of the whole. Vocabularies with merges
// drawn at random hold what real ones do and more: tokens of two characters, and tokens that begin
// or end inside of one.
#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "tests/support/tier.h"
#include "worker/data/tokenizer/byte_level.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace graft::data {
namespace {

using Random = std::mt19937_64;
using Symbols = std::vector<std::string>;  // each the bytes of a token

constexpr absl::string_view kChars[] = {"\u4e2d", "\u56fd", "\u4eba", "\u3042", "\u3044",
                                        "\ud55c", "\uff0c", "a",      "\u00e9", "\U0001f600"};

std::string Text(Random& random, int chars) {
  std::string text;
  for (int i = 0; i < chars; ++i) absl::StrAppend(&text, kChars[random() % std::size(kChars)]);
  return text;
}

Symbols Bytes(const std::string& text) {
  Symbols symbols;
  for (const char byte : text) symbols.emplace_back(1, byte);
  return symbols;
}

class Vocabulary {
 public:
  // Merges neighbours of random texts, drawn at random.
  Vocabulary(Random& random, int merges) {
    std::vector<Symbols> corpus;
    for (int i = 0; i < 30; ++i) corpus.push_back(Bytes(Text(random, 12)));
    while (static_cast<int>(merges_.size()) < merges) {
      const Symbols& from = corpus[random() % corpus.size()];
      if (from.size() < 2) return;
      const size_t at = random() % (from.size() - 1);
      const auto pair = std::make_pair(from[at], from[at + 1]);
      if (!ranks_.emplace(pair, merges_.size()).second) continue;
      merges_.push_back(pair);
      for (Symbols& symbols : corpus) Apply(pair, symbols);
    }
  }

  // Byte-pair encoding as its definition has it.
  Symbols Encode(const std::string& text) const {
    Symbols symbols = Bytes(text);
    for (;;) {
      size_t best = merges_.size();
      for (size_t i = 0; i + 1 < symbols.size(); ++i) {
        const auto rank = ranks_.find({symbols[i], symbols[i + 1]});
        if (rank != ranks_.end()) best = std::min(best, rank->second);
      }
      if (best == merges_.size()) return symbols;
      Apply(merges_[best], symbols);
    }
  }

  std::string TokenizerJson() const {
    Json vocab = Json::MakeObject(), merges = Json::MakeArray();
    const auto add = [&](const std::string& bytes) {
      const Json* known = vocab.Find(Printable(bytes));
      if (known == nullptr) vocab.Set(Printable(bytes), vocab.as_object().size());
    };
    for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
    for (const auto& [left, right] : merges_) {
      add(left + right);
      merges.Append(Json(Json::Array{Json(Printable(left)), Json(Printable(right))}));
    }
    Json model = Json::MakeObject().Set("type", "BPE").Set("vocab", std::move(vocab));
    model.Set("merges", std::move(merges));
    return Json::MakeObject()
        .Set("pre_tokenizer", Json::MakeObject()
                                  .Set("type", "ByteLevel")
                                  .Set("add_prefix_space", false)
                                  .Set("trim_offsets", false)
                                  .Set("use_regex", false))
        .Set("model", std::move(model))
        .Dump();
  }

  static std::string Printable(const std::string& bytes) {
    std::string text;
    AppendPrintable(bytes, text);
    return text;
  }

 private:
  static void Apply(const std::pair<std::string, std::string>& pair, Symbols& symbols) {
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      if (symbols[i] != pair.first || symbols[i + 1] != pair.second) continue;
      symbols[i] += symbols[i + 1];
      symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(i) + 1);
    }
  }

  std::vector<std::pair<std::string, std::string>> merges_;
  std::map<std::pair<std::string, std::string>, size_t> ranks_;
};

TEST(CharSeamsTest, PartsGiveTheTokensOfTheWhole) {
  Random random(11);
  for (int round = 0; round < testing::ByTier(20, 400, 10000); ++round) {
    const Vocabulary vocabulary(random, 5 + round % 60);
    GRAFT_ASSERT_OK_AND_ASSIGN(const auto tokenizer,
                               Tokenizer::FromJson(vocabulary.TokenizerJson()));
    for (int i = 0; i < 60; ++i) {
      const std::string text = Text(random, 1 + static_cast<int>(random() % 25));
      GRAFT_ASSERT_OK_AND_ASSIGN(const Encoding encoding, tokenizer->Encode(text));
      std::vector<std::string> got, want;
      for (const int32_t id : encoding.ids) got.emplace_back(*tokenizer->IdToToken(id));
      for (const std::string& symbol : vocabulary.Encode(text)) {
        want.push_back(Vocabulary::Printable(symbol));
      }
      ASSERT_EQ(got, want) << text << " in round " << round;
    }
  }
}

}  // namespace
}  // namespace graft::data
