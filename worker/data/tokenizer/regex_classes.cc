// The sets of characters of a regular expression: classes in brackets, \p{..}, \w and escapes.
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/tokenizer/regex_compiler.h"

namespace graft::data {
namespace {

struct PosixName {
  absl::string_view name;
  CategorySet categories;
  uint16_t flag;
  absl::string_view chars;
};
constexpr CategorySet kLower = SetOf(Category::kLl), kUpper = SetOf(Category::kLu);
constexpr CategorySet kGraph = kLetters | kMarks | kNumbers | kPunctuation | kSymbols |
                               SetOf(Category::kCf) | SetOf(Category::kCo);
constexpr PosixName kPosix[] = {
    {"alpha", 0, kAlphabeticFlag, ""},
    {"digit", SetOf(Category::kNd), 0, ""},
    {"alnum", SetOf(Category::kNd), kAlphabeticFlag, ""},
    {"upper", kUpper, 0, ""},
    {"lower", kLower, 0, ""},
    {"space", 0, kWhiteSpaceFlag, ""},
    {"blank", SetOf(Category::kZs), 0, "\t"},
    {"cntrl", SetOf(Category::kCc), 0, ""},
    {"punct", kPunctuation, 0, "$+<=>^`|~"},
    {"word", 0, kWordFlag, ""},
    {"graph", kGraph, 0, ""},
    {"print", kGraph | SetOf(Category::kZs), 0, ""},
    {"xdigit", 0, 0, "0123456789abcdefABCDEF"},
};

// Outside of a class the reference's engine takes \w below U+0100 from a table of Latin-1, which
// counts the superscripts and fractions; inside of a class it does not.
void AddWord(bool negated, bool in_class, CharClass& out) {
  CharClass set;
  set.AddFlag(kWordFlag, false);
  for (const uint32_t c : kLatin1Words) {
    if (!in_class) set.AddRange(c, c);
  }
  set.set_negated(negated);
  out.AddNested(std::move(set));
}

void AddPosix(const PosixName& posix, bool negated, CharClass& out) {
  CharClass set;
  if (posix.categories != 0) set.AddCategories(posix.categories, false);
  if (posix.flag != 0) set.AddFlag(static_cast<CharFlag>(posix.flag), false);
  for (const char c : posix.chars) set.AddRange(static_cast<uint8_t>(c), static_cast<uint8_t>(c));
  set.set_negated(negated);
  out.AddNested(std::move(set));
}

}  // namespace

absl::StatusOr<bool> RegexCompiler::ParseSetEscape(char c, bool in_class, CharClass& out) {
  const bool negated = c >= 'A' && c <= 'Z';
  switch (absl::ascii_tolower(static_cast<unsigned char>(c))) {
    case 'd':
      out.AddCategories(SetOf(Category::kNd), negated);
      break;
    case 's':
      out.AddFlag(kWhiteSpaceFlag, negated);
      break;
    case 'w':
      AddWord(negated, in_class, out);
      break;
    case 'h':
      AddPosix(kPosix[std::size(kPosix) - 1], negated, out);
      break;
    case 'p':
      ++at_;
      GRAFT_RETURN_IF_ERROR(ParseProperty(negated, in_class, out));
      return true;
    default:
      return false;
  }
  ++at_;
  return true;
}

absl::Status RegexCompiler::ParseProperty(bool negated, bool in_class, CharClass& out) {
  if (!Consume("{")) return Error("\\p needs a name in braces");
  if (Consume("^")) negated = !negated;
  const size_t end = pattern_.find('}', at_);
  if (end == absl::string_view::npos) return Error("the name of a property is not closed");
  const absl::string_view name = pattern_.substr(at_, end - at_);
  for (const PosixName& posix : kPosix) {
    if (!absl::EqualsIgnoreCase(posix.name, name)) continue;
    if (posix.name == "word") {
      AddWord(negated, in_class, out);
    } else {
      AddPosix(posix, negated, out);
    }
    at_ = end + 1;
    return absl::OkStatus();
  }
  if (const auto categories = CategoriesByName(name)) {
    out.AddCategories(*categories, negated);
  } else if (const auto script = ScriptByName(name)) {
    out.AddScript(*script, negated);
  } else if (absl::EqualsIgnoreCase(name, "White_Space")) {
    out.AddFlag(kWhiteSpaceFlag, negated);
  } else if (absl::EqualsIgnoreCase(name, "Alphabetic")) {
    out.AddFlag(kAlphabeticFlag, negated);
  } else {
    return Unsupported(absl::StrCat("the property '", name, "'"));
  }
  at_ = end + 1;
  return absl::OkStatus();
}

absl::StatusOr<uint32_t> RegexCompiler::ParseCharEscape() {
  const auto hex = [this](size_t most, uint32_t& value) {
    size_t digits = 0;
    value = 0;
    while (digits < most && absl::ascii_isxdigit(static_cast<unsigned char>(Peek()))) {
      const char c = absl::ascii_tolower(static_cast<unsigned char>(pattern_[at_++]));
      value = value * 16 + static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'a' + 10);
      ++digits;
    }
    return digits;
  };
  const uint32_t c = Next();
  uint32_t value = 0;
  switch (c) {
    case 'n':
      return '\n';
    case 'r':
      return '\r';
    case 't':
      return '\t';
    case 'f':
      return '\f';
    case 'v':
      return '\v';
    case 'a':
      return '\a';
    case 'e':
      return 0x1b;
    case '0':
      return 0;
    case 'u':
      if (hex(4, value) != 4) return Error("\\u needs four hexadecimal digits");
      break;
    case 'x':
      if (Consume("{")) {
        if (hex(8, value) == 0 || !Consume("}")) return Error("\\x{..} needs hexadecimal digits");
      } else if (hex(2, value) == 0) {
        return Error("\\x needs hexadecimal digits");
      }
      break;
    default:
      return c;
  }
  if (value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) return Error("no code point");
  return value;
}

