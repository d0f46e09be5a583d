// What `graft-validate` says of a run's rows: one JSON line, `findings`, or `error` as a trainer
// would say it (events.h). Free of torch.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/trainer/json_fields.h"

namespace graft::trainer {

inline constexpr int64_t kFindingsVersion = 1;

struct FindingsWarning {
  std::string code;  // as in worker/data: "unknown_member", ...
  std::string message;
};

// Counts are of the training rows unless they say otherwise.
struct Findings {
  int64_t version = kFindingsVersion;
  std::string format;  // chat, prompt_completion, text
  int64_t training_rows = 0;
  int64_t validation_rows = 0;
  int64_t tokens = 0;  // of an epoch
  int64_t supervised_tokens = 0;
  int64_t truncated_rows = 0;  // cut at max_seq_length
  int64_t truncated_tokens = 0;
  int64_t skipped_rows = 0;  // left out as bad
  int64_t empty_rows = 0;    // left out because the cut kept nothing to learn
  int64_t longest_row = 0;   // in tokens, before the cut
  int64_t max_seq_length = 0;
  int64_t steps = 0;
  int64_t unpacked_steps = 0;  // as many: packing changes what a pass holds, not an update
  int64_t passes = 0;          // forward passes of a rank over the whole run
  int64_t unpacked_passes = 0;
  std::vector<FindingsWarning> warnings;
};

std::string FormatFindings(const Findings& findings);
// NOT_FOUND for a line that is no `findings`, FAILED_PRECONDITION for another version.
absl::StatusOr<Findings> ParseFindings(absl::string_view line);

}  // namespace graft::trainer
