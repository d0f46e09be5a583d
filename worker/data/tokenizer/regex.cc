#include "worker/data/tokenizer/regex.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "worker/data/unicode/utf8.h"

namespace graft::data {

// One search over one text. Lookarounds and atomic groups run as calls of Run() inside of Run(),
// no deeper than the expression nests.
class RegexMatcher {
 public:
  RegexMatcher(const Regex& regex, absl::string_view text)
      : regex_(regex),
        text_(text),
        slots_(regex.slots_, 0),
        steps_left_(Regex::kMaxSteps + Regex::kStepsPerByte * text.size()) {}

  // Whether the expression matches at `at`; `end` is where the match ends.
  bool MatchAt(size_t at, size_t& end) {
    stack_.clear();
    return Run(0, at, end);
  }
  bool exhausted() const { return exhausted_; }

 private:
  using Op = Regex::Op;
  using Mode = Regex::Mode;

  // Where to go on when a way has failed. A run can give back characters one at a time, down to
  // `low`; a mark restores slot `pc` to `at`.
  struct Choice {
    enum Kind : uint8_t { kPoint, kGiveBack, kTakeMore, kRestore } kind;
    uint32_t pc;
    size_t at;
    size_t low;
  };

  bool Push(const Choice& choice) {
    if (stack_.size() >= Regex::kMaxStack) return exhausted_ = true, false;
    stack_.push_back(choice);
    return true;
  }

  size_t Back(size_t at) const {
    do {
      --at;
    } while (at > 0 && IsUtf8Continuation(text_[at]));
    return at;
  }

  bool IsWordAt(size_t at) const {
    size_t next = at;
    const uint32_t c = NextCodePoint(text_, next);
    return HasFlag(c, kWordFlag) ||
           std::find(std::begin(kLatin1Words), std::end(kLatin1Words), c) != std::end(kLatin1Words);
  }
  bool AtWordBoundary(size_t at) const {
    const bool before = at > 0 && IsWordAt(Back(at));
    const bool after = at < text_.size() && IsWordAt(at);
    return before != after;
  }

  bool Assert(Op op, size_t at) const {
    switch (op) {
      case Op::kLineBegin:
        return at == 0 || (text_[at - 1] == '\n' && at < text_.size());
      case Op::kLineEnd:
        return at == text_.size() || text_[at] == '\n';
      case Op::kTextBegin:
        return at == 0;
      case Op::kTextEnd:
        return at == text_.size();
      case Op::kTextEndOrNewline:
        return at == text_.size() || (at + 1 == text_.size() && text_[at] == '\n');
      case Op::kWordBoundary:
        return AtWordBoundary(at);
      case Op::kNotWordBoundary:
        return !AtWordBoundary(at);
      default:
        return false;
    }
  }

  // Takes one character of `set`; false where there is none.
  bool TakeOne(const CharClass& set, size_t& at) const {
    if (at >= text_.size()) return false;
    size_t next = at;
    if (!set.Contains(NextCodePoint(text_, next))) return false;
    at = next;
    return true;
  }

  bool RunOf(const Regex::Instruction& in, uint32_t pc, size_t& at) {
    const CharClass& set = regex_.classes_[in.x];
    uint32_t count = 0;
    while (count < in.min && TakeOne(set, at)) ++count;
    if (count < in.min) return false;
    if (in.mode == Mode::kLazy) {
      if (in.max == in.min) return true;
      return Push({Choice::kTakeMore, pc, at, count});
    }
    const size_t low = at;
    const size_t start = at;
    while (count < in.max && TakeOne(set, at)) ++count;
    Spend((at - start) / 8);
    if (in.mode == Mode::kGreedy && at > low) return Push({Choice::kGiveBack, pc + 1, at, low});
    return true;
  }

  bool Look(const Regex::Instruction& in, uint32_t pc, size_t at) {
    for (uint32_t i = 0; i < in.y; ++i) {
      if (at == 0) return in.negated;
      at = Back(at);
    }
    size_t end = 0;
    return Part(pc + 1, at, end) != in.negated;
  }

  // Runs a part of the program to its kAccept and forgets the choices it left.
  bool Part(uint32_t pc, size_t at, size_t& end) {
    const size_t floor = stack_.size();
    const bool matched = Run(pc, at, end);
    stack_.resize(std::min(floor, stack_.size()));
    return matched;
  }

  void Spend(uint64_t steps) {
    if (steps_left_ <= steps) {
      exhausted_ = true;
    } else {
      steps_left_ -= steps;
    }
  }

