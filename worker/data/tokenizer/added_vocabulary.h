// The added tokens of a tokenizer, found in the text before the model sees it: first those that are
// looked for in the original text, then those looked for in the normalised text, each time the
// leftmost and of these the longest. Immutable after Build, safe for any number of threads.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "worker/data/tokenizer/aligned_text.h"
#include "worker/data/tokenizer/byte_trie.h"
#include "worker/data/tokenizer/normalizer.h"
#include "worker/data/tokenizer/token_table.h"
#include "worker/data/tokenizer/tokenizer.h"

namespace graft::data {

class AddedVocabulary {
 public:
  // Takes the tokens in the order in which the file names them. The id of each is the model's where
  // the model has the token, else the next free one, as in the reference; the ids given are not
  // read. `normalizer` may be null.
  absl::Status Build(std::vector<AddedToken> tokens, const TokenTable& model_vocab,
                     const Normalizer* normalizer);

  // Cuts `piece` of `text` at the added tokens of one kind and appends the parts, none empty.
  void Split(absl::string_view text, const Piece& piece, bool normalized, bool encode_special,
             std::vector<Piece>& out) const;
  bool has_normalized() const { return !normalized_.empty(); }

  // Ordered by id.
  const std::vector<AddedToken>& tokens() const { return tokens_; }
  const AddedToken* Find(int32_t id) const;
  const AddedToken* FindContent(absl::string_view content) const;
  // What the decoder is given for the token: its content, normalised where it is looked for so.
  absl::string_view DecodedText(const AddedToken& token) const;

 private:
  // The texts of one kind of tokens.
  class Finder {
   public:
    void Build(const std::vector<std::pair<std::string, int32_t>>& tokens);
    bool empty() const { return trie_.empty(); }
    bool Starts(char byte) const { return starts_[static_cast<uint8_t>(byte)]; }
    // The longest token at the start of `text`: its id, and its length; kNone where there is none.
    // Not where it is empty.
    int32_t Longest(absl::string_view text, size_t& length) const;

   private:
    ByteTrie trie_;
    std::array<bool, 256> starts_{};
  };

  std::vector<AddedToken> tokens_;
  std::vector<std::string> decoded_;  // beside tokens_; empty where it is the content
  std::vector<std::pair<std::string, size_t>> by_content_;  // sorted; places in tokens_
  Finder original_;
  Finder normalized_;
};

}  // namespace graft::data
