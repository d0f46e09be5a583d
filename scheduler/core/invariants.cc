#include "scheduler/core/invariants.h"

#include "absl/strings/str_cat.h"

namespace graft::scheduler {

std::vector<std::string> InvariantChecker::Check(const Core& core) {
  broken_.clear();
  CheckDevices(core);
  for (const auto& [key, job] : core.jobs()) CheckJob(core, job);
  CheckUsage(core);
  for (const auto& [name, node] : core.nodes()) {
    int64_t& before = revisions_[name];
    if (node.desired_revision < before) {
      broken_.push_back(absl::StrCat("I4: the desired revision of ", name, " went back"));
    }
    before = node.desired_revision;
  }
  return broken_;
}

void InvariantChecker::CheckDevices(const Core& core) {
  absl::btree_map<DeviceRef, JobKey> holders;
  for (const auto& [key, job] : core.jobs()) {
    for (const DeviceRef& ref : job.attempt.ranks) {
      const auto part = job.attempt.parts.find(ref.node);
      if (part == job.attempt.parts.end()) {
        broken_.push_back(
            absl::StrCat("I2: ", key, " has a rank on ", ref.node, " without a part"));
        continue;
      }
      if (part->second.state == PartState::kEnded) continue;
      const auto [it, fresh] = holders.insert({ref, key});
      if (!fresh) {
        broken_.push_back(absl::StrCat("I1: device ", ref.device, " of ", ref.node, " runs both ",
                                       it->second, " and ", key));
      }
    }
  }
  for (const auto& [name, node] : core.cluster().nodes()) {
    for (const Device& device : node.devices) {
      const auto it = holders.find({name, device.index});
      const std::string expected = it == holders.end() ? "" : it->second;
      if (device.holder != expected) {
        broken_.push_back(absl::StrCat("I12: device ", device.index, " of ", name, " is held by '",
                                       device.holder, "', the attempts say '", expected, "'"));
      }
    }
  }
}

void InvariantChecker::CheckJob(const Core& core, const Job& job) {
  const JobKey& key = job.request.key;
  const auto before = states_.find(key);
  if (before != states_.end() && IsTerminal(before->second) && job.state != before->second) {
    broken_.push_back(absl::StrCat("I7: ", key, " left ", JobStateName(before->second), " for ",
                                   JobStateName(job.state)));
  }
  // Only what was seen before can be seen to start: a new checker looks at a core in mid-life.
  const bool fresh_attempt =
      job.attempt.live() && before != states_.end() && attempts_[key] != job.attempt.number;
  if (job.attempt.live() && job.attempt.number < attempts_[key]) {
    broken_.push_back(absl::StrCat("I5: ", key, " went back to attempt ", job.attempt.number));
  }
  if (IsTerminal(job.state) && job.attempt.live()) {
    broken_.push_back(
        absl::StrCat("I5: ", key, " is ", JobStateName(job.state), " and still runs"));
  }
  for (const auto& [name, part] : job.attempt.parts) {
    const NodeState* node = core.FindNode(name);
    if (part.state != PartState::kEnded && (node == nullptr || part.epoch != node->epoch)) {
      broken_.push_back(
          absl::StrCat("I5: ", key, " runs on ", name, " under a lease that is over"));
    }
  }
  const bool runs = HoldsDevices(job.state);
  if (runs != (job.attempt.live() && !job.attempt.validation) &&
      job.state != JobState::kCancelling) {
    broken_.push_back(absl::StrCat("I2: ", key, " is ", JobStateName(job.state), " and has ",
                                   job.attempt.live() ? "an" : "no", " attempt"));
  }
  if (runs && static_cast<int>(job.attempt.ranks.size()) != job.request.gang.layout.world()) {
    broken_.push_back(absl::StrCat("I2: ", key, " runs ", job.attempt.ranks.size(), " of ",
                                   job.request.gang.layout.world(), " ranks"));
  }
  if (fresh_attempt && !job.attempt.validation) {
    const int quota = core.Quota(job.request.workspace);
    if (quota >= 0 && core.DevicesUsed(job.request.workspace) > quota) {
      broken_.push_back(
          absl::StrCat("I6: ", key, " started beyond the quota of ", job.request.workspace));
    }
    CheckDomains(core, job);
  }
  if (job.request.kind == GangKind::kGenerate &&
      (job.attempts > 1 || job.state == JobState::kPaused || !job.checkpoint.version.empty())) {
    broken_.push_back(absl::StrCat("I5: the session ", key, " began a second time"));
  }
  if (job.state == JobState::kQueued && job.reason_code.empty()) {
    broken_.push_back(absl::StrCat("I10: ", key, " waits without a reason"));
  }
  states_[key] = job.state;
  attempts_[key] = std::max(attempts_[key], job.attempt.number);
}

void InvariantChecker::CheckDomains(const Core& core, const Job& job) {
  if (job.request.gang.allow_tp_across_domains) return;
  const int tp = job.request.gang.layout.tp;
  for (size_t rank = 0; rank < job.attempt.ranks.size(); ++rank) {
    const auto domain = [&](const DeviceRef& ref) -> std::string {
      const Node* node = core.cluster().Find(ref.node);
      if (node == nullptr) return "";
      for (const Device& device : node->devices) {
        if (device.index == ref.device) {
          return device.nvlink_domain.empty() ? node->name : device.nvlink_domain;
        }
      }
      return "";
    };
    if (domain(job.attempt.ranks[rank]) != domain(job.attempt.ranks[rank / tp * tp])) {
      broken_.push_back(absl::StrCat("I9: a TP group of ", job.request.key, " leaves its domain"));
      return;
    }
  }
}

void InvariantChecker::CheckUsage(const Core& core) {
  absl::btree_map<std::string, int> used;
  for (const auto& [key, job] : core.jobs()) {
    for (const DeviceRef& ref : job.attempt.ranks) {
      const auto part = job.attempt.parts.find(ref.node);
      if (part != job.attempt.parts.end() && part->second.state != PartState::kEnded) {
        ++used[job.request.workspace];
      }
    }
  }
  for (const auto& [key, job] : core.jobs()) {
    const std::string& workspace = job.request.workspace;
    if (core.DevicesUsed(workspace) != used[workspace]) {
      broken_.push_back(absl::StrCat("I12: ", workspace, " is said to use ",
                                     core.DevicesUsed(workspace), " devices and uses ",
                                     used[workspace]));
      return;
    }
  }
}

}  // namespace graft::scheduler
