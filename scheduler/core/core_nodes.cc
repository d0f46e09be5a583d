// Nodes: registration, leases, what they report and what they shall do.
#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "scheduler/core/core.h"
#include "scheduler/core/planted.h"

namespace graft::scheduler {

std::vector<JobKey> Core::JobsOn(absl::string_view node) const {
  const auto it = nodes_.find(node);
  if (it == nodes_.end()) return {};
  return {it->second.jobs.begin(), it->second.jobs.end()};
}

void Core::Refresh(const NodeState& node) {
  cluster_.SetSchedulable(node.name, node.takes_jobs());
  effects_.nodes.insert(node.name);
  effects_.pass_wanted = true;
}

void Core::EndLease(NodeState& node, absl::string_view why) {
  leases_.erase({node.lease_until, node.name});
  node.alive = false;
  Refresh(node);
  for (const JobKey& key : JobsOn(node.name)) {
    EndPart(jobs_.at(key), node.name, AttemptEnd::kLost,
            absl::StrCat("node ", node.name, " was lost: ", why));
  }
}

void Core::EndOlderParts(const std::string& node, int64_t epoch) {
  for (const JobKey& key : JobsOn(node)) {
    Job& job = jobs_.at(key);
    if (job.attempt.parts.at(node).epoch == epoch) continue;
    EndPart(job, node, AttemptEnd::kLost,
            absl::StrCat("the worker on node ", node, " started again"));
  }
}

absl::Status Core::Apply(const NodeRegistered& event) {
  const std::string& name = event.node.name;
  if (name.empty()) return absl::InvalidArgumentError("a node has a name");
  NodeState& node = nodes_[name];
  if (node.name.empty()) {
    node.name = name;
    node.desired_revision = (options_.incarnation << 32) + 1;
  }
  // What ran there is over when the worker speaks in its new epoch, not before: this call may be an
  // old one that comes late, and the worker it came from run on until it hears of the new epoch.
  if (GRAFT_PLANTED(21)) EndOlderParts(name, last_epoch_ + 1);
  leases_.erase({node.lease_until, name});
  node.alive = true;
  node.epoch = ++last_epoch_;
  node.lease_until = now_ + options_.lease;
  leases_.insert({node.lease_until, name});
  Node view = event.node;
  for (Device& device : view.devices) device.holder.clear();
  cluster_.PutNode(std::move(view));
  node.leaving = false;
  NoteEnd(node);
  NodesLeave();
  Refresh(node);
  effects_.desired_changed.insert(name);
  return absl::OkStatus();
}

absl::Status Core::Apply(const NodeSynced& event) {
  const auto it = nodes_.find(event.node);
  if (it == nodes_.end()) {
    return absl::NotFoundError(absl::StrCat("node ", event.node, " is not known; register first"));
  }
  NodeState& node = it->second;
  // 3: a stale worker is listened to.
  if ((node.epoch != event.epoch || !node.alive) && !(GRAFT_PLANTED(3) && node.alive)) {
    return absl::FailedPreconditionError(
        absl::StrCat("epoch ", event.epoch, " of node ", event.node,
                     " is over; end all ranks and register again"));
  }
  leases_.erase({node.lease_until, node.name});
  node.lease_until = now_ + options_.lease;
  leases_.insert({node.lease_until, node.name});
  node.heard = node.epoch;
  if (!GRAFT_PLANTED(2)) EndOlderParts(node.name, node.epoch);

  absl::flat_hash_map<JobKey, const PartReport*> reported;
  for (const PartReport& report : event.parts) {
    const auto job = jobs_.find(report.job);
    if (job == jobs_.end()) continue;
    const Attempt& attempt = job->second.attempt;
    // 4: the report of an attempt that is over counts for the next.
    if (attempt.number != report.attempt && !GRAFT_PLANTED(4)) continue;
    const auto part = attempt.parts.find(event.node);
    if (part == attempt.parts.end() || part->second.state == PartState::kEnded) continue;
    if (part->second.epoch != event.epoch && !GRAFT_PLANTED(3)) continue;
    reported[report.job] = &report;
  }
  for (const JobKey& key : JobsOn(event.node)) {
    Job& job = jobs_.at(key);
    if (const auto report = reported.find(key); report != reported.end()) {
      Report(job, event.node, *report->second);
      continue;
    }
    // 5: a part that the worker has not been told of yet counts as gone.
    if (event.desired_revision < job.attempt.parts.at(event.node).told_at && !GRAFT_PLANTED(5)) {
      continue;
    }
    const bool told_to_stop = job.attempt.mode == AttemptMode::kStop;
    EndPart(job, event.node, told_to_stop ? AttemptEnd::kStopped : AttemptEnd::kLost,
            told_to_stop ? "" : absl::StrCat("node ", event.node, " no longer has its ranks"));
  }
  if (event.leaving && !node.leaving) Leave(node, "is shutting down");
  return absl::OkStatus();
}

absl::Status Core::Apply(const NodeCommanded& event) {
  const auto it = nodes_.find(event.node);
  if (it == nodes_.end()) {
    return absl::NotFoundError(absl::StrCat("there is no node ", event.node));
  }
  NodeState& node = it->second;
  node.cordoned = event.verb != NodeVerb::kUncordon;
  node.draining = event.verb == NodeVerb::kDrain;
  node.drain_until = node.draining ? now_ + event.timeout : absl::InfiniteFuture();
  node.why = event.verb == NodeVerb::kUncordon ? "" : event.why;
  Refresh(node);
  if (node.draining) DrainNode(node, "is being drained");
  return absl::OkStatus();
}

void Core::DrainNode(NodeState& node, absl::string_view why) {
  for (const JobKey& key : JobsOn(node.name)) {
    Job& job = jobs_.at(key);
    if (job.attempt.validation) {
      Tell(job, AttemptMode::kStop);
    } else if (job.state == JobState::kStarting || job.state == JobState::kRunning) {
      const bool session = job.request.kind == GangKind::kGenerate;
      Move(job, JobState::kPreempting, "DRAINING",
           absl::StrCat("node ", node.name, " ", why, "; ",
                        session ? "the session ends" : "the job takes a checkpoint and moves"));
      Tell(job, AttemptMode::kCheckpointAndStop);
    }
    StopBy(job, node.drain_until);
  }
}

// It gets nothing new until it registers again, and what runs there moves.
void Core::Leave(NodeState& node, absl::string_view why) {
  node.leaving = true;
  Refresh(node);
  if (!GRAFT_PLANTED(19)) DrainNode(node, why);  // 19: what runs there stays
}

// The node has said anew until when it stays.
void Core::NoteEnd(NodeState& node) {
  ends_.erase({node.empty_at, node.name});
  node.empty_at = cluster_.Find(node.name)->available_until - options_.leave_notice;
  if (node.empty_at != absl::InfiniteFuture()) ends_.insert({node.empty_at, node.name});
}

void Core::NodesLeave() {
  while (!ends_.empty() && ends_.begin()->first <= now_) {
    const auto it = nodes_.find(ends_.begin()->second);
    ends_.erase(ends_.begin());
    if (it == nodes_.end()) continue;
    Leave(it->second, "leaves soon");
  }
}

absl::Status Core::Apply(const NodeRemoved& event) {
  const auto it = nodes_.find(event.node);
  if (it == nodes_.end()) {
    return absl::NotFoundError(absl::StrCat("there is no node ", event.node));
  }
  if (const auto on = JobsOn(event.node); !on.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("node ", event.node, " still runs ", on.front(), "; drain it first"));
  }
  leases_.erase({it->second.lease_until, event.node});
  ends_.erase({it->second.empty_at, event.node});
  nodes_.erase(it);
  cluster_.RemoveNode(event.node);
  effects_.nodes.erase(event.node);
  effects_.nodes_erased.insert(event.node);
  effects_.desired_changed.insert(event.node);
  return absl::OkStatus();
}

