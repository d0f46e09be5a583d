#include "worker/data/chat/jinja_chars.h"

#include <vector>

#include "absl/container/flat_hash_map.h"
#include "worker/data/unicode/normalize.h"
#include "worker/data/unicode/unicode.h"
#include "worker/data/unicode/utf8.h"

namespace graft::jinja {

using data::Category;
using data::InCategories;
using data::SetOf;

CodePoint DecodeAt(absl::string_view text, size_t pos) {
  const auto lead = static_cast<uint8_t>(text[pos]);
  if (lead < 0x80) return {lead, 1};
  size_t length = 1;
  if (!data::ReadUtf8Unit(text.substr(pos, 4), length)) return {lead, 1};
  size_t at = pos;
  return {data::NextCodePoint(text, at), static_cast<int>(length)};
}

size_t PreviousChar(absl::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && data::IsUtf8Continuation(text[end]));
  return end;
}

void AppendUtf8(uint32_t code_point, std::string& out) { data::AppendCodePoint(code_point, out); }

bool IsSpace(uint32_t c) {
  if (c < 0x80) return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20);
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool IsPrintable(uint32_t c) {
  if (c < 0x7F) return c >= 0x20;
  return !InCategories(c, data::kOthers | data::kSeparators);
}

bool IsUpper(uint32_t c) { return InCategories(c, SetOf(Category::kLu)); }
bool IsLower(uint32_t c) { return InCategories(c, SetOf(Category::kLl)); }
bool IsCased(uint32_t c) {
  return InCategories(c, SetOf(Category::kLu) | SetOf(Category::kLl) | SetOf(Category::kLt));
}
bool IsAlpha(uint32_t c) { return InCategories(c, data::kLetters); }
bool IsDigit(uint32_t c) { return InCategories(c, SetOf(Category::kNd)); }

namespace {

constexpr uint32_t kLastCased = 0x1E943;

// The inverse of the one-to-one lower-case mappings.
const absl::flat_hash_map<uint32_t, uint32_t>& UpperCases() {
  static const auto* const table = [] {
    auto* upper = new absl::flat_hash_map<uint32_t, uint32_t>();
    std::vector<uint32_t> lower;
    for (uint32_t c = 'A'; c <= kLastCased; ++c) {
      if (!InCategories(c, SetOf(Category::kLu))) continue;
      lower.clear();
      data::AppendLowerCase(c, lower);
      if (lower.size() == 1 && lower[0] != c) upper->emplace(lower[0], c);
    }
    for (const auto& [from, to] : {std::pair<uint32_t, uint32_t>{0xB5, 0x39C},
                                   {0x17F, 'S'},
                                   {0x3C2, 0x3A3},
                                   {0xFF, 0x178},
                                   {0x131, 'I'},
                                   {'k', 'K'},
                                   {0xE5, 0xC5},
                                   {0x3C9, 0x3A9}}) {
      (*upper)[from] = to;
    }
    return upper;
  }();
  return *table;
}

// Characters whose capital form is several characters.
const char* SpecialUpper(uint32_t c) {
  switch (c) {
    case 0xDF:
      return "SS";
    case 0x149:
      return "\xCA\xBCN";
    case 0x1F0:
      return "J\xCC\x8C";
    case 0xFB00:
      return "FF";
    case 0xFB01:
      return "FI";
    case 0xFB02:
      return "FL";
    case 0xFB03:
      return "FFI";
    case 0xFB04:
      return "FFL";
    case 0xFB05:
    case 0xFB06:
      return "ST";
    default:
      return nullptr;
  }
}

void AppendUpper(absl::string_view text, size_t pos, const CodePoint& c, std::string& out) {
  if (c.value < 0x80) {
    out += static_cast<char>(c.value >= 'a' && c.value <= 'z' ? c.value - 32 : c.value);
  } else if (const char* special = SpecialUpper(c.value); special != nullptr) {
    out += special;
  } else if (const auto it = UpperCases().find(c.value); it != UpperCases().end()) {
    AppendUtf8(it->second, out);
  } else {
    out.append(text.data() + pos, c.length);
  }
}

}  // namespace

std::string ToUpper(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = DecodeAt(text, pos);
    AppendUpper(text, pos, c, out);
    pos += c.length;
  }
  return out;
}

std::string ToTitle(absl::string_view character) {
  if (character == "\xC3\x9F") return "Ss";
  return ToUpper(character);
}

namespace {

// Python writes a capital sigma that ends a word as the final small one.
bool IsFinalSigma(absl::string_view text, size_t pos, int length) {
  if (pos == 0 || !IsCased(DecodeAt(text, PreviousChar(text, pos)).value)) return false;
  return pos + length >= text.size() || !IsCased(DecodeAt(text, pos + length).value);
}

}  // namespace

std::string ToLower(absl::string_view text) {
  std::string out;
  out.reserve(text.size());
  std::vector<uint32_t> lower;
  for (size_t pos = 0; pos < text.size();) {
    const CodePoint c = DecodeAt(text, pos);
    if (c.value < 0x80) {
      out += static_cast<char>(c.value >= 'A' && c.value <= 'Z' ? c.value + 32 : c.value);
    } else if (c.length == 1) {
      out += text[pos];
    } else if (c.value == 0x3A3 && IsFinalSigma(text, pos, c.length)) {
      AppendUtf8(0x3C2, out);
    } else {
      lower.clear();
      data::AppendLowerCase(c.value, lower);
      for (const uint32_t code_point : lower) AppendUtf8(code_point, out);
    }
    pos += c.length;
  }
  return out;
}

size_t LeadingSpace(absl::string_view text) {
  size_t pos = 0;
  while (pos < text.size()) {
    const CodePoint c = DecodeAt(text, pos);
    if (!IsSpace(c.value)) break;
    pos += c.length;
  }
  return pos;
}

size_t TrailingSpace(absl::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    const size_t start = PreviousChar(text, end);
    if (!IsSpace(DecodeAt(text, start).value)) break;
    end = start;
  }
  return text.size() - end;
}

}  // namespace graft::jinja
