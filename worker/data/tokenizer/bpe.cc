#include "worker/data/tokenizer/bpe.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/byte_level.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr uint64_t kNoPair = std::numeric_limits<uint64_t>::max();
constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();
// Up to this many symbols the lowest rank is found by looking at all of them.
constexpr size_t kShortWord = 64;

uint64_t PairOf(int32_t left, int32_t right) {
  return static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
}

uint64_t HashPair(uint64_t pair) {
  pair *= 0x9e3779b97f4a7c15u;
  return pair ^ pair >> 32;
}
constexpr size_t kMergeBlock = 64;
// The filter has at most this many words of 64 bits: 512 KiB.
constexpr size_t kMaxFilter = size_t{1} << 16;

}  // namespace

absl::StatusOr<std::unique_ptr<BpeModel>> BpeModel::Create(TokenTable vocab,
                                                           const std::vector<Merge>& merges,
                                                           BpeOptions options, bool raw_bytes) {
  std::unique_ptr<BpeModel> model(new BpeModel(std::move(vocab), std::move(options)));
  if (model->options_.unk_token) model->unk_id_ = model->vocab_.Find(*model->options_.unk_token);
  GRAFT_RETURN_IF_ERROR(model->AddMerges(merges));
  GRAFT_RETURN_IF_ERROR(model->SetUpBytes(raw_bytes));
  return model;
}

absl::Status BpeModel::AddMerges(const std::vector<Merge>& merges) {
  if (merges.size() >= kNoRank) return absl::InvalidArgumentError("model.merges: too many merges");
  size_t slots = 16;
  while (slots < merges.size() + merges.size() / 2) slots *= 2;
  pairs_.assign(slots, {kNoPair, kNoRank, 0});
  pair_mask_ = slots - 1;
  filter_.assign(std::min(kMaxFilter, std::max<size_t>(1, slots / 8)), 0);
  filter_mask_ = filter_.size() - 1;
  const size_t prefix =
      options_.continuing_subword_prefix ? options_.continuing_subword_prefix->size() : 0;
  // In blocks: the places of a block's tokens are fetched from memory all at once.
  struct Merging {
    uint64_t left_hash, right_hash;
    PairSlot slot;
  };
  std::vector<Merging> block(std::min(kMergeBlock, merges.size()));
  int32_t last = TokenTable::kNone;
  for (size_t start = 0; start < merges.size(); start += kMergeBlock) {
    const size_t count = std::min(kMergeBlock, merges.size() - start);
    for (size_t i = 0; i < count; ++i) {
      Merging& merging = block[i];
      merging.left_hash = HashBytes(merges[start + i].first);
      merging.right_hash = HashBytes(merges[start + i].second);
      vocab_.PrefetchSlot(merging.left_hash);
      vocab_.PrefetchSlot(merging.right_hash);
    }
    for (size_t i = 0; i < count; ++i) {
      vocab_.PrefetchText(block[i].left_hash);
      vocab_.PrefetchText(block[i].right_hash);
    }
    for (size_t i = 0; i < count; ++i) {
      const auto& [left, right] = merges[start + i];
      const int32_t left_id = vocab_.FindHashed(left, block[i].left_hash);
      const int32_t right_id = vocab_.FindHashed(right, block[i].right_hash);
      const int32_t merged_id =
          right.size() < prefix ? TokenTable::kNone : FindMerged(left, right.substr(prefix), last);
      if (left_id < 0 || right_id < 0 || merged_id < 0) {
        return absl::InvalidArgumentError(
            absl::StrCat("model.merges[", start + i, "] joins '", left, "' and '", right,
                         "', but the vocabulary lacks one of them or what they make"));
      }
      last = merged_id;
      block[i].slot = {PairOf(left_id, right_id), static_cast<uint32_t>(start + i), merged_id};
      __builtin_prefetch(&pairs_[HashPair(block[i].slot.pair) & pair_mask_]);
    }
    for (size_t i = 0; i < count; ++i) InsertPair(block[i].slot);
  }
  return absl::OkStatus();
}

