#include "worker/data/tokenizer/known_patterns.h"

#include <array>

#include "worker/data/unicode/unicode.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

enum Kind : uint8_t { kLetter, kNumber, kSpace, kOther };

// The classes that an expression tells apart. Marks count as letters where it says [\p{L}\p{M}].
template <bool kMarksAreLetters>
Kind KindOf(uint32_t code_point) {
  const CharRecord& record = RecordOf(code_point);
  constexpr CategorySet kLetterSet = kMarksAreLetters ? kLetters | kMarks : kLetters;
  if ((kLetterSet >> record.category & 1) != 0) return kLetter;
  if ((kNumbers >> record.category & 1) != 0) return kNumber;
  return (record.flags & kWhiteSpaceFlag) != 0 ? kSpace : kOther;
}

const std::array<Kind, 128>& AsciiKinds() {
  static const std::array<Kind, 128> kinds = [] {
    std::array<Kind, 128> table{};
    for (uint32_t c = 0; c < 128; ++c) table[c] = KindOf<false>(c);
    return table;
  }();
  return kinds;
}

// Walks over text that is valid UTF-8, one class at a time.
template <bool kMarksAreLetters>
class Walker {
 public:
  explicit Walker(absl::string_view text) : text_(text), ascii_(AsciiKinds().data()) {}

  size_t size() const { return text_.size(); }
  char operator[](size_t at) const { return text_[at]; }
  bool IsAt(size_t at, char c) const { return at < text_.size() && text_[at] == c; }

  // The class of the character at `at`; `next` is behind it.
  Kind At(size_t at, size_t& next) const {
    const auto byte = static_cast<uint8_t>(text_[at]);
    if (byte < 0x80) {
      next = at + 1;
      return ascii_[byte];
    }
    next = at;
    return KindOf<kMarksAreLetters>(NextCodePoint(text_, next));
  }
  bool Is(size_t at, Kind kind) const {
    size_t next = 0;
    return at < text_.size() && At(at, next) == kind;
  }
  // The end of the run of `kind` from `at` on.
  size_t RunEnd(size_t at, Kind kind) const {
    for (size_t next = at; at < text_.size(); at = next) {
      if (At(at, next) != kind) break;
    }
    return at;
  }
  // \s+(?!\S)|\s+ over the run of white space [at, end): all of it at the end of the text, else all
  // but its last character, but at least one.
  size_t SpaceEnd(size_t at, size_t end) const {
    if (end == text_.size()) return end;
    size_t last = end - 1;
    while (IsUtf8Continuation(text_[last])) --last;
    return last > at ? last : end;
  }

 private:
  absl::string_view text_;
  const Kind* ascii_;
};

bool IsNewline(char c) { return c == '\r' || c == '\n'; }

// The end of 's|'t|'re|'ve|'m|'ll|'d at `at`, or `at`.
size_t ContractionEnd(absl::string_view text, size_t at, bool ignore_case) {
  if (at + 1 >= text.size() || text[at] != '\'') return at;
  const auto lower = [&](size_t i) {
    const char c = i < text.size() ? text[i] : '\0';
    return ignore_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  };
  const char first = lower(at + 1);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return at + 2;
  const char second = lower(at + 2);
  if ((second == 'e' && (first == 'r' || first == 'v')) || (second == 'l' && first == 'l')) {
    return at + 3;
  }
  // U+017F, the long s, is an s when case is ignored.
  if (ignore_case && text.substr(at + 1, 2) == "\xc5\xbf") return at + 3;
  return at;
}

// Matches that follow one another without a gap; `next` gives the end of the one that begins at.
template <typename NextEnd>
void Tile(absl::string_view text, std::vector<Match>& matches, NextEnd next) {
  matches.clear();
  for (size_t at = 0; at < text.size();) {
    const size_t end = next(at);
    matches.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(end)});
    at = end;
  }
}

