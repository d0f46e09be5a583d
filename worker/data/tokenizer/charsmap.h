// SentencePiece's precompiled character map: a double-array trie from character sequences to their
// normalised forms. Immutable after Parse.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "worker/data/unicode/normalize.h"

namespace graft::data {

class Charsmap {
 public:
  // INVALID_ARGUMENT where the bytes are no character map.
  static absl::StatusOr<Charsmap> Parse(absl::string_view bytes);

  // Rewrites `text` character by character, or grapheme by grapheme where the map has an entry for
  // a whole one of at most 5 bytes. False where nothing changed.
  bool Transform(absl::string_view text, std::vector<CharChange>& changes) const;

  // The normal form of the longest prefix of `text` that the map has, and the prefix's length.
  absl::optional<absl::string_view> LongestPrefix(absl::string_view text, size_t& length) const;

 private:
  // The normal form of the shortest prefix of `text` in the map, as the reference looks it up.
  absl::optional<absl::string_view> FirstPrefix(absl::string_view text) const;
  absl::string_view FormAt(uint32_t offset) const;

  std::vector<uint32_t> units_;
  std::string forms_;  // zero-terminated strings
};

}  // namespace graft::data