// The token that the two make. Vocabularies are mostly in the order of their merges, so the token
// of the merge before (`last`) and its successor are looked at first.
int32_t BpeModel::FindMerged(absl::string_view left, absl::string_view right, int32_t last) const {
  const size_t length = left.size() + right.size();
  for (const int32_t guess : {last, last + 1}) {
    const absl::string_view text = vocab_.Text(guess);
    if (text.size() == length && text.substr(0, left.size()) == left &&
        text.substr(left.size()) == right) {
      return guess;
    }
  }
  return vocab_.Find(absl::StrCat(left, right));
}

void BpeModel::InsertPair(const PairSlot& slot) {
  const uint64_t hash = HashPair(slot.pair);
  filter_[hash >> 6 & filter_mask_] |= uint64_t{1} << (hash & 63);
  uint64_t at = hash & pair_mask_;
  while (pairs_[at].pair != kNoPair && pairs_[at].pair != slot.pair) {
    at = (at + 1) & pair_mask_;
  }
  pairs_[at] = slot;
}

inline const BpeModel::PairSlot* BpeModel::FindPair(int32_t left, int32_t right) const {
  const uint64_t pair = PairOf(left, right);
  const uint64_t hash = HashPair(pair);
  if (!MayHavePair(hash)) return nullptr;
  for (uint64_t at = hash & pair_mask_;; at = (at + 1) & pair_mask_) {
    if (pairs_[at].pair == pair) return &pairs_[at];
    if (pairs_[at].pair == kNoPair) return nullptr;
  }
}

absl::Status BpeModel::SetUpBytes(bool raw_bytes) {
  byte_ids_.fill(TokenTable::kNone);
  if (options_.byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      byte_ids_[byte] = vocab_.Find(absl::StrFormat("<0x%02X>", byte));
    }
    return absl::OkStatus();
  }
  if (!raw_bytes || options_.continuing_subword_prefix || options_.end_of_word_suffix) {
    return absl::OkStatus();
  }
  for (int byte = 0; byte < 256; ++byte) {
    std::string token;
    AppendCodePoint(CharOfByte(static_cast<uint8_t>(byte)), token);
    byte_ids_[byte] = vocab_.Find(token);
    if (byte_ids_[byte] < 0) return absl::OkStatus();
  }
  raw_bytes_ = true;
  return absl::OkStatus();
}

int32_t BpeModel::WholePiece(absl::string_view piece, ModelScratch& scratch) const {
  if (!options_.ignore_merges || piece.size() > vocab_.longest()) return TokenTable::kNone;
  if (!raw_bytes_) return vocab_.Find(piece);
  scratch.text.clear();
  AppendPrintable(piece, scratch.text);
  return vocab_.Find(scratch.text);
}

absl::Status BpeModel::AddUnknown(absl::string_view symbol, uint32_t length, TokenSpan& unknown,
                                  ModelScratch& scratch) const {
  if (options_.byte_fallback) {
    const bool all = std::all_of(symbol.begin(), symbol.end(), [this](char byte) {
      return byte_ids_[static_cast<uint8_t>(byte)] >= 0;
    });
    if (all) {
      for (const char byte : symbol) {
        scratch.tokens.push_back({byte_ids_[static_cast<uint8_t>(byte)], 1});
      }
      return absl::OkStatus();
    }
  }
  if (!options_.unk_token) return absl::OkStatus();
  if (unk_id_ < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("the unknown token '", *options_.unk_token, "' is not in the vocabulary"));
  }
  if (unknown.length > 0 && options_.fuse_unk) {
    unknown.length += length;
    return absl::OkStatus();
  }
  if (unknown.length > 0) scratch.tokens.push_back(unknown);
  unknown = {unk_id_, length};
  return absl::OkStatus();
}

absl::Status BpeModel::FirstSymbols(absl::string_view piece, ModelScratch& scratch) const {
  // An unknown symbol waits for its neighbours. As in the reference it waits too while the bytes of
  // later symbols are added, and so comes behind them.
  TokenSpan unknown = {0, 0};
  for (size_t at = 0; at < piece.size();) {
    const uint32_t length = Utf8Length(piece[at]);
    absl::string_view symbol = piece.substr(at, length);
    const bool first = at == 0;
    at += length;
    const bool prefixed = !first && options_.continuing_subword_prefix;
    const bool suffixed = at == piece.size() && options_.end_of_word_suffix;
    if (prefixed || suffixed) {
      scratch.text = absl::StrCat(prefixed ? *options_.continuing_subword_prefix : "", symbol,
                                  suffixed ? *options_.end_of_word_suffix : "");
      symbol = scratch.text;
    }
    const int32_t id = vocab_.Find(symbol);
    if (id < 0) {
      GRAFT_RETURN_IF_ERROR(AddUnknown(symbol, length, unknown, scratch));
      continue;
    }
    if (unknown.length > 0) scratch.tokens.push_back(unknown);
    unknown = {0, 0};
    scratch.tokens.push_back({id, length});
  }
  if (unknown.length > 0) scratch.tokens.push_back(unknown);
  return absl::OkStatus();
}