  // Takes the next choice above `floor`; false where there is none.
  bool Backtrack(size_t floor, uint32_t& pc, size_t& at) {
    while (stack_.size() > floor) {
      const Choice choice = stack_.back();
      stack_.pop_back();
      switch (choice.kind) {
        case Choice::kPoint:
          pc = choice.pc;
          at = choice.at;
          return true;
        case Choice::kGiveBack:
          pc = choice.pc;
          at = Back(choice.at);
          if (at > choice.low) stack_.push_back({Choice::kGiveBack, pc, at, choice.low});
          return true;
        case Choice::kTakeMore: {
          const Regex::Instruction& in = regex_.program_[choice.pc];
          at = choice.at;
          if (choice.low >= in.max || !TakeOne(regex_.classes_[in.x], at)) break;
          stack_.push_back({Choice::kTakeMore, choice.pc, at, choice.low + 1});
          pc = choice.pc + 1;
          return true;
        }
        case Choice::kRestore:
          slots_[choice.pc] = choice.at;
          break;
      }
    }
    return false;
  }

  // One instruction. Returns false where this way fails.
  bool Step(uint32_t& pc, size_t& at) {
    const Regex::Instruction& in = regex_.program_[pc];
    switch (in.op) {
      case Op::kChar: {
        if (at >= text_.size()) return false;
        if (NextCodePoint(text_, at) != in.x) return false;
        break;
      }
      case Op::kClass:
        if (!TakeOne(regex_.classes_[in.x], at)) return false;
        break;
      case Op::kRun:
        if (!RunOf(in, pc, at)) return false;
        break;
      case Op::kSplit:
        if (!Push({Choice::kPoint, in.y, at, 0})) return false;
        pc = in.x;
        return true;
      case Op::kJump:
        pc = in.x;
        return true;
      case Op::kMark:
        if (!Push({Choice::kRestore, in.x, slots_[in.x], 0})) return false;
        slots_[in.x] = at;
        break;
      case Op::kProgress:
        if (slots_[in.x] == at) {
          pc = in.y;
          return true;
        }
        break;
      case Op::kLook:
        if (!Look(in, pc, at)) return false;
        pc = in.x;
        return true;
      case Op::kAtomic: {
        size_t end = 0;
        if (!Part(pc + 1, at, end)) return false;
        at = end;
        pc = in.x;
        return true;
      }
      default:
        if (!Assert(in.op, at)) return false;
        break;
    }
    ++pc;
    return true;
  }

  bool Run(uint32_t pc, size_t at, size_t& end) {
    const size_t floor = stack_.size();
    for (;;) {
      if (regex_.program_[pc].op == Op::kAccept) {
        end = at;
        return true;
      }
      Spend(1);
      if (exhausted_) return false;
      if (Step(pc, at)) continue;
      if (exhausted_ || !Backtrack(floor, pc, at)) return false;
    }
  }

  const Regex& regex_;
  absl::string_view text_;
  std::vector<size_t> slots_;
  std::vector<Choice> stack_;
  uint64_t steps_left_;
  bool exhausted_ = false;
};

Regex Regex::Literal(absl::string_view text) {
  Regex regex;
  regex.literal_ = std::string(text);
  if (text.empty()) regex.program_.push_back({Op::kAccept});
  return regex;
}

absl::Status Regex::FindAll(absl::string_view text, std::vector<Match>& matches) const {
  matches.clear();
  if (!literal_.empty()) {
    for (size_t at = text.find(literal_); at != absl::string_view::npos;
         at = text.find(literal_, at + literal_.size())) {
      matches.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(at + literal_.size())});
    }
    return absl::OkStatus();
  }
  RegexMatcher matcher(*this, text);
  size_t at = 0;
  while (at <= text.size()) {
    size_t end = 0;
    const bool found = matcher.MatchAt(at, end);
    if (matcher.exhausted()) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "a regular expression of the tokenizer took more steps than are allowed on a text of ",
          text.size(), " bytes; split the text or simplify the expression"));
    }
    const bool empty_again = found && end == at && !matches.empty() && matches.back().end == end;
    if (found && !empty_again) {
      matches.push_back({static_cast<uint32_t>(at), static_cast<uint32_t>(end)});
      if (end > at) {
        at = end;
        continue;
      }
    }
    at += at < text.size() ? Utf8Length(text[at]) : 1;
  }
  return absl::OkStatus();
}

}  // namespace graft::data
