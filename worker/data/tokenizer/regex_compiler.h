// Turns the text of a regular expression into a Regex's program. For regex.cc's Compile alone.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/tokenizer/regex.h"

namespace graft::data {

class RegexCompiler {
 public:
  explicit RegexCompiler(absl::string_view pattern) : pattern_(pattern) {}
  absl::StatusOr<Regex> Compile();

 private:
  struct Flags {
    bool ignore_case = false;
    bool dot_all = false;  // (?m), as Ruby spells it
    bool extended = false;
  };
  struct Node {
    enum Kind : uint8_t { kEmpty, kClass, kSequence, kChoice, kRepeat, kLook, kAtomic, kAssert };
    Kind kind = kEmpty;
    std::vector<Node> children;
    uint32_t char_class = 0;
    uint32_t min = 0, max = 0;
    Regex::Mode mode = Regex::Mode::kGreedy;
    bool negated = false;
    bool behind = false;
    Regex::Op assertion = Regex::Op::kFail;
  };

  absl::Status Error(absl::string_view what) const;
  absl::Status Unsupported(absl::string_view what) const;
  bool AtEnd() const { return at_ >= pattern_.size(); }
  char Peek() const { return AtEnd() ? '\0' : pattern_[at_]; }
  bool Consume(absl::string_view text);
  uint32_t Next();

  absl::StatusOr<Node> ParseChoice(Flags flags, int depth);
  absl::StatusOr<Node> ParseSequence(Flags& flags, int depth);
  absl::StatusOr<Node> ParseAtom(Flags& flags, int depth);
  absl::StatusOr<Node> ParseGroup(Flags& flags, int depth);
  absl::StatusOr<Node> ParseLook(Flags flags, int depth, bool behind, bool negated);
  absl::StatusOr<Node> ParseFlags(Flags& flags, int depth);
  absl::StatusOr<Node> ParseEscape(const Flags& flags);
  // Repeats `atom` as the quantifiers behind it say.
  absl::Status ParseRepeats(Node& atom);
  // Reads {m}, {m,}, {,n} or {m,n}; false where the brace is a plain character.
  absl::StatusOr<bool> ParseBounds(uint32_t& min, uint32_t& max);
  absl::Status ParseClass(const Flags& flags, int depth, CharClass& out);
  absl::Status ParseClassBody(const Flags& flags, int depth, CharClass& out);
  absl::Status ParsePosix(CharClass& out, bool& found);
  // An escape that stands for a set (\d, \p{..}); false where it stands for a character.
  absl::StatusOr<bool> ParseSetEscape(char c, bool in_class, CharClass& out);
  absl::Status ParseProperty(bool negated, bool in_class, CharClass& out);
  absl::StatusOr<uint32_t> ParseCharEscape();

  Node ClassNode(CharClass set);
  Node CharNode(uint32_t code_point, const Flags& flags);
  // The number of characters that every match of `node` has, or -1.
  static int64_t FixedLength(const Node& node);
  static bool CanBeEmpty(const Node& node);

  absl::Status Emit(const Node& node);
  absl::Status EmitRepeat(const Node& node);
  absl::Status EmitLook(const Node& node);
  absl::Status EmitLoop(const Node& body, Regex::Mode mode);
  absl::Status EmitOptional(const Node& body, Regex::Mode mode, uint32_t times);
  absl::StatusOr<uint32_t> Put(Regex::Instruction instruction);
  uint32_t Here() const { return static_cast<uint32_t>(regex_.program_.size()); }

  absl::string_view pattern_;
  size_t at_ = 0;
  uint64_t emitted_ = 0;
  Regex regex_;
};

}  // namespace graft::data
