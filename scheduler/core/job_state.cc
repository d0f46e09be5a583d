#include "scheduler/core/job_state.h"

#include <algorithm>

namespace graft::scheduler {
namespace {

using S = JobState;

constexpr JobTransition kTransitions[] = {
    {S::kCreated, S::kValidating, "a worker takes the token pass"},
    {S::kCreated, S::kQueued, "its inputs need no pass"},
    {S::kValidating, S::kCreated, "the validating worker is lost"},
    {S::kValidating, S::kQueued, "its inputs are sound"},
    {S::kQueued, S::kStarting, "the whole gang is placed"},
    {S::kQueued, S::kPaused, "pause"},
    {S::kStarting, S::kRunning, "every rank runs"},
    {S::kStarting, S::kQueued, "the attempt is lost"},
    {S::kStarting, S::kPausing, "pause"},
    {S::kStarting, S::kPreempting, "its devices are wanted"},
    {S::kRunning, S::kQueued, "the attempt is lost"},
    {S::kRunning, S::kPausing, "pause"},
    {S::kRunning, S::kPreempting, "its devices are wanted"},
    {S::kRunning, S::kCompleted, "its result is published"},
    {S::kPausing, S::kPaused, "every rank has ended"},
    {S::kPausing, S::kCompleted, "it finished before it could stop"},
    {S::kPaused, S::kQueued, "resume"},
    {S::kPreempting, S::kQueued, "every rank has ended"},
    {S::kPreempting, S::kPausing, "pause"},
    {S::kPreempting, S::kCompleted, "it finished before it could stop"},
    {S::kCancelling, S::kCancelled, "every rank has ended"},
    {S::kCreated, S::kCancelling, "cancel"},
    {S::kValidating, S::kCancelling, "cancel"},
    {S::kQueued, S::kCancelling, "cancel"},
    {S::kStarting, S::kCancelling, "cancel"},
    {S::kRunning, S::kCancelling, "cancel"},
    {S::kPausing, S::kCancelling, "cancel"},
    {S::kPaused, S::kCancelling, "cancel"},
    {S::kPreempting, S::kCancelling, "cancel"},
    {S::kValidating, S::kFailed, "its inputs are not sound"},
    {S::kQueued, S::kFailed, "it can never start"},
    {S::kStarting, S::kFailed, "no restart is left"},
    {S::kRunning, S::kFailed, "no restart is left"},
    {S::kPausing, S::kFailed, "no restart is left"},
    {S::kPreempting, S::kFailed, "no restart is left"},
};

constexpr absl::string_view kNames[] = {
    "UNSPECIFIED", "CREATED",    "VALIDATING", "QUEUED",    "STARTING", "RUNNING",  "PAUSING",
    "PAUSED",      "PREEMPTING", "CANCELLING", "COMPLETED", "FAILED",   "CANCELLED"};

}  // namespace

absl::string_view JobStateName(JobState state) { return kNames[static_cast<int>(state)]; }

bool IsTerminal(JobState state) {
  return state == S::kCompleted || state == S::kFailed || state == S::kCancelled;
}

bool HoldsDevices(JobState state) {
  return state == S::kStarting || state == S::kRunning || state == S::kPausing ||
         state == S::kPreempting;
}

absl::Span<const JobTransition> JobTransitions() { return kTransitions; }

bool MayMove(JobState from, JobState to) {
  return std::any_of(std::begin(kTransitions), std::end(kTransitions),
                     [&](const JobTransition& way) { return way.from == from && way.to == to; });
}

}  // namespace graft::scheduler
