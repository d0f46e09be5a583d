// Reads all rows of a run as the trainer will, and says what it found. Free of torch.
#pragma once

#include "absl/status/statusor.h"
#include "worker/trainer/findings.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

// The errors of OpenModel and PrepareData: INVALID_ARGUMENT names the first bad rows by file, line
// and column.
absl::StatusOr<Findings> CheckData(const RunConfig& config);

}  // namespace graft::trainer
