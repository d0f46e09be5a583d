// The states of a job and the one table of the ways between them. The drawing in
// scheduler/README.md is checked against it.
#pragma once

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace graft::scheduler {

// "workspace/id".
using JobKey = std::string;

// Stored as numbers: never renumber.
enum class JobState {
  kUnspecified = 0,
  kCreated = 1,
  kValidating = 2,
  kQueued = 3,
  kStarting = 4,
  kRunning = 5,
  kPausing = 6,
  kPaused = 7,
  kPreempting = 8,
  kCancelling = 9,
  kCompleted = 10,
  kFailed = 11,
  kCancelled = 12,
};

// "QUEUED".
absl::string_view JobStateName(JobState state);
bool IsTerminal(JobState state);
// Ranks of the job may be running, or are about to.
bool HoldsDevices(JobState state);

struct JobTransition {
  JobState from;
  JobState to;
  absl::string_view when;
};

// Every way that exists. Terminal states have none out of them.
absl::Span<const JobTransition> JobTransitions();
bool MayMove(JobState from, JobState to);

}  // namespace graft::scheduler
