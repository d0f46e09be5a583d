// Byte-pair encoding: the symbols of a piece are merged pair by pair, the pair of lowest rank
// first, the leftmost of equal ranks. Behaves as the reference's BPE, without dropout.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "worker/data/tokenizer/char_seams.h"
#include "worker/data/tokenizer/model.h"

namespace graft::data {

struct BpeOptions {
  absl::optional<std::string> unk_token;
  absl::optional<std::string> continuing_subword_prefix;
  absl::optional<std::string> end_of_word_suffix;
  bool fuse_unk = false;
  bool byte_fallback = false;
  bool ignore_merges = false;
};

class BpeModel final : public Model {
 public:
  using Merge = std::pair<absl::string_view, absl::string_view>;

  // INVALID_ARGUMENT where a merge names or makes a token that the vocabulary lacks. With
  // `raw_bytes` pieces are given as the bytes of the text and the vocabulary spells them in
  // printable form (byte_level.h); ignored where the vocabulary lacks one of the 256 bytes or an
  // option reads characters.
  static absl::StatusOr<std::unique_ptr<BpeModel>> Create(TokenTable vocab,
                                                          const std::vector<Merge>& merges,
                                                          BpeOptions options, bool raw_bytes);

  absl::Status Tokenize(absl::string_view piece, ModelScratch& scratch,
                        std::vector<TokenSpan>& out) const override;
  const TokenTable& vocab() const override { return vocab_; }
  bool takes_raw_bytes() const override { return raw_bytes_; }
  Json ToJson() const override;

 private:
  struct PairSlot {
    uint64_t pair;
    uint32_t rank;
    int32_t merged;
  };

  BpeModel(TokenTable vocab, BpeOptions options)
      : vocab_(std::move(vocab)), options_(std::move(options)) {}

  absl::Status AddMerges(const std::vector<Merge>& merges);
  int32_t FindMerged(absl::string_view left, absl::string_view right, int32_t last) const;
  absl::Status SetUpBytes(bool raw_bytes);
  const PairSlot* FindPair(int32_t left, int32_t right) const;
  // Whether the pair may be in the table; most pairs that are looked for are not.
  bool MayHavePair(uint64_t hash) const {
    return (filter_[hash >> 6 & filter_mask_] >> (hash & 63) & 1) != 0;
  }
  void InsertPair(const PairSlot& slot);
  // The whole piece as one token, or kNone.
  int32_t WholePiece(absl::string_view piece, ModelScratch& scratch) const;

  absl::Status FirstSymbols(absl::string_view piece, ModelScratch& scratch) const;
  // Symbols that the vocabulary lacks: their bytes, or the unknown token.
  absl::Status AddUnknown(absl::string_view symbol, uint32_t length, TokenSpan& unknown,
                          ModelScratch& scratch) const;
  const CharSeams& Seams() const;
  absl::Status MergePiece(absl::string_view piece, ModelScratch& scratch) const;
  void MergeParts(absl::string_view piece, size_t seam, ModelScratch& scratch,
                  std::vector<TokenSpan>& out) const;
  void MergeShort(std::vector<TokenSpan>& word) const;
  void MergeLong(std::vector<TokenSpan>& word, ModelScratch& scratch) const;

  TokenTable vocab_;
  BpeOptions options_;
  bool raw_bytes_ = false;
  int32_t unk_id_ = TokenTable::kNone;
  std::array<int32_t, 256> byte_ids_{};  // of raw bytes, or of the tokens <0x00> to <0xFF>
  std::vector<PairSlot> pairs_;
  uint64_t pair_mask_ = 0;
  // A bit for each hash of a pair, small enough to stay in a near cache where `pairs_` does not.
  std::vector<uint64_t> filter_;
  uint64_t filter_mask_ = 0;
  // Made when the first piece needs them: many texts have none such.
  mutable std::once_flag seams_made_;
  mutable std::unique_ptr<const CharSeams> seams_;
};

}  // namespace graft::data
