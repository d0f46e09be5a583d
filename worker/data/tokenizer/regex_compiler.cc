#include "worker/data/tokenizer/regex_compiler.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr uint32_t kUnbounded = std::numeric_limits<uint32_t>::max();
constexpr uint32_t kMaxRepeat = 100000;  // Oniguruma's bound
constexpr int kMaxStackedRepeats = 8;
constexpr uint64_t kMaxEmitted = uint64_t{1} << 20;  // nodes, the empty ones included
constexpr size_t kMaxPattern = 64 << 10;
constexpr size_t kMaxClasses = 4096;

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

absl::Status RegexCompiler::Error(absl::string_view what) const {
  return absl::InvalidArgumentError(absl::StrCat("regular expression '", pattern_.substr(0, 200),
                                                 "', character ", at_ + 1, ": ", what));
}

absl::Status RegexCompiler::Unsupported(absl::string_view what) const {
  return absl::UnimplementedError(absl::StrCat("regular expression '", pattern_.substr(0, 200),
                                               "', character ", at_ + 1, ": ", what,
                                               " is not supported"));
}

bool RegexCompiler::Consume(absl::string_view text) {
  if (pattern_.substr(at_, text.size()) != text) return false;
  at_ += text.size();
  return true;
}

uint32_t RegexCompiler::Next() { return NextCodePoint(pattern_, at_); }

RegexCompiler::Node RegexCompiler::ClassNode(CharClass set) {
  set.Seal();
  Node node;
  node.kind = Node::kClass;
  node.char_class = static_cast<uint32_t>(regex_.classes_.size());
  regex_.classes_.push_back(std::move(set));
  return node;
}

RegexCompiler::Node RegexCompiler::CharNode(uint32_t code_point, const Flags& flags) {
  CharClass set;
  set.AddRange(code_point, code_point);
  if (flags.ignore_case) {
    for (const uint32_t variant : CaseVariants(code_point)) set.AddRange(variant, variant);
  }
  return ClassNode(std::move(set));
}

absl::StatusOr<RegexCompiler::Node> RegexCompiler::ParseChoice(Flags flags, int depth) {
  if (depth > Regex::kMaxDepth) return Error("groups are nested too deeply");
  Node choice;
  choice.kind = Node::kChoice;
  do {
    GRAFT_ASSIGN_OR_RETURN(Node sequence, ParseSequence(flags, depth));
    choice.children.push_back(std::move(sequence));
  } while (Consume("|"));
  if (choice.children.size() == 1) {
    Node only = std::move(choice.children[0]);
    return only;
  }
  return choice;
}

absl::StatusOr<RegexCompiler::Node> RegexCompiler::ParseSequence(Flags& flags, int depth) {
  Node sequence;
  sequence.kind = Node::kSequence;
  while (!AtEnd() && Peek() != '|' && Peek() != ')') {
    if (flags.extended && absl::ascii_isspace(static_cast<unsigned char>(Peek()))) {
      ++at_;
      continue;
    }
    if (flags.extended && Peek() == '#') {
      while (!AtEnd() && Peek() != '\n') ++at_;
      continue;
    }
    GRAFT_ASSIGN_OR_RETURN(Node atom, ParseAtom(flags, depth));
    GRAFT_RETURN_IF_ERROR(ParseRepeats(atom));
    sequence.children.push_back(std::move(atom));
  }
  return sequence;
}

