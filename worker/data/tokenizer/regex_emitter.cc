#include "worker/data/tokenizer/regex_emitter.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "base/status_macros.h"

namespace graft::data {
namespace {

constexpr uint64_t kMaxEmitted = uint64_t{1} << 20;  // nodes, the empty ones included

absl::Status TooLarge() { return absl::InvalidArgumentError("the expression is too large"); }

bool CanBeEmpty(const RegexNode& node) {
  switch (node.kind) {
    case RegexNode::kClass:
      return false;
    case RegexNode::kSequence:
      return std::all_of(node.children.begin(), node.children.end(), CanBeEmpty);
    case RegexNode::kChoice:
      return std::any_of(node.children.begin(), node.children.end(), CanBeEmpty);
    case RegexNode::kRepeat:
      return node.min == 0 || CanBeEmpty(node.children[0]);
    case RegexNode::kAtomic:
      return CanBeEmpty(node.children[0]);
    default:
      return true;
  }
}

}  // namespace

int64_t FixedLength(const RegexNode& node) {
  switch (node.kind) {
    case RegexNode::kClass:
      return 1;
    case RegexNode::kSequence: {
      int64_t sum = 0;
      for (const RegexNode& child : node.children) {
        const int64_t length = FixedLength(child);
        if (length < 0) return -1;
        sum += length;
      }
      return sum;
    }
    case RegexNode::kChoice: {
      const int64_t length = FixedLength(node.children[0]);
      for (const RegexNode& child : node.children) {
        if (FixedLength(child) != length) return -1;
      }
      return length;
    }
    case RegexNode::kRepeat: {
      const int64_t length = FixedLength(node.children[0]);
      return node.min == node.max && length >= 0 ? length * node.min : -1;
    }
    case RegexNode::kAtomic:
      return FixedLength(node.children[0]);
    default:
      return 0;
  }
}

absl::StatusOr<uint32_t> RegexEmitter::Put(Regex::Instruction instruction) {
  if (program_.size() >= Regex::kMaxProgram) return TooLarge();
  program_.push_back(instruction);
  return Here() - 1;
}

absl::Status RegexEmitter::Emit(const RegexNode& node) {
  using Op = Regex::Op;
  if (++emitted_ > kMaxEmitted) return TooLarge();
  switch (node.kind) {
    case RegexNode::kEmpty:
      return absl::OkStatus();
    case RegexNode::kClass:
      return Put({.op = Op::kClass, .x = node.char_class}).status();
    case RegexNode::kAssert:
      return Put({.op = node.assertion}).status();
    case RegexNode::kSequence:
      for (const RegexNode& child : node.children) GRAFT_RETURN_IF_ERROR(Emit(child));
      return absl::OkStatus();
    case RegexNode::kChoice: {
      std::vector<uint32_t> exits;
      for (size_t i = 0; i < node.children.size(); ++i) {
        const bool last = i + 1 == node.children.size();
        uint32_t split = 0;
        if (!last) {
          GRAFT_ASSIGN_OR_RETURN(split, Put({.op = Op::kSplit}));
          program_[split].x = Here();
        }
        GRAFT_RETURN_IF_ERROR(Emit(node.children[i]));
        if (last) break;
        GRAFT_ASSIGN_OR_RETURN(const uint32_t exit, Put({.op = Op::kJump}));
        exits.push_back(exit);
        program_[split].y = Here();
      }
      for (const uint32_t exit : exits) program_[exit].x = Here();
      return absl::OkStatus();
    }
    case RegexNode::kRepeat:
      return EmitRepeat(node);
    case RegexNode::kLook:
      return EmitLook(node);
    case RegexNode::kAtomic: {
      GRAFT_ASSIGN_OR_RETURN(const uint32_t atomic, Put({.op = Op::kAtomic}));
      GRAFT_RETURN_IF_ERROR(Emit(node.children[0]));
      GRAFT_RETURN_IF_ERROR(Put({.op = Op::kAccept}).status());
      program_[atomic].x = Here();
      return absl::OkStatus();
    }
  }
  return absl::OkStatus();
}

absl::Status RegexEmitter::EmitLook(const RegexNode& node) {
  Regex::Instruction look{.op = Regex::Op::kLook, .negated = node.negated};
  if (node.behind) look.y = static_cast<uint32_t>(FixedLength(node.children[0]));
  GRAFT_ASSIGN_OR_RETURN(const uint32_t at, Put(look));
  GRAFT_RETURN_IF_ERROR(Emit(node.children[0]));
  GRAFT_RETURN_IF_ERROR(Put({.op = Regex::Op::kAccept}).status());
  program_[at].x = Here();
  return absl::OkStatus();
}

absl::Status RegexEmitter::EmitRepeat(const RegexNode& node) {
  const RegexNode& body = node.children[0];
  if (body.kind == RegexNode::kClass) {
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
  if (node.max == RegexNode::kUnbounded) {
    GRAFT_RETURN_IF_ERROR(EmitLoop(body, node.mode));
  } else {
    GRAFT_RETURN_IF_ERROR(EmitOptional(body, node.mode, node.max - node.min));
  }
  if (possessive) {
    GRAFT_RETURN_IF_ERROR(Put({.op = Regex::Op::kAccept}).status());
    program_[atomic].x = Here();
  }
  return absl::OkStatus();
}

// L: split(body, out); body; jump L; out. A body that can be empty leaves when it did not move.
absl::Status RegexEmitter::EmitLoop(const RegexNode& body, Regex::Mode mode) {
  using Op = Regex::Op;
  const bool guarded = CanBeEmpty(body);
  const uint32_t slot = slots_;
  GRAFT_ASSIGN_OR_RETURN(const uint32_t split, Put({.op = Op::kSplit}));
  const uint32_t start = Here();
  if (guarded) {
    ++slots_;
    GRAFT_RETURN_IF_ERROR(Put({.op = Op::kMark, .x = slot}).status());
  }
  GRAFT_RETURN_IF_ERROR(Emit(body));
  uint32_t progress = 0;
  if (guarded) {
    GRAFT_ASSIGN_OR_RETURN(progress, Put({.op = Op::kProgress, .x = slot}));
  }
  GRAFT_RETURN_IF_ERROR(Put({.op = Op::kJump, .x = split}).status());
  if (guarded) program_[progress].y = Here();
  const bool lazy = mode == Regex::Mode::kLazy;
  program_[split].x = lazy ? Here() : start;
  program_[split].y = lazy ? start : Here();
  return absl::OkStatus();
}

absl::Status RegexEmitter::EmitOptional(const RegexNode& body, Regex::Mode mode, uint32_t times) {
  std::vector<uint32_t> splits;
  for (uint32_t i = 0; i < times; ++i) {
    GRAFT_ASSIGN_OR_RETURN(const uint32_t split, Put({.op = Regex::Op::kSplit}));
    splits.push_back(split);
    program_[split].x = Here();
    GRAFT_RETURN_IF_ERROR(Emit(body));
  }
  for (const uint32_t split : splits) {
    program_[split].y = Here();
    if (mode == Regex::Mode::kLazy) std::swap(program_[split].x, program_[split].y);
  }
  return absl::OkStatus();
}

}  // namespace graft::data
