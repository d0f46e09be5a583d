// A class of a regular expression: [^\r\n\p{L}], \s, a single character. ASCII is answered from a
// bitmap, the rest by its items. Immutable once it has been sealed.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "worker/data/unicode/unicode.h"

namespace graft::data {

class CharClass {
 public:
  // Adding is for the parser, before Seal().
  void AddRange(uint32_t first, uint32_t last) { ranges_.push_back({first, last}); }
  void AddCategories(CategorySet set, bool negated);
  void AddScript(uint8_t script, bool negated);
  void AddFlag(CharFlag flag, bool negated);
  void AddNested(CharClass nested);
  // The class is also bounded by `other` (the && of a class).
  void Intersect(CharClass other);
  void set_negated(bool negated) { negated_ = negated; }
  void set_ignore_case(bool ignore_case) { ignore_case_ = ignore_case; }
  // Fills the bitmap.
  void Seal();

  bool Contains(uint32_t code_point) const {
    if (code_point < 128) return (ascii_[code_point >> 6] >> (code_point & 63) & 1) != 0;
    return Evaluate(code_point);
  }
  bool ContainsAscii(uint8_t c) const { return (ascii_[c >> 6] >> (c & 63) & 1) != 0; }

 private:
  struct Range {
    uint32_t first;
    uint32_t last;
  };
  struct Property {
    enum Kind : uint8_t { kFlag, kScript } kind;
    bool negated;
    uint16_t value;
  };

  bool Evaluate(uint32_t code_point) const;
  bool Matches(uint32_t code_point) const;

  std::vector<Range> ranges_;
  CategorySet categories_ = 0;
  std::vector<Property> properties_;
  std::vector<CharClass> nested_;
  std::vector<CharClass> bounds_;
  bool negated_ = false;
  bool ignore_case_ = false;
  std::array<uint64_t, 2> ascii_ = {0, 0};
};

// The characters that are equal to `code_point` when case is ignored, itself left out.
std::vector<uint32_t> CaseVariants(uint32_t code_point);

}  // namespace graft::data