absl::Status RegexCompiler::ParsePosix(CharClass& out, bool& found) {
  found = false;
  const size_t end = pattern_.find(":]", at_);
  if (pattern_.substr(at_, 2) != "[:" || end == absl::string_view::npos) return absl::OkStatus();
  absl::string_view name = pattern_.substr(at_ + 2, end - at_ - 2);
  const bool negated = !name.empty() && name[0] == '^';
  if (negated) name.remove_prefix(1);
  for (const PosixName& posix : kPosix) {
    if (posix.name != name) continue;
    AddPosix(posix, negated, out);
    at_ = end + 2;
    found = true;
  }
  return absl::OkStatus();
}

// Behind the opening bracket; reads the closing one.
absl::Status RegexCompiler::ParseClass(const Flags& flags, int depth, CharClass& out) {
  if (depth > Regex::kMaxDepth) return Error("classes are nested too deeply");
  const bool negated = Consume("^");
  CharClass body;
  body.set_ignore_case(flags.ignore_case);
  GRAFT_RETURN_IF_ERROR(ParseClassBody(flags, depth, body));
  while (Consume("&&")) {
    CharClass bound;
    bound.set_ignore_case(flags.ignore_case);
    GRAFT_RETURN_IF_ERROR(ParseClassBody(flags, depth, bound));
    body.Intersect(std::move(bound));
  }
  if (!Consume("]")) return Error("a class is not closed");
  body.set_negated(negated);
  out = std::move(body);
  return absl::OkStatus();
}

absl::Status RegexCompiler::ParseClassBody(const Flags& flags, int depth, CharClass& out) {
  bool first = true;
  while (!AtEnd() && (Peek() != ']' || first) && pattern_.substr(at_, 2) != "&&") {
    first = false;
    bool posix = false;
    GRAFT_RETURN_IF_ERROR(ParsePosix(out, posix));
    if (posix) continue;
    if (Consume("[")) {
      CharClass nested;
      GRAFT_RETURN_IF_ERROR(ParseClass(flags, depth + 1, nested));
      out.AddNested(std::move(nested));
      continue;
    }
    uint32_t low = 0;
    if (Consume("\\")) {
      if (AtEnd()) return Error("a class is not closed");
      GRAFT_ASSIGN_OR_RETURN(const bool is_set, ParseSetEscape(Peek(), true, out));
      if (is_set) continue;
      if (Consume("b")) {
        low = '\b';
      } else {
        GRAFT_ASSIGN_OR_RETURN(low, ParseCharEscape());
      }
    } else {
      low = Next();
    }
    uint32_t high = low;
    // A hyphen makes a range unless it is the last character of the class or before a set.
    const bool range = Peek() == '-' && at_ + 1 < pattern_.size() && pattern_[at_ + 1] != ']' &&
                       pattern_[at_ + 1] != '[';
    if (range) {
      ++at_;
      if (Consume("\\")) {
        GRAFT_ASSIGN_OR_RETURN(const bool is_set, ParseSetEscape(Peek(), true, out));
        if (is_set) {
          out.AddRange('-', '-');
        } else {
          GRAFT_ASSIGN_OR_RETURN(high, ParseCharEscape());
        }
      } else {
        high = Next();
      }
      if (high < low) return Error("a range of a class runs backwards");
    }
    out.AddRange(low, high);
  }
  return absl::OkStatus();
}

}  // namespace graft::data