absl::StatusOr<RegexCompiler::Node> RegexCompiler::ParseAtom(Flags& flags, int depth) {
  if (regex_.classes_.size() >= kMaxClasses) return Error("it has too many characters and classes");
  Node node;
  switch (Peek()) {
    case '(':
      ++at_;
      return ParseGroup(flags, depth);
    case '[': {
      ++at_;
      CharClass set;
      GRAFT_RETURN_IF_ERROR(ParseClass(flags, depth, set));
      return ClassNode(std::move(set));
    }
    case '\\':
      ++at_;
      return ParseEscape(flags);
    case '.': {
      ++at_;
      CharClass set;
      if (!flags.dot_all) set.AddRange('\n', '\n');
      set.set_negated(true);
      return ClassNode(std::move(set));
    }
    case '^':
    case '$':
      node.kind = Node::kAssert;
      node.assertion = Peek() == '^' ? Regex::Op::kLineBegin : Regex::Op::kLineEnd;
      ++at_;
      return node;
    case '*':
    case '+':
    case '?':
      return Error("there is nothing to repeat");
    default:
      return CharNode(Next(), flags);
  }
}

absl::StatusOr<RegexCompiler::Node> RegexCompiler::ParseGroup(Flags& flags, int depth) {
  Node node;
  if (Consume("?#")) {
    while (!AtEnd() && Peek() != ')') ++at_;
  } else if (Consume("?=")) {
    return ParseLook(flags, depth, false, false);
  } else if (Consume("?!")) {
    return ParseLook(flags, depth, false, true);
  } else if (Consume("?<=")) {
    return ParseLook(flags, depth, true, false);
  } else if (Consume("?<!")) {
    return ParseLook(flags, depth, true, true);
  } else if (Consume("?>")) {
    GRAFT_ASSIGN_OR_RETURN(Node body, ParseChoice(flags, depth + 1));
    node.kind = Node::kAtomic;
    node.children.push_back(std::move(body));
  } else if (Consume("?<") || Consume("?P<") || Consume("?'")) {
    const char close = pattern_[at_ - 1] == '\'' ? '\'' : '>';
    while (!AtEnd() && Peek() != close) ++at_;
    if (AtEnd()) return Error("the name of a group is not closed");
    ++at_;
    GRAFT_ASSIGN_OR_RETURN(node, ParseChoice(flags, depth + 1));
  } else if (Consume("?:")) {
    GRAFT_ASSIGN_OR_RETURN(node, ParseChoice(flags, depth + 1));
  } else if (Consume("?")) {
    return ParseFlags(flags, depth);
  } else {
    GRAFT_ASSIGN_OR_RETURN(node, ParseChoice(flags, depth + 1));
  }
  if (!Consume(")")) return Error("a group is not closed");
  return node;
}

absl::StatusOr<RegexCompiler::Node> RegexCompiler::ParseLook(Flags flags, int depth, bool behind,
                                                             bool negated) {
  GRAFT_ASSIGN_OR_RETURN(Node body, ParseChoice(flags, depth + 1));
  if (!Consume(")")) return Error("a group is not closed");
  Node node;
  node.kind = Node::kLook;
  node.negated = negated;
  node.behind = behind;
  if (behind && FixedLength(body) < 0) return Unsupported("lookbehind of variable length");
  node.children.push_back(std::move(body));
  return node;
}

// (?imx-imx) holds to the end of the group, (?imx-imx:..) inside of itself.
absl::StatusOr<RegexCompiler::Node> RegexCompiler::ParseFlags(Flags& flags, int depth) {
  Flags changed = flags;
  bool value = true;
  for (;;) {
    if (AtEnd()) return Error("a group is not closed");
    const char c = pattern_[at_++];
    if (c == ')') {
      // The flags bind all that follows in the group, alternatives included.
      flags = changed;
      GRAFT_ASSIGN_OR_RETURN(Node rest, ParseChoice(flags, depth + 1));
      return rest;
    }
    if (c == ':') break;
    if (c == '-') {
      value = false;
    } else if (c == 'i') {
      changed.ignore_case = value;
    } else if (c == 'm') {
      changed.dot_all = value;
    } else if (c == 'x') {
      changed.extended = value;
    } else {
      return Unsupported(absl::StrCat("the group (?", std::string(1, c), "...)"));
    }
  }
  GRAFT_ASSIGN_OR_RETURN(Node body, ParseChoice(changed, depth + 1));
  if (!Consume(")")) return Error("a group is not closed");
  return body;
}

