// SentencePiece models, turned into the parts of a tokenizer.json as the reference converts them.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "base/json.h"
#include "worker/data/tokenizer/model.h"

namespace graft::data {

struct SentencePieceModel {
  struct Piece {
    std::string text;
    float score = 0;
    int32_t type = 1;  // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
  };
  std::vector<Piece> pieces;  // by id
  bool unigram = true;        // else BPE
  bool byte_fallback = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  std::string precompiled_charsmap;
  int32_t unk_id = 0;
  absl::optional<int32_t> bos_id;
  absl::optional<int32_t> eos_id;
};

// Reads the bytes of a `.model` file. INVALID_ARGUMENT where they are no such file; UNIMPLEMENTED
// for its other model types (word, char).
absl::StatusOr<SentencePieceModel> ParseSentencePiece(absl::string_view bytes);

// Normalizer, pre-tokenizer and decoder, as members of a tokenizer.json.
absl::StatusOr<Json> SentencePieceParts(const SentencePieceModel& model);
absl::StatusOr<std::unique_ptr<Model>> MakeSentencePieceModel(const SentencePieceModel& model);

}  // namespace graft::data