void BpeModel::MergeShort(std::vector<TokenSpan>& word) const {
  // ranks[i] and merged[i] are of the pair word[i], word[i + 1].
  uint32_t ranks[kShortWord];
  int32_t merged[kShortWord];
  size_t count = word.size();
  const auto look_up = [&](size_t i) {
    const PairSlot* slot = FindPair(word[i].id, word[i + 1].id);
    ranks[i] = slot == nullptr ? kNoRank : slot->rank;
    merged[i] = slot == nullptr ? 0 : slot->merged;
  };
  for (size_t i = 0; i + 1 < count; ++i) look_up(i);
  while (count > 1) {
    size_t best = 0;
    uint32_t lowest = ranks[0];
    for (size_t i = 1; i + 1 < count; ++i) {
      best = ranks[i] < lowest ? i : best;
      lowest = std::min(ranks[i], lowest);
    }
    if (lowest == kNoRank) break;
    word[best] = {merged[best], word[best].length + word[best + 1].length};
    // What is behind the pair moves one place to the left; the rank before `best + 1` is new
    // anyway.
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      word[i] = word[i + 1];
      ranks[i - 1] = ranks[i];
      merged[i - 1] = merged[i];
    }
    if (best + 1 < count) look_up(best);
    if (best > 0) look_up(best - 1);
  }
  word.resize(count);
}

// A heap of (rank, place) over a linked list of symbols; an entry whose pair is gone is dropped
// when it comes up.
void BpeModel::MergeLong(std::vector<TokenSpan>& word, ModelScratch& scratch) const {
  const auto count = static_cast<int32_t>(word.size());
  std::vector<int32_t>& links = scratch.symbols;  // previous at 2i, next at 2i + 1
  std::vector<uint64_t>& heap = scratch.merges;
  links.resize(word.size() * 2);
  heap.clear();
  const auto push = [&](int32_t left, int32_t right) {
    const PairSlot* slot = FindPair(word[left].id, word[right].id);
    if (slot == nullptr) return;
    heap.push_back(static_cast<uint64_t>(slot->rank) << 32 | static_cast<uint32_t>(left));
    std::push_heap(heap.begin(), heap.end(), std::greater<>());
  };
  for (int32_t i = 0; i < count; ++i) {
    links[2 * i] = i - 1;
    links[2 * i + 1] = i + 1 < count ? i + 1 : -1;
  }
  for (int32_t i = 0; i + 1 < count; ++i) push(i, i + 1);
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end(), std::greater<>());
    const auto rank = static_cast<uint32_t>(heap.back() >> 32);
    const auto left = static_cast<int32_t>(heap.back() & 0xffffffffu);
    heap.pop_back();
    if (word[left].length == 0 || links[2 * left + 1] < 0) continue;
    const int32_t right = links[2 * left + 1];
    const PairSlot* slot = FindPair(word[left].id, word[right].id);
    if (slot == nullptr || slot->rank != rank) continue;
    word[left] = {slot->merged, word[left].length + word[right].length};
    word[right].length = 0;
    const int32_t next = links[2 * right + 1];
    links[2 * left + 1] = next;
    if (next >= 0) {
      links[2 * next] = left;
      push(left, next);
    }
    if (links[2 * left] >= 0) push(links[2 * left], left);
  }
  word.erase(std::remove_if(word.begin(), word.end(),
                            [](const TokenSpan& token) { return token.length == 0; }),
             word.end());
}

const CharSeams& BpeModel::Seams() const {
  std::call_once(seams_made_, [this] { seams_ = std::make_unique<CharSeams>(vocab_); });
  return *seams_;
}

