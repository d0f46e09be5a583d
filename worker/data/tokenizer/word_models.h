// The two models that look words up: WordPiece, which cuts a word into the longest parts it knows
// from the left, and WordLevel, which knows whole words alone.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "worker/data/tokenizer/model.h"

namespace graft::data {

class WordPieceModel final : public Model {
 public:
  struct Options {
    std::string unk_token = "[UNK]";
    std::string continuing_subword_prefix = "##";
    int64_t max_input_chars_per_word = 100;
  };
  WordPieceModel(TokenTable vocab, Options options)
      : vocab_(std::move(vocab)), options_(std::move(options)) {}

  absl::Status Tokenize(absl::string_view piece, ModelScratch& scratch,
                        std::vector<TokenSpan>& out) const override;
  const TokenTable& vocab() const override { return vocab_; }
  Json ToJson() const override;

 private:
  TokenTable vocab_;
  Options options_;
};

class WordLevelModel final : public Model {
 public:
  WordLevelModel(TokenTable vocab, std::string unk_token)
      : vocab_(std::move(vocab)), unk_token_(std::move(unk_token)) {}

  absl::Status Tokenize(absl::string_view piece, ModelScratch& scratch,
                        std::vector<TokenSpan>& out) const override;
  const TokenTable& vocab() const override { return vocab_; }
  Json ToJson() const override;

 private:
  TokenTable vocab_;
  std::string unk_token_;
};

}  // namespace graft::data
