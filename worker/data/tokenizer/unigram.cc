#include "worker/data/tokenizer/unigram.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr double kUnknownPenalty = 10.0;

}  // namespace

absl::StatusOr<std::unique_ptr<UnigramModel>> UnigramModel::Create(
    std::vector<std::pair<std::string, double>> vocab, absl::optional<int64_t> unk_id,
    bool byte_fallback) {
  std::unique_ptr<UnigramModel> model(new UnigramModel);
  if (unk_id && (*unk_id < 0 || *unk_id >= static_cast<int64_t>(vocab.size()))) {
    return absl::InvalidArgumentError(
        absl::StrCat("model.unk_id ", *unk_id, " is not in the vocabulary of ", vocab.size()));
  }
  model->vocab_.Reserve(vocab.size(), vocab.size() * 8);
  double least = std::numeric_limits<double>::infinity();
  for (size_t id = 0; id < vocab.size(); ++id) {
    GRAFT_RETURN_IF_ERROR(model->vocab_.Add(vocab[id].first, static_cast<int64_t>(id)));
    model->scores_.push_back(vocab[id].second);
    least = std::min(least, vocab[id].second);
  }
  model->unknown_score_ = least - kUnknownPenalty;
  if (unk_id) model->unk_id_ = static_cast<int32_t>(*unk_id);
  model->byte_fallback_ = byte_fallback;
  model->BuildTrie();
  return model;
}

void UnigramModel::BuildTrie() {
  std::vector<std::pair<absl::string_view, int32_t>> tokens;
  for (int32_t id = 0; id < vocab_.id_limit(); ++id) {
    if (!vocab_.Text(id).empty()) tokens.emplace_back(vocab_.Text(id), id);
  }
  trie_.Build(std::move(tokens));
}

// Tries every token that begins at `start`; where none is one character long the unknown token
// stands for it.
void UnigramModel::Extend(absl::string_view piece, uint32_t start, std::vector<Best>& best) const {
  const double here = best[start].score;
  const uint32_t char_length = Utf8Length(piece[start]);
  bool has_single = false;
  const auto offer = [&](uint32_t end, double score, int32_t id) {
    Best& target = best[end];
    if (!target.reached || score > target.score) target = {score, id, start, true};
  };
  const ByteTrie::Node* node = trie_.empty() ? nullptr : &trie_.root();
  for (uint32_t at = start; node != nullptr && at < piece.size(); ++at) {
    node = trie_.Child(*node, piece[at]);
    if (node == nullptr) break;
    if (node->id == ByteTrie::kNone) continue;
    offer(at + 1, here + scores_[node->id], node->id);
    has_single = has_single || at + 1 - start == char_length;
  }
  if (!has_single) offer(start + char_length, here + unknown_score_, unk_id_);
}

absl::Status UnigramModel::Emit(absl::string_view text, int32_t id,
                                std::vector<TokenSpan>& out) const {
  const auto length = static_cast<uint32_t>(text.size());
  if (id != unk_id_) {
    out.push_back({id, length});
    return absl::OkStatus();
  }
  // A stretch of unknown characters may spell a token all the same.
  if (const int32_t known = vocab_.Find(text); known >= 0) {
    out.push_back({known, length});
    return absl::OkStatus();
  }
  if (byte_fallback_) {
    std::vector<TokenSpan> bytes;
    for (const char byte : text) {
      const int32_t token = vocab_.Find(absl::StrFormat("<0x%02X>", static_cast<uint8_t>(byte)));
      if (token < 0) break;
      bytes.push_back({token, length | TokenSpan::kShared});
    }
    if (bytes.size() == text.size()) {
      bytes.back().length = length;
      out.insert(out.end(), bytes.begin(), bytes.end());
      return absl::OkStatus();
    }
  }
  if (unk_id_ < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the text holds '", text, "', which the vocabulary lacks, and it has no unknown token"));
  }
  out.push_back({unk_id_, length});
  return absl::OkStatus();
}

absl::Status UnigramModel::Tokenize(absl::string_view piece, ModelScratch& scratch,
                                    std::vector<TokenSpan>& out) const {
  const uint64_t hash = HashBytes(piece);
  if (piece.size() <= WordCache::kMaxWord && scratch.cache.Find(piece, hash, out)) {
    return absl::OkStatus();
  }
  std::vector<Best> best(piece.size() + 1);
  best[0].reached = true;
  for (uint32_t at = 0; at < piece.size(); at += Utf8Length(piece[at])) {
    if (!best[at].reached) continue;
    Extend(piece, at, best);
  }
  // From the end back; neighbouring unknown characters become one.
  struct Cut {
    uint32_t begin, end;
    int32_t id;
  };
  std::vector<Cut> cuts;
  for (auto end = static_cast<uint32_t>(piece.size()); end > 0; end = best[end].start) {
    const Cut cut = {best[end].start, end, best[end].id};
    if (cut.id == unk_id_ && !cuts.empty() && cuts.back().id == unk_id_) {
      cuts.back().begin = cut.begin;
    } else {
      cuts.push_back(cut);
    }
  }
  const size_t before = out.size();
  for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) {
    GRAFT_RETURN_IF_ERROR(Emit(piece.substr(cut->begin, cut->end - cut->begin), cut->id, out));
  }
  scratch.cache.Insert(piece, hash, absl::MakeConstSpan(out).subspan(before));
  return absl::OkStatus();
}

Json UnigramModel::ToJson() const {
  Json::Array tokens;
  for (int32_t id = 0; id < vocab_.id_limit(); ++id) {
    tokens.push_back(Json(Json::Array{Json(vocab_.Text(id)), Json(scores_[id])}));
  }
  return Json::MakeObject()
      .Set("type", "Unigram")
      .Set("unk_id", unk_id_ < 0 ? Json() : Json(unk_id_))
      .Set("vocab", Json(std::move(tokens)))
      .Set("byte_fallback", byte_fallback_);
}

}  // namespace graft::data
