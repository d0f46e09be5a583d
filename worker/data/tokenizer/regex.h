// Regular expressions as tokenizer.json files write them: Oniguruma's Ruby syntax over Unicode.
//
//   GRAFT_ASSIGN_OR_RETURN(Regex regex, Regex::Compile(R"(\p{L}+|\s+(?!\S))"));
//   GRAFT_RETURN_IF_ERROR(regex.FindAll(text, matches));
//
// A backtracking matcher with bounds on its steps and on its memory. Supported: alternation,
// groups, classes (nested, &&, POSIX names, \p{..}), greedy, lazy and possessive repetition,
// lookahead, lookbehind of fixed length, atomic groups, \b, anchors and the flags i, m and x.
// Captures are not reported; back references, \X, \K and recursion are UNIMPLEMENTED.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/tokenizer/char_class.h"

namespace graft::data {

// What \w and \b count besides the word characters: superscripts and fractions of Latin-1.
constexpr uint32_t kLatin1Words[] = {0xb2, 0xb3, 0xb9, 0xbc, 0xbd, 0xbe};

struct Match {
  uint32_t begin;
  uint32_t end;
};

class Regex {
 public:
  static absl::StatusOr<Regex> Compile(absl::string_view pattern);
  // An expression that matches just `text`.
  static Regex Literal(absl::string_view text);

  // Replaces `matches` by all matches in `text` (valid UTF-8), from left to right, none
  // overlapping; an empty match never stands at the end of the one before it. RESOURCE_EXHAUSTED
  // past kMaxSteps or kMaxStack.
  absl::Status FindAll(absl::string_view text, std::vector<Match>& matches) const;

  // Instructions of the matcher; for regex_compiler.cc and regex.cc.
  enum class Op : uint8_t {
    kChar,      // one character, `x`
    kClass,     // one character of classes_[x]
    kRun,       // x: class, min and max times, `mode`
    kSplit,     // first x, then y
    kJump,      // x
    kMark,      // remember the position in slot x
    kProgress,  // leave the loop to y unless the position moved since kMark of slot x
    kLook,      // the part up to x must (or, negated, must not) match here; y characters before
    kAtomic,    // the part up to x, taken without coming back to it
    kAccept,    // the end of the expression or of a part
    kLineBegin,
    kLineEnd,
    kTextBegin,
    kTextEnd,
    kTextEndOrNewline,
    kWordBoundary,
    kNotWordBoundary,
    kFail,
  };
  enum class Mode : uint8_t { kGreedy, kLazy, kPossessive };
  struct Instruction {
    Op op;
    Mode mode = Mode::kGreedy;
    bool negated = false;
    uint32_t x = 0;
    uint32_t y = 0;
    uint32_t min = 0;
    uint32_t max = 0;
  };

  static constexpr uint64_t kMaxSteps = uint64_t{1} << 24;  // and kStepsPerByte for each byte
  static constexpr uint64_t kStepsPerByte = 256;
  static constexpr size_t kMaxStack = size_t{1} << 20;
  static constexpr size_t kMaxProgram = size_t{1} << 16;
  static constexpr int kMaxDepth = 64;

 private:
  friend class RegexCompiler;
  friend class RegexMatcher;

  std::vector<Instruction> program_;
  std::vector<CharClass> classes_;
  uint32_t slots_ = 0;
  std::string literal_;  // set where the expression is one literal string
};

}  // namespace graft::data
