// The tokens of words met before. Bounded: when it is full it is emptied. Not thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace graft::data {

// A token and the number of bytes of the piece that it covers. With kShared the next token covers
// the same bytes.
struct TokenSpan {
  static constexpr uint32_t kShared = uint32_t{1} << 31;
  int32_t id;
  uint32_t length;
};

class WordCache {
 public:
  static constexpr size_t kSlots = size_t{1} << 15;
  static constexpr size_t kMaxWord = 128;  // bytes; longer words are seldom met again
  static constexpr size_t kMaxArena = size_t{2} << 20;

  // Appends the tokens of `word` to `out`; false where it is not known.
  bool Find(absl::string_view word, uint64_t hash, std::vector<TokenSpan>& out) const;
  void Insert(absl::string_view word, uint64_t hash, absl::Span<const TokenSpan> tokens);

 private:
  struct Slot {
    uint64_t hash;
    uint32_t text;
    uint32_t tokens;
    uint32_t text_length;
    uint32_t token_count;  // 0: the slot is free
  };
  void Clear();

  std::vector<Slot> slots_;  // made by the first Insert
  size_t used_ = 0;
  std::string arena_;
  std::vector<TokenSpan> tokens_;
};

}  // namespace graft::data
