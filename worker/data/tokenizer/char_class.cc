#include "worker/data/tokenizer/char_class.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "worker/data/unicode/normalize.h"

namespace graft::data {
namespace {

constexpr uint32_t kCodePoints = 0x110000;
constexpr CategorySet kAllCategories = (1u << kCategoryCount) - 1;

// Characters whose folding is not their lower case.
constexpr std::pair<uint32_t, uint32_t> kOtherFolds[] = {
    {0x17f, 's'},    {0x3c2, 0x3c3}, {0x3d0, 0x3b2},   {0x3d1, 0x3b8}, {0x3d5, 0x3c6},
    {0x3d6, 0x3c0},  {0x3f0, 0x3ba}, {0x3f1, 0x3c1},   {0x3f5, 0x3b5}, {0x345, 0x3b9},
    {0x1fbe, 0x3b9}, {0xb5, 0x3bc},  {0x1e9b, 0x1e61}, {0x1e9e, 0xdf},
};

uint32_t Fold(uint32_t code_point) {
  for (const auto& [from, to] : kOtherFolds) {
    if (from == code_point) return to;
  }
  std::vector<uint32_t> lower;
  AppendLowerCase(code_point, lower);
  return lower.size() == 1 ? lower[0] : code_point;
}

using FoldMap = absl::flat_hash_map<uint32_t, std::vector<uint32_t>>;

const FoldMap& Folds() {
  static const FoldMap* const folds = [] {
    auto* map = new FoldMap;
    for (uint32_t c = 0; c < kCodePoints; ++c) {
      const uint32_t folded = Fold(c);
      if (folded != c) (*map)[folded].push_back(c);
    }
    return map;
  }();
  return *folds;
}

}  // namespace

std::vector<uint32_t> CaseVariants(uint32_t code_point) {
  const uint32_t folded = Fold(code_point);
  std::vector<uint32_t> variants;
  if (folded != code_point) variants.push_back(folded);
  const auto it = Folds().find(folded);
  if (it == Folds().end()) return variants;
  for (const uint32_t c : it->second) {
    if (c != code_point) variants.push_back(c);
  }
  return variants;
}

void CharClass::AddCategories(CategorySet set, bool negated) {
  categories_ |= negated ? kAllCategories & ~set : set;
}

void CharClass::AddScript(uint8_t script, bool negated) {
  properties_.push_back({Property::kScript, negated, script});
}

void CharClass::AddFlag(CharFlag flag, bool negated) {
  properties_.push_back({Property::kFlag, negated, flag});
}

void CharClass::AddNested(CharClass nested) { nested_.push_back(std::move(nested)); }

void CharClass::Intersect(CharClass other) { bounds_.push_back(std::move(other)); }

bool CharClass::Matches(uint32_t c) const {
  for (const Range& range : ranges_) {
    if (c >= range.first && c <= range.last) return true;
  }
  if (categories_ != 0 && InCategories(c, categories_)) return true;
  for (const Property& property : properties_) {
    const CharRecord& record = RecordOf(c);
    const bool has = property.kind == Property::kScript ? record.script == property.value
                                                        : (record.flags & property.value) != 0;
    if (has != property.negated) return true;
  }
  for (const CharClass& nested : nested_) {
    if (nested.Evaluate(c)) return true;
  }
  return false;
}

bool CharClass::Evaluate(uint32_t c) const {
  bool matches = Matches(c);
  if (!matches && ignore_case_) {
    const std::vector<uint32_t> variants = CaseVariants(c);
    matches = std::any_of(variants.begin(), variants.end(),
                          [this](uint32_t variant) { return Matches(variant); });
  }
  for (const CharClass& bound : bounds_) matches = matches && bound.Evaluate(c);
  return matches != negated_;
}

void CharClass::Seal() {
  for (CharClass& nested : nested_) nested.Seal();
  for (CharClass& bound : bounds_) bound.Seal();
  ascii_ = {0, 0};
  for (uint32_t c = 0; c < 128; ++c) {
    if (Evaluate(c)) ascii_[c >> 6] |= uint64_t{1} << (c & 63);
  }
}

}  // namespace graft::data
