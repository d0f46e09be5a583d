#include "worker/data/unicode/normalize.h"

#include <algorithm>

#include "worker/data/unicode/tables.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

// Hangul syllables are composed by arithmetic (Unicode, chapter 3.12).
constexpr uint32_t kSyllables = 0xac00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11a7;
constexpr uint32_t kLeadCount = 19, kVowelCount = 21, kTailCount = 28;
constexpr uint32_t kSyllableCount = kLeadCount * kVowelCount * kTailCount;

struct Unit {
  uint32_t code_point;
  int32_t change;
  uint8_t combining_class;
};

uint8_t ClassOf(uint32_t code_point) {
  return HasFlag(code_point, kHasClassFlag) ? tables::CombiningClass(code_point) : 0;
}

CharFlag UnstableFlag(NormalForm form) {
  switch (form) {
    case NormalForm::kNfc:
      return kNfcUnstableFlag;
    case NormalForm::kNfkc:
      return kNfkcUnstableFlag;
    case NormalForm::kNfd:
      return kNfdUnstableFlag;
    case NormalForm::kNfkd:
      return kNfkdUnstableFlag;
  }
  return kNfcUnstableFlag;
}

// Appends what `code_point` decomposes into; the first of it stands in its place.
void AppendDecomposed(uint32_t code_point, bool compatible, std::vector<Unit>& out) {
  if (code_point - kSyllables < kSyllableCount) {
    const uint32_t index = code_point - kSyllables;
    out.push_back({kLeads + index / (kVowelCount * kTailCount), 0, 0});
    out.push_back({kVowels + index % (kVowelCount * kTailCount) / kTailCount, 1, 0});
    if (index % kTailCount != 0) out.push_back({kTails + index % kTailCount, 1, 0});
    return;
  }
  absl::Span<const uint32_t> parts;
  if (HasFlag(code_point, kNfkdUnstableFlag)) {
    if (compatible) parts = tables::Compatible(code_point);
    if (parts.empty()) parts = tables::Canonical(code_point);
  }
  if (parts.empty()) {
    out.push_back({code_point, 0, ClassOf(code_point)});
    return;
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    out.push_back({parts[i], i == 0 ? 0 : 1, ClassOf(parts[i])});
  }
}

std::vector<Unit> Decomposed(absl::string_view text, bool compatible) {
  std::vector<Unit> units;
  units.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    AppendDecomposed(NextCodePoint(text, at), compatible, units);
  }
  // Marks between two characters of class 0 go into the order of their classes.
  for (size_t i = 0; i < units.size();) {
    if (units[i].combining_class == 0) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < units.size() && units[end].combining_class != 0) ++end;
    std::stable_sort(
        units.begin() + static_cast<ptrdiff_t>(i), units.begin() + static_cast<ptrdiff_t>(end),
        [](const Unit& a, const Unit& b) { return a.combining_class < b.combining_class; });
    i = end;
  }
  return units;
}

uint32_t ComposePair(uint32_t first, uint32_t second) {
  if (first - kLeads < kLeadCount && second - kVowels < kVowelCount) {
    return kSyllables + ((first - kLeads) * kVowelCount + second - kVowels) * kTailCount;
  }
  if (first - kSyllables < kSyllableCount && (first - kSyllables) % kTailCount == 0 &&
      second - (kTails + 1) < kTailCount - 1) {
    return first + (second - kTails);
  }
  return tables::Compose(first, second);
}

// A mark that composes with the last starter goes into it unless a mark of its class or a higher
// one stands between them.
std::vector<CharChange> Composed(const std::vector<Unit>& units) {
  std::vector<CharChange> out;
  out.reserve(units.size());
  size_t starter = units.size();  // its place in `out`; none yet
  int last_class = -1;            // of the mark behind the starter that did not compose
  for (const Unit& unit : units) {
    const bool has_starter = starter < out.size();
    if (has_starter && last_class < unit.combining_class) {
      const uint32_t composed = ComposePair(out[starter].code_point, unit.code_point);
      if (composed != 0) {
        out[starter].code_point = composed;
        out[starter].change += unit.change - 1;
        continue;
      }
    }
    if (unit.combining_class == 0) {
      starter = out.size();
      last_class = -1;
    } else if (has_starter) {
      last_class = unit.combining_class;
    }
    out.push_back({unit.code_point, unit.change});
  }
  return out;
}

}  // namespace

bool IsNormalized(absl::string_view text, NormalForm form) {
  const CharFlag flag = UnstableFlag(form);
  for (size_t at = 0; at < text.size();) {
    if (static_cast<uint8_t>(text[at]) < 0x80) {
      ++at;  // no form changes ASCII, and nothing in it combines
      continue;
    }
    if (HasFlag(NextCodePoint(text, at), flag)) return false;
  }
  return true;
}

std::vector<CharChange> Normalize(absl::string_view text, NormalForm form) {
  const bool compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  const std::vector<Unit> units = Decomposed(text, compatible);
  if (form == NormalForm::kNfc || form == NormalForm::kNfkc) return Composed(units);
  std::vector<CharChange> out;
  out.reserve(units.size());
  for (const Unit& unit : units) out.push_back({unit.code_point, unit.change});
  return out;
}

void AppendLowerCase(uint32_t code_point, std::vector<uint32_t>& out) {
  if (code_point < 0x80) {
    out.push_back(code_point >= 'A' && code_point <= 'Z' ? code_point + 32 : code_point);
    return;
  }
  if (HasFlag(code_point, kHasLowerFlag)) {
    const absl::Span<const uint32_t> lower = tables::Lower(code_point);
    out.insert(out.end(), lower.begin(), lower.end());
    return;
  }
  out.push_back(code_point);
}

std::vector<CharChange> LowerCase(absl::string_view text) {
  std::vector<CharChange> out;
  out.reserve(text.size());
  std::vector<uint32_t> lower;
  for (size_t at = 0; at < text.size();) {
    lower.clear();
    AppendLowerCase(NextCodePoint(text, at), lower);
    for (size_t i = 0; i < lower.size(); ++i) out.push_back({lower[i], i == 0 ? 0 : 1});
  }
  return out;
}

}  // namespace graft::data