absl::StatusOr<RegexCompiler::Node> RegexCompiler::ParseEscape(const Flags& flags) {
  if (AtEnd()) return Error("it ends in a backslash");
  static constexpr std::pair<char, Regex::Op> kAssertions[] = {{'b', Regex::Op::kWordBoundary},
                                                               {'B', Regex::Op::kNotWordBoundary},
                                                               {'A', Regex::Op::kTextBegin},
                                                               {'z', Regex::Op::kTextEnd},
                                                               {'Z', Regex::Op::kTextEndOrNewline}};
  const char c = Peek();
  for (const auto& [name, op] : kAssertions) {
    if (name != c) continue;
    ++at_;
    Node node;
    node.kind = Node::kAssert;
    node.assertion = op;
    return node;
  }
  if ((c >= '1' && c <= '9') || c == 'k' || c == 'g') return Unsupported("a back reference");
  if (c == 'R' || c == 'X' || c == 'K' || c == 'G' || c == 'y' || c == 'Y') {
    return Unsupported(absl::StrCat("\\", std::string(1, c)));
  }
  CharClass set;
  GRAFT_ASSIGN_OR_RETURN(const bool is_set, ParseSetEscape(c, false, set));
  if (is_set) return ClassNode(std::move(set));
  GRAFT_ASSIGN_OR_RETURN(const uint32_t code_point, ParseCharEscape());
  return CharNode(code_point, flags);
}

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

absl::StatusOr<bool> RegexCompiler::ParseBounds(uint32_t& min, uint32_t& max) {
  const size_t start = at_;
  const auto number = [this](uint32_t& value) {
    size_t digits = 0;
    value = 0;
    for (; absl::ascii_isdigit(static_cast<unsigned char>(Peek())) && digits < 7; ++digits) {
      value = value * 10 + static_cast<uint32_t>(pattern_[at_++] - '0');
    }
    return digits > 0;
  };
  ++at_;
  const bool has_min = number(min);
  bool has_max = false;
  if (Consume(",")) {
    has_max = number(max);
    if (!has_max) max = kUnbounded;
  } else {
    max = min;
  }
  if (!Consume("}") || (!has_min && !has_max)) {
    at_ = start;
    return false;
  }
  if (min > kMaxRepeat || (has_max && max > kMaxRepeat)) return Error("a repetition is too long");
  if (min > max) return Error("a repetition runs backwards");
  return true;
}

absl::Status RegexCompiler::ParseRepeats(Node& atom) {
  for (int stacked = 0;; ++stacked) {
    if (stacked > kMaxStackedRepeats) return Error("too many repetitions of repetitions");
    uint32_t min = 0, max = kUnbounded;
    bool braces = false;
    if (Consume("*")) {
    } else if (Consume("+")) {
      min = 1;
    } else if (Consume("?")) {
      max = 1;
    } else if (Peek() == '{') {
      GRAFT_ASSIGN_OR_RETURN(braces, ParseBounds(min, max));
      if (!braces) return absl::OkStatus();
    } else {
      return absl::OkStatus();
    }
    Node repeat;
    repeat.kind = Node::kRepeat;
    repeat.min = min;
    repeat.max = max;
    // Ruby reads {m,n}+ as a repetition of the repetition.
    if (Consume("?")) {
      repeat.mode = Regex::Mode::kLazy;
    } else if (!braces && Consume("+")) {
      repeat.mode = Regex::Mode::kPossessive;
    }
    repeat.children.push_back(std::move(atom));
    atom = std::move(repeat);
  }
}

