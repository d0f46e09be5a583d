// Turns the text of a regular expression into a Regex's program. For regex.cc's Compile alone.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/data/tokenizer/regex.h"
#include "worker/data/tokenizer/regex_emitter.h"

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

  absl::Status Error(absl::string_view what) const;
  absl::Status Unsupported(absl::string_view what) const;
  bool AtEnd() const { return at_ >= pattern_.size(); }
  char Peek() const { return AtEnd() ? '\0' : pattern_[at_]; }
  bool Consume(absl::string_view text);
  uint32_t Next();

  absl::StatusOr<RegexNode> ParseChoice(Flags flags, int depth);
  absl::StatusOr<RegexNode> ParseSequence(Flags& flags, int depth);
  absl::StatusOr<RegexNode> ParseAtom(Flags& flags, int depth);
  absl::StatusOr<RegexNode> ParseGroup(Flags& flags, int depth);
  absl::StatusOr<RegexNode> ParseLook(Flags flags, int depth, bool behind, bool negated);
  absl::StatusOr<RegexNode> ParseFlags(Flags& flags, int depth);
  absl::StatusOr<RegexNode> ParseEscape(const Flags& flags);
  // Repeats `atom` as the quantifiers behind it say.
  absl::Status ParseRepeats(RegexNode& atom);
  // Reads {m}, {m,}, {,n} or {m,n}; false where the brace is a plain character.
  absl::StatusOr<bool> ParseBounds(uint32_t& min, uint32_t& max);

  // regex_classes.cc
  absl::Status ParseClass(const Flags& flags, int depth, CharClass& out);
  absl::Status ParseClassBody(const Flags& flags, int depth, CharClass& out);
  absl::Status ParsePosix(CharClass& out, bool& found);
  // An escape that stands for a set (\d, \p{..}); false where it stands for a character.
  absl::StatusOr<bool> ParseSetEscape(char c, bool in_class, CharClass& out);
  absl::Status ParseProperty(bool negated, bool in_class, CharClass& out);
  absl::StatusOr<uint32_t> ParseCharEscape();

  RegexNode ClassNode(CharClass set);
  RegexNode CharNode(uint32_t code_point, const Flags& flags);

  absl::string_view pattern_;
  size_t at_ = 0;
  Regex regex_;
};

}  // namespace graft::data
