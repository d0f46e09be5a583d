#include "worker/data/tokenizer/regex_compiler.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {
namespace {

constexpr uint32_t kMaxRepeat = 100000;  // Oniguruma's bound
constexpr int kMaxStackedRepeats = 8;
constexpr size_t kMaxPattern = 64 << 10;
constexpr size_t kMaxClasses = 4096;

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

RegexNode RegexCompiler::ClassNode(CharClass set) {
  set.Seal();
  RegexNode node;
  node.kind = RegexNode::kClass;
  node.char_class = static_cast<uint32_t>(regex_.classes_.size());
  regex_.classes_.push_back(std::move(set));
  return node;
}

RegexNode RegexCompiler::CharNode(uint32_t code_point, const Flags& flags) {
  CharClass set;
  set.AddRange(code_point, code_point);
  if (flags.ignore_case) {
    for (const uint32_t variant : CaseVariants(code_point)) set.AddRange(variant, variant);
  }
  return ClassNode(std::move(set));
}

absl::StatusOr<RegexNode> RegexCompiler::ParseChoice(Flags flags, int depth) {
  if (depth > Regex::kMaxDepth) return Error("groups are nested too deeply");
  RegexNode choice;
  choice.kind = RegexNode::kChoice;
  do {
    GRAFT_ASSIGN_OR_RETURN(RegexNode sequence, ParseSequence(flags, depth));
    choice.children.push_back(std::move(sequence));
  } while (Consume("|"));
  if (choice.children.size() == 1) {
    RegexNode only = std::move(choice.children[0]);
    return only;
  }
  return choice;
}

absl::StatusOr<RegexNode> RegexCompiler::ParseSequence(Flags& flags, int depth) {
  RegexNode sequence;
  sequence.kind = RegexNode::kSequence;
  while (!AtEnd() && Peek() != '|' && Peek() != ')') {
    if (flags.extended && absl::ascii_isspace(static_cast<unsigned char>(Peek()))) {
      ++at_;
      continue;
    }
    if (flags.extended && Peek() == '#') {
      while (!AtEnd() && Peek() != '\n') ++at_;
      continue;
    }
    GRAFT_ASSIGN_OR_RETURN(RegexNode atom, ParseAtom(flags, depth));
    GRAFT_RETURN_IF_ERROR(ParseRepeats(atom));
    sequence.children.push_back(std::move(atom));
  }
  return sequence;
}

absl::StatusOr<RegexNode> RegexCompiler::ParseAtom(Flags& flags, int depth) {
  if (regex_.classes_.size() >= kMaxClasses) return Error("it has too many characters and classes");
  RegexNode node;
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
      node.kind = RegexNode::kAssert;
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

absl::StatusOr<RegexNode> RegexCompiler::ParseGroup(Flags& flags, int depth) {
  RegexNode node;
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
    GRAFT_ASSIGN_OR_RETURN(RegexNode body, ParseChoice(flags, depth + 1));
    node.kind = RegexNode::kAtomic;
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

absl::StatusOr<RegexNode> RegexCompiler::ParseLook(Flags flags, int depth, bool behind,
                                                   bool negated) {
  GRAFT_ASSIGN_OR_RETURN(RegexNode body, ParseChoice(flags, depth + 1));
  if (!Consume(")")) return Error("a group is not closed");
  RegexNode node;
  node.kind = RegexNode::kLook;
  node.negated = negated;
  node.behind = behind;
  if (behind && FixedLength(body) < 0) return Unsupported("lookbehind of variable length");
  node.children.push_back(std::move(body));
  return node;
}

// (?imx-imx) holds to the end of the group, (?imx-imx:..) inside of itself.
absl::StatusOr<RegexNode> RegexCompiler::ParseFlags(Flags& flags, int depth) {
  Flags changed = flags;
  bool value = true;
  for (;;) {
    if (AtEnd()) return Error("a group is not closed");
    const char c = pattern_[at_++];
    if (c == ')') {
      // The flags bind all that follows in the group, alternatives included.
      flags = changed;
      GRAFT_ASSIGN_OR_RETURN(RegexNode rest, ParseChoice(flags, depth + 1));
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
  GRAFT_ASSIGN_OR_RETURN(RegexNode body, ParseChoice(changed, depth + 1));
  if (!Consume(")")) return Error("a group is not closed");
  return body;
}

absl::StatusOr<RegexNode> RegexCompiler::ParseEscape(const Flags& flags) {
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
    RegexNode node;
    node.kind = RegexNode::kAssert;
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
    if (!has_max) max = RegexNode::kUnbounded;
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

absl::Status RegexCompiler::ParseRepeats(RegexNode& atom) {
  for (int stacked = 0;; ++stacked) {
    if (stacked > kMaxStackedRepeats) return Error("too many repetitions of repetitions");
    uint32_t min = 0, max = RegexNode::kUnbounded;
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
    RegexNode repeat;
    repeat.kind = RegexNode::kRepeat;
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

absl::StatusOr<Regex> RegexCompiler::Compile() {
  if (pattern_.size() > kMaxPattern) return Error("the expression is too long");
  if (!IsValidUtf8(pattern_)) return Error("the expression is not UTF-8");
  GRAFT_ASSIGN_OR_RETURN(const RegexNode root, ParseChoice(Flags(), 0));
  if (!AtEnd()) return Error("a ')' has no '('");
  RegexEmitter emitter(regex_.program_, regex_.slots_);
  absl::Status emitted = emitter.Emit(root);
  if (emitted.ok()) emitted = emitter.Put({.op = Regex::Op::kAccept}).status();
  if (!emitted.ok()) return Error(emitted.message());
  return std::move(regex_);
}

absl::StatusOr<Regex> Regex::Compile(absl::string_view pattern) {
  return RegexCompiler(pattern).Compile();
}

}  // namespace graft::data
