#include "worker/data/unicode/unicode.h"

#include <string>

#include "absl/strings/ascii.h"
#include "worker/data/unicode/tables.h"

namespace graft::data {
namespace {

std::string Folded(absl::string_view name) {
  std::string out;
  for (const char c : name) {
    if (c != ' ' && c != '-' && c != '_') out.push_back(absl::ascii_tolower(c));
  }
  return out;
}

struct NamedCategories {
  absl::string_view name;
  absl::string_view long_name;
  CategorySet set;
};

constexpr NamedCategories kNamed[] = {
    {"l", "letter", kLetters},
    {"lc", "casedletter", SetOf(Category::kLu) | SetOf(Category::kLl) | SetOf(Category::kLt)},
    {"m", "mark", kMarks},
    {"n", "number", kNumbers},
    {"p", "punctuation", kPunctuation},
    {"s", "symbol", kSymbols},
    {"z", "separator", kSeparators},
    {"c", "other", kOthers},
    {"any", "any", (1u << kCategoryCount) - 1},
    {"assigned", "assigned", ((1u << kCategoryCount) - 1) & ~SetOf(Category::kCn)},
    {"cn", "unassigned", SetOf(Category::kCn)},
    {"lu", "uppercaseletter", SetOf(Category::kLu)},
    {"ll", "lowercaseletter", SetOf(Category::kLl)},
    {"lt", "titlecaseletter", SetOf(Category::kLt)},
    {"lm", "modifierletter", SetOf(Category::kLm)},
    {"lo", "otherletter", SetOf(Category::kLo)},
    {"mn", "nonspacingmark", SetOf(Category::kMn)},
    {"mc", "spacingmark", SetOf(Category::kMc)},
    {"me", "enclosingmark", SetOf(Category::kMe)},
    {"nd", "decimalnumber", SetOf(Category::kNd)},
    {"nl", "letternumber", SetOf(Category::kNl)},
    {"no", "othernumber", SetOf(Category::kNo)},
    {"pc", "connectorpunctuation", SetOf(Category::kPc)},
    {"pd", "dashpunctuation", SetOf(Category::kPd)},
    {"ps", "openpunctuation", SetOf(Category::kPs)},
    {"pe", "closepunctuation", SetOf(Category::kPe)},
    {"pi", "initialpunctuation", SetOf(Category::kPi)},
    {"pf", "finalpunctuation", SetOf(Category::kPf)},
    {"po", "otherpunctuation", SetOf(Category::kPo)},
    {"sm", "mathsymbol", SetOf(Category::kSm)},
    {"sc", "currencysymbol", SetOf(Category::kSc)},
    {"sk", "modifiersymbol", SetOf(Category::kSk)},
    {"so", "othersymbol", SetOf(Category::kSo)},
    {"zs", "spaceseparator", SetOf(Category::kZs)},
    {"zl", "lineseparator", SetOf(Category::kZl)},
    {"zp", "paragraphseparator", SetOf(Category::kZp)},
    {"cc", "control", SetOf(Category::kCc)},
    {"cf", "format", SetOf(Category::kCf)},
    {"cs", "surrogate", SetOf(Category::kCs)},
    {"co", "privateuse", SetOf(Category::kCo)},
};

}  // namespace

const CharRecord& RecordOf(uint32_t code_point) { return tables::Record(code_point); }

absl::optional<CategorySet> CategoriesByName(absl::string_view name) {
  const std::string folded = Folded(name);
  for (const NamedCategories& named : kNamed) {
    if (named.name == folded || named.long_name == folded) return named.set;
  }
  return absl::nullopt;
}

absl::optional<uint8_t> ScriptByName(absl::string_view name) {
  const std::string folded = Folded(name);
  for (size_t i = 0; i < tables::ScriptCount(); ++i) {
    if (Folded(tables::ScriptName(i)) == folded) return static_cast<uint8_t>(i);
  }
  return absl::nullopt;
}

}  // namespace graft::data
