// A parsed regular expression, and its way into the matcher's instructions.
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/data/tokenizer/regex.h"

namespace graft::data {

struct RegexNode {
  enum Kind : uint8_t { kEmpty, kClass, kSequence, kChoice, kRepeat, kLook, kAtomic, kAssert };
  static constexpr uint32_t kUnbounded = std::numeric_limits<uint32_t>::max();

  Kind kind = kEmpty;
  std::vector<RegexNode> children;
  uint32_t char_class = 0;
  uint32_t min = 0, max = 0;
  Regex::Mode mode = Regex::Mode::kGreedy;
  bool negated = false;
  bool behind = false;
  Regex::Op assertion = Regex::Op::kFail;
};

// The number of characters that every match of `node` has, or -1.
int64_t FixedLength(const RegexNode& node);

class RegexEmitter {
 public:
  // Appends to `program`; counts the positions that its loops have to remember in `slots`.
  RegexEmitter(std::vector<Regex::Instruction>& program, uint32_t& slots)
      : program_(program), slots_(slots) {}

  // INVALID_ARGUMENT where the program would pass Regex::kMaxProgram.
  absl::Status Emit(const RegexNode& node);
  absl::StatusOr<uint32_t> Put(Regex::Instruction instruction);

 private:
  absl::Status EmitRepeat(const RegexNode& node);
  absl::Status EmitLook(const RegexNode& node);
  absl::Status EmitLoop(const RegexNode& body, Regex::Mode mode);
  absl::Status EmitOptional(const RegexNode& body, Regex::Mode mode, uint32_t times);
  uint32_t Here() const { return static_cast<uint32_t>(program_.size()); }

  std::vector<Regex::Instruction>& program_;
  uint32_t& slots_;
  uint64_t emitted_ = 0;
};

}  // namespace graft::data
