// What people change of what is there already: what jobs want, a checkpoint or an end asked for,
// labels and place of nodes.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "scheduler/core/core.h"

namespace graft::scheduler {

absl::Status Core::Apply(const JobAmended& event) {
  const auto it = jobs_.find(event.request.key);
  if (it == jobs_.end()) {
    return absl::NotFoundError(absl::StrCat("there is no job ", event.request.key));
  }
  Job& job = it->second;
  JobRequest& old = job.request;
  const JobRequest& request = event.request;
  if (request.workspace != old.workspace || request.queue != old.queue) {
    return absl::InvalidArgumentError("a job keeps its workspace and queue");
  }
  GRAFT_RETURN_IF_ERROR(CheckPriority(request));
  const bool waits = job.state == JobState::kCreated || job.state == JobState::kQueued ||
                     job.state == JobState::kPaused;
  const bool same_gang = request.gang == old.gang && request.other_layouts == old.other_layouts;
  if (IsTerminal(job.state) || (!waits && !same_gang)) {
    return absl::FailedPreconditionError(
        absl::StrCat("job ", old.key, " is ", JobStateName(job.state),
                     waits ? "" : "; what it needs can change only while it waits"));
  }
  old = request;
  effects_.jobs.insert(old.key);
  effects_.pass_wanted = true;
  claims_.erase(old.key);
  LookAt(job);
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

absl::Status Core::Apply(const NodeInventoried& event) {
  const Node* known = cluster_.Find(event.node);
  const auto state = nodes_.find(event.node);
  if (known == nullptr || state == nodes_.end()) {
    return absl::NotFoundError(absl::StrCat("there is no node ", event.node));
  }
  if (state->second.epoch != event.epoch || !state->second.alive) {
    return absl::FailedPreconditionError(
        absl::StrCat("epoch ", event.epoch, " of node ", event.node, " is over"));
  }
  Node node = *known;
  node.devices = event.devices;
  for (const Device& before : known->devices) {
    const bool there =
        std::any_of(event.devices.begin(), event.devices.end(),
                    [&](const Device& device) { return device.index == before.index; });
    if (there || before.holder.empty()) continue;
    node.devices.push_back(before);
    node.devices.back().healthy = false;
  }
  std::sort(node.devices.begin(), node.devices.end(),
            [](const Device& a, const Device& b) { return a.index < b.index; });
  for (Device& device : node.devices) device.holder.clear();  // PutNode knows them
  cluster_.PutNode(std::move(node));
  Refresh(state->second);
  return absl::OkStatus();
}

}  // namespace graft::scheduler
