// Characters as Python's str sees them: UTF-8 steps, white space, case.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace graft::jinja {

// The code point at `pos` and its length in bytes; a byte that starts none counts as one character
// of length 1 with its own value. pos < text.size().
struct CodePoint {
  uint32_t value = 0;
  int length = 1;
};
CodePoint DecodeAt(absl::string_view text, size_t pos);
// The first byte of the character that ends at `end`; end > 0.
size_t PreviousChar(absl::string_view text, size_t end);
void AppendUtf8(uint32_t code_point, std::string& out);

// str.isspace()
bool IsSpace(uint32_t c);
// str.isprintable(), by the ranges that matter for repr().
bool IsPrintable(uint32_t c);

// Full case mappings (one character may become three).
std::string ToUpper(absl::string_view text);
std::string ToLower(absl::string_view text);
std::string ToTitle(absl::string_view character);
bool IsUpper(uint32_t c);
bool IsLower(uint32_t c);
bool IsCased(uint32_t c);
bool IsAlpha(uint32_t c);
bool IsDigit(uint32_t c);

// Bytes of white space at either end of `text`.
size_t LeadingSpace(absl::string_view text);
size_t TrailingSpace(absl::string_view text);

}  // namespace graft::jinja