absl::Status BpeModel::Tokenize(absl::string_view piece, ModelScratch& scratch,
                                std::vector<TokenSpan>& out) const {
  const auto length = static_cast<uint32_t>(piece.size());
  if (raw_bytes_ && length == 1) {
    out.push_back({byte_ids_[static_cast<uint8_t>(piece[0])], 1});
    return absl::OkStatus();
  }
  const uint64_t hash = HashBytes(piece);
  if (length <= WordCache::kMaxWord && scratch.cache.Find(piece, hash, out)) {
    return absl::OkStatus();
  }
  if (const int32_t whole = WholePiece(piece, scratch); whole >= 0) {
    out.push_back({whole, length});
    scratch.cache.Insert(piece, hash, absl::MakeConstSpan(&out.back(), 1));
    return absl::OkStatus();
  }
  if (raw_bytes_ && CharSeams::MayHelp(piece)) {
    const size_t first = Seams().Next(piece, 0);
    if (first < length) {
      MergeParts(piece, first, scratch, out);
      return absl::OkStatus();
    }
  }
  GRAFT_RETURN_IF_ERROR(MergePiece(piece, scratch));
  out.insert(out.end(), scratch.tokens.begin(), scratch.tokens.end());
  scratch.cache.Insert(piece, hash, scratch.tokens);
  return absl::OkStatus();
}

// The tokens of a piece, which is not one itself, into scratch.tokens.
absl::Status BpeModel::MergePiece(absl::string_view piece, ModelScratch& scratch) const {
  std::vector<TokenSpan>& word = scratch.tokens;
  word.clear();
  if (raw_bytes_) {
    for (const char byte : piece) word.push_back({byte_ids_[static_cast<uint8_t>(byte)], 1});
  } else {
    GRAFT_RETURN_IF_ERROR(FirstSymbols(piece, scratch));
  }
  if (word.size() <= kShortWord) {
    MergeShort(word);
  } else {
    MergeLong(word, scratch);
  }
  return absl::OkStatus();
}

// The tokens of a piece with a seam at `seam`, part by part.
void BpeModel::MergeParts(absl::string_view piece, size_t seam, ModelScratch& scratch,
                          std::vector<TokenSpan>& out) const {
  // A part may be a piece elsewhere, and there be one token that merges alone do not make
  // (ignore_merges); so parts and pieces are told apart.
  constexpr uint64_t kPart = 0x5bf03635dcd5a1cdu;
  for (size_t begin = 0; begin < piece.size(); seam = Seams().Next(piece, begin)) {
    const absl::string_view part = piece.substr(begin, seam - begin);
    begin = seam;
    const uint64_t hash = HashBytes(part) ^ kPart;
    if (part.size() <= WordCache::kMaxWord && scratch.cache.Find(part, hash, out)) continue;
    MergePiece(part, scratch).IgnoreError();  // of bytes, which are all in the vocabulary
    out.insert(out.end(), scratch.tokens.begin(), scratch.tokens.end());
    scratch.cache.Insert(part, hash, scratch.tokens);
  }
}

Json BpeModel::ToJson() const {
  std::vector<const PairSlot*> ordered;
  for (const PairSlot& slot : pairs_) {
    if (slot.pair != kNoPair) ordered.push_back(&slot);
  }
  std::sort(ordered.begin(), ordered.end(),
            [](const PairSlot* a, const PairSlot* b) { return a->rank < b->rank; });
  Json::Array merges;
  merges.reserve(ordered.size());
  for (const PairSlot* slot : ordered) {
    // A pair, as a token may hold a space itself.
    merges.push_back(Json(Json::Array{Json(vocab_.Text(static_cast<int32_t>(slot->pair >> 32))),
                                      Json(vocab_.Text(static_cast<int32_t>(slot->pair)))}));
  }
  const auto optional = [](const absl::optional<std::string>& text) {
    return text ? Json(*text) : Json();
  };
  return Json::MakeObject()
      .Set("type", "BPE")
      .Set("dropout", Json())
      .Set("unk_token", optional(options_.unk_token))
      .Set("continuing_subword_prefix", optional(options_.continuing_subword_prefix))
      .Set("end_of_word_suffix", optional(options_.end_of_word_suffix))
      .Set("fuse_unk", options_.fuse_unk)
      .Set("byte_fallback", options_.byte_fallback)
      .Set("ignore_merges", options_.ignore_merges)
      .Set("vocab", vocab_.ToJson())
      .Set("merges", Json(std::move(merges)));
}

}  // namespace graft::data
