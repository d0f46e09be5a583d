// The pre-tokenizers of a tokenizer.json: how text is cut into the pieces that the model sees one
// by one. Immutable after construction, safe for any number of threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/json.h"
#include "worker/data/tokenizer/aligned_text.h"

namespace graft::data {

// Pieces of one text. Those that are added tokens are left alone.
struct PreTokenized {
  AlignedText text;
  std::vector<Piece> pieces;
};

class PreTokenizer {
 public:
  virtual ~PreTokenizer() = default;
  virtual absl::Status Apply(PreTokenized& text) const = 0;
};

struct PreTokenizerParts {
  std::unique_ptr<PreTokenizer> splitter;  // null: the text is one piece
  // A ByteLevel came last: the pieces are the bytes of the text, and the model is to see them in
  // printable form unless it takes raw bytes.
  bool byte_level = false;
};

// From the member `pre_tokenizer`, null included.
absl::StatusOr<PreTokenizerParts> ParsePreTokenizer(const Json* json);

// Puts every piece into printable bytes, for a model that does not take raw bytes.
void ToPrintableBytes(PreTokenized& text);

}  // namespace graft::data
