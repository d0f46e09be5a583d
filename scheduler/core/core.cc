#include "scheduler/core/core.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "scheduler/core/planted.h"

namespace graft::scheduler {

Effects Core::Restore(std::vector<Job> jobs, std::vector<std::pair<NodeState, Node>> nodes,
                      std::vector<Queue> queues, std::vector<QuotaPut> quotas, absl::Time now) {
  now_ = now;
  effects_ = Effects();
  for (Queue& queue : queues) queues_[queue.name] = queue;
  for (const QuotaPut& quota : quotas) quotas_[quota.workspace] = quota.devices;
  for (auto& [state, node] : nodes) {
    state.desired_revision = (options_.incarnation << 32) + 1;
    node.schedulable = state.alive && !state.cordoned && !state.draining;
    for (Device& device : node.devices) device.holder.clear();
    cluster_.PutNode(std::move(node));
    if (state.alive) {
      state.lease_until = now + options_.lease;
      leases_.insert({state.lease_until, state.name});
    }
    effects_.desired_changed.insert(state.name);
    nodes_[state.name] = std::move(state);
  }
  for (Job& job : jobs) {
    next_sequence_ = std::max(next_sequence_, job.sequence + 1);
    const JobKey key = job.request.key;
    jobs_[key] = std::move(job);
  }
  for (auto& [key, job] : jobs_) {
    if (job.state == JobState::kQueued) Enqueue(job);
    if (job.state == JobState::kCreated) created_.insert(key);
    if (!job.attempt.live()) continue;
    live_.insert(key);
    for (auto& [node, part] : job.attempt.parts) {
      const auto it = nodes_.find(node);
      if (it != nodes_.end()) part.told_at = it->second.desired_revision;
    }
    std::vector<DeviceRef> held;
    for (const DeviceRef& ref : job.attempt.ranks) {
      if (job.attempt.parts[ref.node].state != PartState::kEnded) held.push_back(ref);
    }
    const absl::Status taken = cluster_.Take(held, key);
    GRAFT_CHECK(taken.ok()) << "the records give one device to two jobs: " << taken.ToString();
    used_[job.request.workspace] += static_cast<int>(held.size());
    job.attempt.started = now;
    CheckTimeLimit(job);
  }
  // What was being published is asked for again: publishing a session twice gives one version.
  for (const JobKey& key : std::vector<JobKey>(live_.begin(), live_.end())) {
    Job& job = jobs_.at(key);
    if (!job.publishing_session.empty()) {
      Publish(job, job.publishing_session, false, job.publishing_step);
    } else {
      FinishAttempt(job);
    }
  }
  effects_.pass_wanted = true;
  effects_.wake_at = WakeAt();
  return std::move(effects_);
}

Effects Core::Step(const Event& event, absl::Time now) {
  // Time that seems to go back (it cannot, but the shell might be wrong) changes no decision.
  now_ = std::max(now_, now);
  effects_ = Effects();
  effects_.status = std::visit([this](const auto& e) { return Apply(e); }, event);
  effects_.wake_at = WakeAt();
  return std::move(effects_);
}

absl::Time Core::WakeAt() const {
  absl::Time at = absl::InfiniteFuture();
  if (!leases_.empty()) at = std::min(at, leases_.begin()->first);
  if (!alarms_.empty()) at = std::min(at, alarms_.begin()->first);
  for (const auto& [id, call] : calls_) at = std::min(at, call.deadline);
  for (const auto& [id, when] : call_retries_) at = std::min(at, when);
  return at;
}

absl::Status Core::Apply(const Ticked&) {
  while (!leases_.empty() && leases_.begin()->first <= now_) {
    if (GRAFT_PLANTED(1)) {  // a lease that never ends
      leases_.erase(leases_.begin());
      continue;
    }
    EndLease(nodes_.at(leases_.begin()->second),
             absl::StrCat("it has not synchronised for ", absl::FormatDuration(options_.lease)));
  }
  while (!alarms_.empty() && alarms_.begin()->first <= now_) {
    const JobKey key = alarms_.begin()->second;
    alarms_.erase(alarms_.begin());
    effects_.pass_wanted = true;
    if (const auto it = jobs_.find(key); it != jobs_.end()) CheckTimeLimit(it->second);
  }
  std::vector<PublishCall> late;
  for (const auto& [id, call] : calls_) {
    if (call.deadline <= now_) late.push_back(call);
  }
  for (const PublishCall& call : late) {
    (void)Apply(
        CallAnswered{call.id, absl::DeadlineExceededError("the fileservice did not answer"), ""});
  }
  std::vector<int64_t> due;
  for (const auto& [id, when] : call_retries_) {
    if (when <= now_) due.push_back(id);
  }
  for (int64_t id : due) {
    call_retries_.erase(id);
    PublishCall& call = calls_.at(id);
    call.deadline = now_ + options_.call_deadline;
    effects_.calls.push_back(call);
  }
  return absl::OkStatus();
}

absl::Status Core::Apply(const QueuePut& event) {
  queues_[event.queue.name] = event.queue;
  std::map<WaitKey, JobKey> again;
  for (const auto& [key, job] : waiting_) again[KeyOf(jobs_.at(job))] = job;
  waiting_ = std::move(again);
  effects_.pass_wanted = true;
  return absl::OkStatus();
}

absl::Status Core::Apply(const QueueRemoved& event) {
  for (const auto& [key, job] : jobs_) {
    if (job.request.queue == event.queue && !IsTerminal(job.state)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "queue ", event.queue, " still has the job ", key, " in ", JobStateName(job.state)));
    }
  }
  queues_.erase(event.queue);
  return absl::OkStatus();
}

absl::Status Core::Apply(const QuotaPut& event) {
  quotas_[event.workspace] = event.devices;
  effects_.pass_wanted = true;
  return absl::OkStatus();
}

const Job* Core::FindJob(absl::string_view key) const {
  const auto it = jobs_.find(key);
  return it == jobs_.end() ? nullptr : &it->second;
}

const NodeState* Core::FindNode(absl::string_view name) const {
  const auto it = nodes_.find(name);
  return it == nodes_.end() ? nullptr : &it->second;
}

int Core::Quota(absl::string_view workspace) const {
  const auto it = quotas_.find(workspace);
  return it == quotas_.end() ? -1 : it->second;
}

int Core::DevicesUsed(absl::string_view workspace) const {
  const auto it = used_.find(workspace);
  return it == used_.end() ? 0 : it->second;
}

std::vector<const Job*> Core::Waiting() const {
  std::vector<const Job*> list;
  for (const auto& [key, job] : waiting_) list.push_back(&jobs_.at(job));
  return list;
}

}  // namespace graft::scheduler
