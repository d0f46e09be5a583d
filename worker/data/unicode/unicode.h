// What the reference tokenizers library takes a code point for: its general category and script
// (Unicode 16) and the sets that its pre-tokenizers and normalisers test. Generated data; see
// generate_tables.py. Any uint32_t may be asked about: what is no code point is unassigned.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace graft::data {

// In the order of CATEGORIES in generate_tables.py.
enum class Category : uint8_t {
  kCn,
  kLu,
  kLl,
  kLt,
  kLm,
  kLo,
  kMn,
  kMc,
  kMe,
  kNd,
  kNl,
  kNo,
  kPc,
  kPd,
  kPs,
  kPe,
  kPi,
  kPf,
  kPo,
  kSm,
  kSc,
  kSk,
  kSo,
  kZs,
  kZl,
  kZp,
  kCc,
  kCf,
  kCs,
  kCo,
};
constexpr int kCategoryCount = 30;

// A set of categories, a bit for each.
using CategorySet = uint32_t;
constexpr CategorySet SetOf(Category category) { return 1u << static_cast<int>(category); }
constexpr CategorySet kLetters = SetOf(Category::kLu) | SetOf(Category::kLl) |
                                 SetOf(Category::kLt) | SetOf(Category::kLm) | SetOf(Category::kLo);
constexpr CategorySet kMarks = SetOf(Category::kMn) | SetOf(Category::kMc) | SetOf(Category::kMe);
constexpr CategorySet kNumbers = SetOf(Category::kNd) | SetOf(Category::kNl) | SetOf(Category::kNo);
constexpr CategorySet kPunctuation =
    SetOf(Category::kPc) | SetOf(Category::kPd) | SetOf(Category::kPs) | SetOf(Category::kPe) |
    SetOf(Category::kPi) | SetOf(Category::kPf) | SetOf(Category::kPo);
constexpr CategorySet kSymbols =
    SetOf(Category::kSm) | SetOf(Category::kSc) | SetOf(Category::kSk) | SetOf(Category::kSo);
constexpr CategorySet kSeparators =
    SetOf(Category::kZs) | SetOf(Category::kZl) | SetOf(Category::kZp);
constexpr CategorySet kOthers = SetOf(Category::kCn) | SetOf(Category::kCc) | SetOf(Category::kCf) |
                                SetOf(Category::kCs) | SetOf(Category::kCo);

struct CharRecord {
  uint8_t category;
  uint8_t script;          // an index for ScriptName
  uint8_t splitter_class;  // of the UnicodeScripts pre-tokenizer; 0 splits nothing
  uint16_t flags;
};

// In the order of FLAGS in generate_tables.py. They are the reference's sets, some of which are of
// an older Unicode than the categories.
enum CharFlag : uint16_t {
  kWhiteSpaceFlag = 1 << 0,
  kWordFlag = 1 << 1,  // \w
  kAlphabeticFlag = 1 << 2,
  kNumericFlag = 1 << 3,      // what the Digits pre-tokenizer splits
  kPunctuationFlag = 1 << 4,  // what the Punctuation pre-tokenizer splits
  kOtherFlag = 1 << 5,        // what BertNormalizer drops with clean_text
  kNonspacingFlag = 1 << 6,   // what BertNormalizer drops with strip_accents, after NFD
  kCombiningFlag = 1 << 7,    // what StripAccents drops
  kNfcUnstableFlag = 1 << 8,  // text without any such character is in NFC
  kNfkcUnstableFlag = 1 << 9,
  kNfdUnstableFlag = 1 << 10,
  kNfkdUnstableFlag = 1 << 11,
  kHasClassFlag = 1 << 12,  // its canonical combining class is not 0
  kHasLowerFlag = 1 << 13,  // lower-casing changes it
};

const CharRecord& RecordOf(uint32_t code_point);

inline bool HasFlag(uint32_t code_point, CharFlag flag) {
  return (RecordOf(code_point).flags & flag) != 0;
}
inline bool InCategories(uint32_t code_point, CategorySet set) {
  return (set >> RecordOf(code_point).category & 1) != 0;
}
inline bool IsWhiteSpace(uint32_t code_point) { return HasFlag(code_point, kWhiteSpaceFlag); }
// \w of the engine that the Whitespace pre-tokenizer and added tokens use, which counts the two
// joiners.
inline bool IsWord(uint32_t code_point) {
  return HasFlag(code_point, kWordFlag) || code_point == 0x200c || code_point == 0x200d;
}

// Categories by the name of a \p{..}: "L", "Lu", "Letter", "Uppercase_Letter"...; case, spaces,
// hyphens and underscores do not count.
absl::optional<CategorySet> CategoriesByName(absl::string_view name);
// A script by its long name, compared in the same way.
absl::optional<uint8_t> ScriptByName(absl::string_view name);

}  // namespace graft::data
