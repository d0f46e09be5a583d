// What turns one piece of pre-tokenized text into tokens: BPE, Unigram, WordPiece or WordLevel.
// Immutable after construction; Tokenize may be called by any number of threads, each with a
// scratch of its own.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "base/json.h"
#include "worker/data/tokenizer/token_table.h"
#include "worker/data/tokenizer/word_cache.h"

namespace graft::data {

// Buffers that calls reuse, and the word cache. Belongs to one call at a time.
struct ModelScratch {
  WordCache cache;
  std::vector<int32_t> symbols;
  std::vector<uint64_t> merges;
  std::vector<TokenSpan> tokens;
  std::string text;
};

class Model {
 public:
  virtual ~Model() = default;
  // Appends the tokens of `piece` (valid UTF-8, not empty) to `out`.
  virtual absl::Status Tokenize(absl::string_view piece, ModelScratch& scratch,
                                std::vector<TokenSpan>& out) const = 0;
  virtual const TokenTable& vocab() const = 0;
  // The member `model` of a tokenizer.json that makes this model again.
  virtual Json ToJson() const = 0;
  // The model takes the bytes of the text themselves instead of their printable form. See BpeModel.
  virtual bool takes_raw_bytes() const { return false; }
};

}  // namespace graft::data
