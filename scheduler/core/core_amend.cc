// What people change of what is there already: priority and time limit of jobs, a checkpoint or an
// end asked for, labels and place of nodes.
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/core/core.h"

namespace graft::scheduler {

absl::Status Core::Apply(const JobAmended& event) {
  const auto it = jobs_.find(event.job);
  if (it == jobs_.end()) return absl::NotFoundError(absl::StrCat("there is no job ", event.job));
  Job& job = it->second;
  if (IsTerminal(job.state)) {
    return absl::FailedPreconditionError(
        absl::StrCat("job ", event.job, " is already ", JobStateName(job.state)));
  }
  const bool waits = job.state == JobState::kQueued;
  if (waits) Dequeue(job);
  job.request.priority = event.priority;
  job.request.time_limit = event.time_limit;
  if (waits) Enqueue(job);
  if (job.attempt.live()) CheckTimeLimit(job);
  effects_.jobs.insert(event.job);
  effects_.pass_wanted = true;
  return absl::OkStatus();
}

absl::Status Core::Ask(Job& job, JobVerb verb) {
  if (job.state != JobState::kRunning || job.attempt.mode != AttemptMode::kRun) {
    return absl::FailedPreconditionError(
        absl::StrCat("job ", job.request.key, " is ", JobStateName(job.state),
                     "; only a job that runs can be asked for it"));
  }
  if (verb == JobVerb::kCheckpoint) {
    ++job.checkpoint_request;
  } else {
    job.finish = true;
    job.finish_with_best = verb == JobVerb::kFinishWithBest;
  }
  effects_.jobs.insert(job.request.key);
  TouchDesired(job.attempt);
  return absl::OkStatus();
}

absl::Status Core::Apply(const NodeDescribed& event) {
  const Node* known = cluster_.Find(event.node);
  const auto state = nodes_.find(event.node);
  if (known == nullptr || state == nodes_.end()) {
    return absl::NotFoundError(absl::StrCat("there is no node ", event.node));
  }
  Node node = *known;
  node.labels = event.labels;
  node.taints = event.taints;
  node.rack = event.rack;
  node.spine = event.spine;
  cluster_.PutNode(std::move(node));
  Refresh(state->second);
  return absl::OkStatus();
}

}  // namespace graft::scheduler
