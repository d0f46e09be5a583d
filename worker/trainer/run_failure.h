// What is said of a run that failed: which kind of failure, and what to do about it.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "worker/trainer/events.h"

namespace graft::trainer {

// Where in a run an error arose says what kind it is.
enum class Phase { kConfig, kModel, kGather, kData, kResume, kStart, kTrain, kStore };

// What `error` events are made of.
struct RunFailure {
  ErrorCode code;
  absl::Status status;
  std::string hint;
};

RunFailure Classify(Phase phase, const absl::Status& status);

}  // namespace graft::trainer
