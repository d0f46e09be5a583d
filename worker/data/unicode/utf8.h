// UTF-8, code point by code point.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace graft::data {

constexpr uint32_t kReplacementCharacter = 0xfffd;

// The length of the character that `lead` begins, in text that is known to be valid.
inline uint32_t Utf8Length(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

// Whether `byte` continues a character.
inline bool IsUtf8Continuation(char byte) { return (static_cast<uint8_t>(byte) & 0xc0) == 0x80; }

// Reads the character at text[at] of text that is known to be valid and moves `at` behind it.
inline uint32_t NextCodePoint(absl::string_view text, size_t& at) {
  const auto* p = reinterpret_cast<const uint8_t*>(text.data()) + at;
  if (p[0] < 0x80) {
    at += 1;
    return p[0];
  }
  if (p[0] < 0xe0) {
    at += 2;
    return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
  }
  if (p[0] < 0xf0) {
    at += 3;
    return (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
  }
  at += 4;
  return (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
}

// The character that ends at text[end], in valid text; end > 0.
inline uint32_t CodePointBefore(absl::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && IsUtf8Continuation(text[end]));
  return NextCodePoint(text, end);
}

void AppendCodePoint(uint32_t code_point, std::string& out);

// Reads one unit of text that may be broken, as Python's "replace" error handler does: either a
// whole character (returns true) or the longest start of one that cannot go on (returns false).
// `length` is its size in bytes, at least 1. `text` is not empty.
bool ReadUtf8Unit(absl::string_view text, size_t& length);

// The number of bytes at the start of `text` that are valid UTF-8.
size_t ValidUtf8Prefix(absl::string_view text);
inline bool IsValidUtf8(absl::string_view text) { return ValidUtf8Prefix(text) == text.size(); }

// `text` with each broken unit replaced by U+FFFD.
std::string ToValidUtf8(absl::string_view text);

size_t CountCodePoints(absl::string_view text);

}  // namespace graft::data