int64_t RegexCompiler::FixedLength(const Node& node) {
  switch (node.kind) {
    case Node::kClass:
      return 1;
    case Node::kSequence: {
      int64_t sum = 0;
      for (const Node& child : node.children) {
        const int64_t length = FixedLength(child);
        if (length < 0) return -1;
        sum += length;
      }
      return sum;
    }
    case Node::kChoice: {
      const int64_t length = FixedLength(node.children[0]);
      for (const Node& child : node.children) {
        if (FixedLength(child) != length) return -1;
      }
      return length;
    }
    case Node::kRepeat: {
      const int64_t length = FixedLength(node.children[0]);
      return node.min == node.max && length >= 0 ? length * node.min : -1;
    }
    case Node::kAtomic:
      return FixedLength(node.children[0]);
    default:
      return 0;
  }
}

bool RegexCompiler::CanBeEmpty(const Node& node) {
  switch (node.kind) {
    case Node::kClass:
      return false;
    case Node::kSequence:
      return std::all_of(node.children.begin(), node.children.end(), CanBeEmpty);
    case Node::kChoice:
      return std::any_of(node.children.begin(), node.children.end(), CanBeEmpty);
    case Node::kRepeat:
      return node.min == 0 || CanBeEmpty(node.children[0]);
    case Node::kAtomic:
      return CanBeEmpty(node.children[0]);
    default:
      return true;
  }
}

absl::StatusOr<uint32_t> RegexCompiler::Put(Regex::Instruction instruction) {
  if (regex_.program_.size() >= Regex::kMaxProgram) return Error("the expression is too large");
  regex_.program_.push_back(instruction);
  return Here() - 1;
}

