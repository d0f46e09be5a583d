// Where a text may be cut before byte pairs are merged without changing a single token.
//
// Scripts without spaces (Chinese, Japanese, Korean) come in long pieces that are hardly ever met
// twice. A seam is a place between two characters that no token of the vocabulary reaches across;
// merges on its two sides know nothing of each other, so the parts give the tokens of the whole.
// Parts are words of a few characters and are met again and again, so a word cache knows them.
//
// Only characters of three bytes are looked at (U+0800 to U+FFFF, where these scripts live). A
// place that is no seam may be many things; one that is called a seam is one for certain. Immutable
// after construction; safe for any number of threads.
#pragma once

#include <bitset>
#include <cstddef>
#include <cstdint>

#include "absl/strings/string_view.h"
#include "worker/data/tokenizer/token_table.h"

namespace graft::data {

class CharSeams {
 public:
  // Whether `piece` is worth a search: a few characters, the last of which has three bytes.
  static bool MayHelp(absl::string_view piece) {
    return piece.size() >= 9 && (static_cast<uint8_t>(piece[piece.size() - 3]) & 0xf0) == 0xe0;
  }

  // `vocab` spells bytes in printable form (byte_level.h).
  explicit CharSeams(const TokenTable& vocab);

  // The first seam of `text`, which is valid UTF-8, behind byte `from`, the beginning of a
  // character; its size where there is none.
  size_t Next(absl::string_view text, size_t from) const;

 private:
  // Two characters that stand side by side in a token; by hash, so that more pairs than that may be
  // named. 128 KiB stay in a near cache.
  static constexpr int kPairBits = 20;
  static size_t HashOf(uint32_t left, uint32_t right) {
    return (left << 16 | right) * 0x9e3779b1u >> (32 - kPairBits);
  }
  void AddToken(absl::string_view bytes);

  std::bitset<size_t{1} << kPairBits> pairs_;
  // Last byte and first byte where a token that holds but a part of a character joins two.
  std::bitset<size_t{1} << 16> broken_;
};

}  // namespace graft::data
