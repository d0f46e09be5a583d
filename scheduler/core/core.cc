#include "scheduler/core/core.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "scheduler/core/planted.h"

namespace graft::scheduler {

Effects Core::Restore(std::vector<Job> jobs, std::vector<std::pair<NodeState, Node>> nodes,
                      std::vector<Queue> queues, absl::Time now) {
  now_ = now;
  effects_ = Effects();
  for (Queue& queue : queues) {
    PutShares(queue);
    queues_[queue.name] = std::move(queue);
  }
  for (auto& [state, node] : nodes) {
    state.desired_revision = (options_.incarnation << 32) + 1;
    node.schedulable = state.takes_jobs();
    for (Device& device : node.devices) device.holder.clear();
    cluster_.PutNode(std::move(node));
    if (state.alive) {
      state.lease_until = now + options_.lease;
      leases_.insert({state.lease_until, state.name});
    }
    effects_.desired_changed.insert(state.name);
    NodeState& kept = nodes_[state.name];
    kept = std::move(state);
    NoteEnd(kept);
  }
  for (Job& job : jobs) {
    next_sequence_ = std::max(next_sequence_, job.sequence + 1);
    const JobKey key = job.request.key;
    jobs_[key] = std::move(job);
  }
  RebuildShares();
  for (const auto& [key, job] : jobs_) {
    for (const JobKey& first : job.request.after) dependants_[first].insert(key);
  }
  for (auto& [key, job] : jobs_) {
    if (job.state == JobState::kQueued) Enqueue(job);
    if (job.state == JobState::kCreated) created_.insert(key);
    if (job.attempt.live()) ReviveAttempt(job);
  }
  // What was being published is asked for again: publishing a session twice gives one version.
  for (const JobKey& key : std::vector<JobKey>(live_.begin(), live_.end())) {
    Job& job = jobs_.at(key);
    if (!job.publishing.session.empty()) {
      Publish(job, job.publishing.session, false, job.publishing.step);
    } else {
      FinishAttempt(job);
    }
  }
  NodesLeave();
  for (auto& [key, job] : jobs_) {
    if (!job.report_session.empty() && job.report_version.empty()) PublishReport(job);
  }
  effects_.pass_wanted = true;
  effects_.wake_at = WakeAt();
  return std::move(effects_);
}

void Core::ReviveAttempt(Job& job) {
  const JobKey& key = job.request.key;
  live_.insert(key);
  absl::Time drained = absl::InfiniteFuture();
  for (auto& [name, part] : job.attempt.parts) {
    const auto node = nodes_.find(name);
    if (node == nodes_.end()) continue;
    part.told_at = node->second.desired_revision;
    if (part.state == PartState::kEnded) continue;
    node->second.jobs.insert(key);
    drained = std::min(drained, node->second.drain_until);
  }
  std::vector<DeviceRef>& held = job.attempt.held;
  for (const DeviceRef& ref : job.attempt.ranks) {
    if (job.attempt.parts[ref.node].state != PartState::kEnded) held.push_back(ref);
  }
  const absl::Status taken = cluster_.Take(held, key);
  GRAFT_CHECK(taken.ok()) << "the records give one device to two jobs: " << taken.ToString();
  job.attempt.started = std::min(job.attempt.started, now_);
  Hold(job, static_cast<int>(held.size()));
  if (job.attempt.mode == AttemptMode::kCheckpointAndStop) {
    job.attempt.stop_at = now_ + options_.checkpoint_grace;
    alarms_.insert({job.attempt.stop_at, key});
    StopBy(job, drained);
  }
  CheckTimeLimit(job);
}

// From the jobs that are still known, each charged when it ended.
void Core::RebuildShares() {
  std::vector<std::pair<absl::Time, const Job*>> ended;
  for (const auto& [key, job] : jobs_) {
    if (job.usage.device_seconds > 0) ended.push_back({std::min(job.finished, now_), &job});
  }
  std::sort(ended.begin(), ended.end(), [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first < b.first : a.second->sequence < b.second->sequence;
  });
  for (const auto& [at, job] : ended) {
    Charge(*job, 1, absl::Seconds(job->usage.device_seconds), at);
  }
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
  absl::Time at = pass_deferred_ ? std::min(next_pass_, late_pass_) : late_pass_;
  if (!leases_.empty()) at = std::min(at, leases_.begin()->first);
  if (!ends_.empty()) at = std::min(at, ends_.begin()->first);
  if (!alarms_.empty()) at = std::min(at, alarms_.begin()->first);
  if (!call_alarms_.empty()) at = std::min(at, call_alarms_.begin()->first);
  return at;
}

void Core::LookAtDue() {
  while (!alarms_.empty() && alarms_.begin()->first <= now_) {
    const JobKey key = alarms_.begin()->second;
    alarms_.erase(alarms_.begin());
    effects_.pass_wanted = true;
    if (const auto it = jobs_.find(key); it != jobs_.end()) LookAt(it->second);
  }
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
  NodesLeave();
  LookAtDue();
  while (!call_alarms_.empty() && call_alarms_.begin()->first <= now_) {
    const int64_t id = call_alarms_.begin()->second;
    call_alarms_.erase(call_alarms_.begin());
    const auto found = calls_.find(id);
    if (found == calls_.end()) continue;  // answered
    PublishCall& call = found->second;
    if (call.deadline <= now_) {
      (void)Apply(
          CallAnswered{id, absl::DeadlineExceededError("the fileservice did not answer"), ""});
      continue;
    }
    call.deadline = now_ + options_.call_deadline;
    call_alarms_.insert({call.deadline, id});
    effects_.calls.push_back(call);
  }
  if ((pass_deferred_ && next_pass_ <= now_) || late_pass_ <= now_) effects_.pass_wanted = true;
  return absl::OkStatus();
}

void Core::LookAt(Job& job) {
  CheckTimeLimit(job);
  CheckGrace(job);
  if (job.state == JobState::kQueued) Reconsider(job);
}

absl::Status Core::Apply(const QueuePut& event) {
  if (std::abs(event.queue.priority) > kMostQueuePriority) {
    return absl::InvalidArgumentError(
        absl::StrCat("priority ", event.queue.priority, " of queue ", event.queue.name,
                     " is not within ", -kMostQueuePriority, " and ", kMostQueuePriority));
  }
  for (const Share& share : event.queue.shares) {
    if (!(share.weight > 0)) {
      return absl::InvalidArgumentError(
          absl::StrCat("the weight of ", share.workspace, " must be above 0"));
    }
  }
  PutShares(event.queue);
  queues_[event.queue.name] = event.queue;
  for (const JobKey& key : std::vector<JobKey>(waiting_.begin(), waiting_.end())) {
    Job& job = jobs_.at(key);
    if (job.request.queue == event.queue.name) Reconsider(job);
  }
  effects_.pass_wanted = true;
  return absl::OkStatus();
}

void Core::PutShares(const Queue& queue) {
  const auto account = [&](const Share& share) {
    return AccountOf({.workspace = share.workspace, .queue = queue.name});
  };
  if (const auto before = queues_.find(queue.name); before != queues_.end()) {
    for (const Share& share : before->second.shares) {
      quotas_.Remove(account(share));
      shares_.SetWeight(account(share), 1);
    }
  }
  for (const Share& share : queue.shares) {
    shares_.SetWeight(account(share), share.weight);
    if (share.quota < 0) continue;
    quotas_.Set(account(share), share.quota,
                share.borrow < 0 ? Quotas::kNoCeiling : share.quota + share.borrow);
  }
}

absl::Status Core::Apply(const QueueRemoved& event) {
  for (const auto& [key, job] : jobs_) {
    if (job.request.queue == event.queue && !IsTerminal(job.state)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "queue ", event.queue, " still has the job ", key, " in ", JobStateName(job.state)));
    }
  }
  PutShares({.name = event.queue});
  queues_.erase(event.queue);
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

std::string Core::AccountOf(const JobRequest& request) {
  return absl::StrCat(request.workspace, " in queue ", request.queue);
}

}  // namespace graft::scheduler