absl::Status RegexCompiler::Emit(const Node& node) {
  using Op = Regex::Op;
  if (++emitted_ > kMaxEmitted) return Error("the expression is too large");
  switch (node.kind) {
    case Node::kEmpty:
      return absl::OkStatus();
    case Node::kClass:
      return Put({.op = Op::kClass, .x = node.char_class}).status();
    case Node::kAssert:
      return Put({.op = node.assertion}).status();
    case Node::kSequence:
      for (const Node& child : node.children) GRAFT_RETURN_IF_ERROR(Emit(child));
      return absl::OkStatus();
    case Node::kChoice: {
      std::vector<uint32_t> exits;
      for (size_t i = 0; i < node.children.size(); ++i) {
        const bool last = i + 1 == node.children.size();
        uint32_t split = 0;
        if (!last) {
          GRAFT_ASSIGN_OR_RETURN(split, Put({.op = Op::kSplit}));
          regex_.program_[split].x = Here();
        }
        GRAFT_RETURN_IF_ERROR(Emit(node.children[i]));
        if (last) break;
        GRAFT_ASSIGN_OR_RETURN(const uint32_t exit, Put({.op = Op::kJump}));
        exits.push_back(exit);
        regex_.program_[split].y = Here();
      }
      for (const uint32_t exit : exits) regex_.program_[exit].x = Here();
      return absl::OkStatus();
    }
    case Node::kRepeat:
      return EmitRepeat(node);
    case Node::kLook:
      return EmitLook(node);
    case Node::kAtomic: {
      GRAFT_ASSIGN_OR_RETURN(const uint32_t atomic, Put({.op = Op::kAtomic}));
      GRAFT_RETURN_IF_ERROR(Emit(node.children[0]));
      GRAFT_RETURN_IF_ERROR(Put({.op = Op::kAccept}).status());
      regex_.program_[atomic].x = Here();
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

absl::Status RegexCompiler::EmitLook(const Node& node) {
  Regex::Instruction look{.op = Regex::Op::kLook, .negated = node.negated};
  if (node.behind) look.y = static_cast<uint32_t>(FixedLength(node.children[0]));
  GRAFT_ASSIGN_OR_RETURN(const uint32_t at, Put(look));
  GRAFT_RETURN_IF_ERROR(Emit(node.children[0]));
  GRAFT_RETURN_IF_ERROR(Put({.op = Regex::Op::kAccept}).status());
  regex_.program_[at].x = Here();
  return absl::OkStatus();
}

absl::Status RegexCompiler::EmitRepeat(const Node& node) {
  const Node& body = node.children[0];
  if (body.kind == Node::kClass) {
    return Put({.op = Regex::Op::kRun,
                .mode = node.mode,
                .x = body.char_class,
                .min = node.min,
                .max = node.max})
        .status();
  }
  uint32_t atomic = 0;
  const bool possessive = node.mode == Regex::Mode::kPossessive;
  if (possessive) {
    GRAFT_ASSIGN_OR_RETURN(atomic, Put({.op = Regex::Op::kAtomic}));
  }
  for (uint32_t i = 0; i < node.min; ++i) GRAFT_RETURN_IF_ERROR(Emit(body));
  if (node.max == kUnbounded) {
    GRAFT_RETURN_IF_ERROR(EmitLoop(body, node.mode));
  } else {
    GRAFT_RETURN_IF_ERROR(EmitOptional(body, node.mode, node.max - node.min));
  }
  if (possessive) {
    GRAFT_RETURN_IF_ERROR(Put({.op = Regex::Op::kAccept}).status());
    regex_.program_[atomic].x = Here();
  }
  return absl::OkStatus();
}

// L: split(body, out); body; jump L; out. A body that can be empty leaves when it did not move.
absl::Status RegexCompiler::EmitLoop(const Node& body, Regex::Mode mode) {
  using Op = Regex::Op;
  const bool guarded = CanBeEmpty(body);
  const uint32_t slot = regex_.slots_;
  GRAFT_ASSIGN_OR_RETURN(const uint32_t split, Put({.op = Op::kSplit}));
  const uint32_t start = Here();
  if (guarded) {
    ++regex_.slots_;
    GRAFT_RETURN_IF_ERROR(Put({.op = Op::kMark, .x = slot}).status());
  }
  GRAFT_RETURN_IF_ERROR(Emit(body));
  uint32_t progress = 0;
  if (guarded) {
    GRAFT_ASSIGN_OR_RETURN(progress, Put({.op = Op::kProgress, .x = slot}));
  }
  GRAFT_RETURN_IF_ERROR(Put({.op = Op::kJump, .x = split}).status());
  if (guarded) regex_.program_[progress].y = Here();
  const bool lazy = mode == Regex::Mode::kLazy;
  regex_.program_[split].x = lazy ? Here() : start;
  regex_.program_[split].y = lazy ? start : Here();
  return absl::OkStatus();
}

absl::Status RegexCompiler::EmitOptional(const Node& body, Regex::Mode mode, uint32_t times) {
  std::vector<uint32_t> splits;
  for (uint32_t i = 0; i < times; ++i) {
    GRAFT_ASSIGN_OR_RETURN(const uint32_t split, Put({.op = Regex::Op::kSplit}));
    splits.push_back(split);
    regex_.program_[split].x = Here();
    GRAFT_RETURN_IF_ERROR(Emit(body));
  }
  for (const uint32_t split : splits) {
    regex_.program_[split].y = Here();
    if (mode == Regex::Mode::kLazy) std::swap(regex_.program_[split].x, regex_.program_[split].y);
  }
  return absl::OkStatus();
}

absl::StatusOr<Regex> RegexCompiler::Compile() {
  if (pattern_.size() > kMaxPattern) return Error("the expression is too long");
  if (!IsValidUtf8(pattern_)) return Error("the expression is not UTF-8");
  GRAFT_ASSIGN_OR_RETURN(const Node root, ParseChoice(Flags(), 0));
  if (!AtEnd()) return Error("a ')' has no '('");
  GRAFT_RETURN_IF_ERROR(Emit(root));
  GRAFT_RETURN_IF_ERROR(Put({.op = Regex::Op::kAccept}).status());
  return std::move(regex_);
}

absl::StatusOr<Regex> Regex::Compile(absl::string_view pattern) {
  return RegexCompiler(pattern).Compile();
}

}  // namespace graft::data