class Gpt2Finder final : public Finder {
 public:
  absl::Status Find(absl::string_view text, std::vector<Match>& matches) const override {
    const Walker<false> walker(text);
    Tile(text, matches, [&](size_t at) { return Next(text, walker, at); });
    return absl::OkStatus();
  }

 private:
  static size_t Next(absl::string_view text, const Walker<false>& walker, size_t at) {
    if (text[at] == '\'') {
      const size_t end = ContractionEnd(text, at, false);
      if (end != at) return end;
    }
    size_t next = 0;
    const Kind kind = walker.At(at, next);
    if (kind != kSpace) return walker.RunEnd(next, kind);
    if (text[at] == ' ' && next < text.size()) {
      size_t behind = 0;
      const Kind after = walker.At(next, behind);
      if (after != kSpace) return walker.RunEnd(behind, after);
    }
    return walker.SpaceEnd(at, walker.RunEnd(next, kSpace));
  }
};

// The expressions that followed cl100k: Llama 3 (numbers by threes), Qwen 2 (single ones) and Qwen
// 3.5 (marks count as letters).
template <int kMaxDigits, bool kMarksAreLetters>
class Cl100kFinder final : public Finder {
 public:
  absl::Status Find(absl::string_view text, std::vector<Match>& matches) const override {
    const W walker(text);
    Tile(text, matches, [&](size_t at) { return Next(text, walker, at); });
    return absl::OkStatus();
  }

 private:
  using W = Walker<kMarksAreLetters>;

  static size_t NumberEnd(const W& walker, size_t at) {
    for (int i = 0; i < kMaxDigits && at < walker.size(); ++i) {
      size_t next = 0;
      if (walker.At(at, next) != kNumber) break;
      at = next;
    }
    return at;
  }
  // [^\s\p{L}\p{N}]+[\r\n]*, from a character of the class on.
  static size_t OtherEnd(const W& walker, size_t at) {
    at = walker.RunEnd(at, kOther);
    while (at < walker.size() && IsNewline(walker[at])) ++at;
    return at;
  }
  // \s*[\r\n]+|\s+(?!\S)|\s+
  static size_t SpaceEnd(const W& walker, size_t at) {
    const size_t end = walker.RunEnd(at, kSpace);
    for (size_t i = end; i > at; --i) {
      if (IsNewline(walker[i - 1])) return i;
    }
    return walker.SpaceEnd(at, end);
  }
  static size_t Next(absl::string_view text, const W& walker, size_t at) {
    if (text[at] == '\'') {
      const size_t end = ContractionEnd(text, at, true);
      if (end != at) return end;
    }
    size_t next = 0;
    const Kind kind = walker.At(at, next);
    if (kind == kLetter) return walker.RunEnd(next, kLetter);
    if (kind == kNumber) return NumberEnd(walker, at);
    if (!IsNewline(text[at]) && walker.Is(next, kLetter)) return walker.RunEnd(next, kLetter);
    if (kind == kOther) return OtherEnd(walker, at);
    if (text[at] == ' ' && walker.Is(next, kOther)) return OtherEnd(walker, next);
    return SpaceEnd(walker, at);
  }
};

template <typename T>
std::unique_ptr<Finder> Make() {
  return std::make_unique<T>();
}

struct KnownPattern {
  absl::string_view pattern;
  std::unique_ptr<Finder> (*make)();
};

constexpr KnownPattern kKnown[] = {
    {kGpt2Pattern, Make<Gpt2Finder>},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     Make<Cl100kFinder<3, false>>},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     Make<Cl100kFinder<1, false>>},
    {R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     Make<Cl100kFinder<1, true>>},
};

}  // namespace

std::unique_ptr<Finder> MakeKnownPatternFinder(absl::string_view pattern) {
  for (const KnownPattern& known : kKnown) {
    if (known.pattern == pattern) return known.make();
  }
  return nullptr;
}

}  // namespace graft::data
