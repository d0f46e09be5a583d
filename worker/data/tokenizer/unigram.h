// Unigram: of all ways to cut a piece into tokens the one with the largest sum of scores.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "worker/data/tokenizer/byte_trie.h"
#include "worker/data/tokenizer/model.h"

namespace graft::data {

class UnigramModel final : public Model {
 public:
  // Scores by id. INVALID_ARGUMENT where `unk_id` is not in the vocabulary.
  static absl::StatusOr<std::unique_ptr<UnigramModel>> Create(
      std::vector<std::pair<std::string, double>> vocab, absl::optional<int64_t> unk_id,
      bool byte_fallback);

  absl::Status Tokenize(absl::string_view piece, ModelScratch& scratch,
                        std::vector<TokenSpan>& out) const override;
  const TokenTable& vocab() const override { return vocab_; }
  Json ToJson() const override;

 private:
  // The best way to the byte where it stands.
  struct Best {
    double score = 0;
    int32_t id = TokenTable::kNone;
    uint32_t start = 0;
    bool reached = false;
  };

  UnigramModel() = default;
  void BuildTrie();
  void Extend(absl::string_view piece, uint32_t start, std::vector<Best>& best) const;
  absl::Status Emit(absl::string_view text, int32_t id, std::vector<TokenSpan>& out) const;

  TokenTable vocab_;
  std::vector<double> scores_;
  double unknown_score_ = 0;  // of a character that no token spells
  int32_t unk_id_ = TokenTable::kNone;
  bool byte_fallback_ = false;
  ByteTrie trie_;
};

}  // namespace graft::data
