#include "worker/data/tokenizer/charsmap.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "worker/data/unicode/unicode.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr size_t kMaxGrapheme = 5;  // bytes; longer ones are looked up character by character

// A unit of the trie (darts-clone's layout).
uint32_t OffsetOf(uint32_t unit) { return (unit >> 10) << ((unit & (1u << 9)) >> 6); }
bool HasLeaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t LabelOf(uint32_t unit) { return unit & ((1u << 31) | 0xff); }
uint32_t ValueOf(uint32_t unit) { return unit & ((1u << 31) - 1); }

bool ExtendsGrapheme(uint32_t c) {
  return InCategories(c, kMarks) || c == 0x200c || c == 0x200d || (c >= 0x1f3fb && c <= 0x1f3ff);
}

// The end of the grapheme that begins at `at`: marks join what is before them, and Hangul jamo and
// carriage return with line feed stay together.
size_t GraphemeEnd(absl::string_view text, size_t at) {
  uint32_t last = NextCodePoint(text, at);
  while (at < text.size()) {
    size_t next = at;
    const uint32_t c = NextCodePoint(text, next);
    const bool last_breaks =
        InCategories(last, SetOf(Category::kCc) | SetOf(Category::kZl) | SetOf(Category::kZp));
    const bool lead = last >= 0x1100 && last <= 0x115f;
    const bool vowel = last >= 0x1160 && last <= 0x11a7;
    const bool tail = last >= 0x11a8 && last <= 0x11ff;
    const bool jamo = (lead && ((c >= 0x1100 && c <= 0x11a7) || (c >= 0xac00 && c <= 0xd7a3))) ||
                      (vowel && c >= 0x1160 && c <= 0x11ff) || (tail && c >= 0x11a8 && c <= 0x11ff);
    const bool joined = (last == '\r' && c == '\n') || jamo || (!last_breaks && ExtendsGrapheme(c));
    if (!joined) break;
    last = c;
    at = next;
  }
  return at;
}

// `form` in the place of `old_count` characters.
void AppendForm(absl::string_view form, size_t old_count, std::vector<CharChange>& changes) {
  const size_t first = changes.size();
  for (size_t at = 0; at < form.size();) changes.push_back({NextCodePoint(form, at), 0});
  const size_t new_count = changes.size() - first;
  for (size_t i = old_count; i < new_count; ++i) changes[first + i].change = 1;
  if (new_count < old_count && !changes.empty()) {
    changes.back().change -= static_cast<int32_t>(old_count - new_count);
  }
}

}  // namespace

absl::StatusOr<Charsmap> Charsmap::Parse(absl::string_view bytes) {
  uint32_t trie_bytes = 0;
  if (bytes.size() >= sizeof(trie_bytes)) std::memcpy(&trie_bytes, bytes.data(), 4);
  if (bytes.size() < 8 || trie_bytes % 4 != 0 || trie_bytes == 0 || trie_bytes > bytes.size() - 4) {
    return absl::InvalidArgumentError(absl::StrCat("the precompiled character map of ",
                                                   bytes.size(), " bytes is cut short or is none"));
  }
  Charsmap map;
  map.units_.resize(trie_bytes / 4);
  std::memcpy(map.units_.data(), bytes.data() + 4, trie_bytes);
  map.forms_ = std::string(bytes.substr(4 + trie_bytes));
  if (!IsValidUtf8(map.forms_)) {
    return absl::InvalidArgumentError("the precompiled character map holds text that is not UTF-8");
  }
  return map;
}

absl::string_view Charsmap::FormAt(uint32_t offset) const {
  if (offset >= forms_.size() || IsUtf8Continuation(forms_[offset])) return "";
  const size_t end = forms_.find('\0', offset);
  return absl::string_view(forms_).substr(
      offset, end == std::string::npos ? absl::string_view::npos : end - offset);
}

absl::optional<absl::string_view> Charsmap::FirstPrefix(absl::string_view text) const {
  uint32_t node = OffsetOf(units_[0]);
  for (const char byte : text) {
    if (byte == '\0') break;
    node ^= static_cast<uint8_t>(byte);
    if (node >= units_.size() || LabelOf(units_[node]) != static_cast<uint8_t>(byte)) break;
    const uint32_t unit = units_[node];
    node ^= OffsetOf(unit);
    if (!HasLeaf(unit)) continue;
    if (node >= units_.size()) break;
    return FormAt(ValueOf(units_[node]));
  }
  return absl::nullopt;
}

absl::optional<absl::string_view> Charsmap::LongestPrefix(absl::string_view text,
                                                          size_t& length) const {
  absl::optional<absl::string_view> found;
  uint32_t node = OffsetOf(units_[0]);
  for (size_t i = 0; i < text.size() && text[i] != '\0'; ++i) {
    node ^= static_cast<uint8_t>(text[i]);
    if (node >= units_.size() || LabelOf(units_[node]) != static_cast<uint8_t>(text[i])) break;
    const uint32_t unit = units_[node];
    node ^= OffsetOf(unit);
    if (!HasLeaf(unit)) continue;
    if (node >= units_.size()) break;
    found = FormAt(ValueOf(units_[node]));
    length = i + 1;
  }
  return found;
}

bool Charsmap::Transform(absl::string_view text, std::vector<CharChange>& changes) const {
  bool changed = false;
  for (size_t at = 0; at < text.size();) {
    const size_t end = GraphemeEnd(text, at);
    const absl::string_view grapheme = text.substr(at, end - at);
    const size_t start = at;
    at = end;
    if (grapheme.size() <= kMaxGrapheme) {
      if (const auto form = FirstPrefix(grapheme)) {
        AppendForm(*form, CountCodePoints(grapheme), changes);
        changed = true;
        continue;
      }
    }
    for (size_t i = start; i < end;) {
      const size_t char_start = i;
      const uint32_t code_point = NextCodePoint(text, i);
      if (const auto form = FirstPrefix(text.substr(char_start, i - char_start))) {
        AppendForm(*form, 1, changes);
        changed = true;
      } else {
        changes.push_back({code_point, 0});
      }
    }
  }
  return changed;
}

}  // namespace graft::data
