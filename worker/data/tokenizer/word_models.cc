#include "worker/data/tokenizer/word_models.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

absl::Status AddUnknown(const TokenTable& vocab, absl::string_view unk_token,
                        absl::string_view piece, std::vector<TokenSpan>& out) {
  const int32_t unk = vocab.Find(unk_token);
  if (unk < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the text holds '", piece.substr(0, 100),
                     "', which the vocabulary lacks, and its unknown token '", unk_token,
                     "' is not in it either"));
  }
  out.push_back({unk, static_cast<uint32_t>(piece.size())});
  return absl::OkStatus();
}

}  // namespace

absl::Status WordPieceModel::Tokenize(absl::string_view piece, ModelScratch& scratch,
                                      std::vector<TokenSpan>& out) const {
  if (static_cast<int64_t>(CountCodePoints(piece)) > options_.max_input_chars_per_word) {
    return AddUnknown(vocab_, options_.unk_token, piece, out);
  }
  const size_t before = out.size();
  for (size_t start = 0; start < piece.size();) {
    const absl::string_view prefix =
        start > 0 ? absl::string_view(options_.continuing_subword_prefix) : "";
    // No token is longer than the longest; the rest need not be tried.
    size_t end = std::min(piece.size(), start + vocab_.longest());
    while (end < piece.size() && end > start && IsUtf8Continuation(piece[end])) --end;
    int32_t id = TokenTable::kNone;
    for (; end > start; --end) {
      if (end < piece.size() && IsUtf8Continuation(piece[end])) continue;
      scratch.text.assign(prefix.data(), prefix.size());
      scratch.text.append(piece.data() + start, end - start);
      id = vocab_.Find(scratch.text);
      if (id >= 0) break;
    }
    if (id < 0) {
      out.resize(before);
      return AddUnknown(vocab_, options_.unk_token, piece, out);
    }
    out.push_back({id, static_cast<uint32_t>(end - start)});
    start = end;
  }
  return absl::OkStatus();
}

absl::Status WordLevelModel::Tokenize(absl::string_view piece, ModelScratch& scratch,
                                      std::vector<TokenSpan>& out) const {
  const int32_t id = vocab_.Find(piece);
  if (id < 0) return AddUnknown(vocab_, unk_token_, piece, out);
  out.push_back({id, static_cast<uint32_t>(piece.size())});
  return absl::OkStatus();
}

Json WordPieceModel::ToJson() const {
  return Json::MakeObject()
      .Set("type", "WordPiece")
      .Set("unk_token", options_.unk_token)
      .Set("continuing_subword_prefix", options_.continuing_subword_prefix)
      .Set("max_input_chars_per_word", options_.max_input_chars_per_word)
      .Set("vocab", vocab_.ToJson());
}

Json WordLevelModel::ToJson() const {
  return Json::MakeObject()
      .Set("type", "WordLevel")
      .Set("vocab", vocab_.ToJson())
      .Set("unk_token", unk_token_);
}

}  // namespace graft::data