std::vector<DesiredPart> Core::Desired(absl::string_view node) const {
  std::vector<DesiredPart> desired;
  for (const JobKey& key : JobsOn(node)) {
    const Job& job = jobs_.at(key);
    const Attempt& attempt = job.attempt;
    DesiredPart part{.job = key,
                     .attempt = attempt.number,
                     .epoch = attempt.parts.find(node)->second.epoch,
                     .kind = job.request.kind,
                     .validation = attempt.validation,
                     .mode = attempt.mode,
                     .rendezvous = attempt.rendezvous,
                     .resume_from = job.checkpoint,
                     .checkpoint_request = job.checkpoint_request,
                     .finish = job.finish,
                     .finish_with_best = job.finish_with_best};
    for (size_t rank = 0; rank < attempt.ranks.size(); ++rank) {
      if (attempt.ranks[rank].node == node) {
        part.ranks.push_back({static_cast<int>(rank), attempt.ranks[rank].device});
      }
    }
    desired.push_back(std::move(part));
  }
  return desired;
}

absl::Status Core::Apply(const AttemptTouched& event) {
  const auto it = jobs_.find(event.job);
  if (it != jobs_.end() && it->second.attempt.number == event.attempt) {
    TouchDesired(it->second.attempt);
  }
  return absl::OkStatus();
}

void Core::TouchDesired(const Attempt& attempt) {
  for (const auto& [name, part] : attempt.parts) {
    const auto node = nodes_.find(name);
    if (node == nodes_.end()) continue;
    ++node->second.desired_revision;
    effects_.desired_changed.insert(name);
  }
}

}  // namespace graft::scheduler
