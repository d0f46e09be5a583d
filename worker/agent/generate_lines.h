// Between the scheduler's questions and the JSON lines of `graft-trainer --generate`.
#pragma once

#include "absl/status/statusor.h"
#include "graft/agent/v1/agent.pb.h"
#include "worker/trainer/generate_protocol.h"

namespace graft::agent {

// INVALID_ARGUMENT for a command that is neither a question nor a cancellation.
absl::StatusOr<trainer::GenerateInput> ToGenerateInput(const v1::ServeInferenceResponse& command);

v1::ServeInferenceRequest ToReply(const trainer::GenerateReply& reply);

}  // namespace graft::agent
