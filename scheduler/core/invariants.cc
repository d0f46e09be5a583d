#include "scheduler/core/invariants.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace graft::scheduler {

std::vector<std::string> InvariantChecker::Check(const Core& core) {
  broken_.clear();
  CheckDevices(core);
  CheckCounts(core);
  CheckStops(core);
  for (const auto& [key, job] : core.jobs()) CheckJob(core, job);
  CheckUsage(core);
  CheckLeaving(core);
  for (const auto& [name, node] : core.nodes()) {
    int64_t& before = revisions_[name];
    if (node.desired_revision < before) {
      broken_.push_back(absl::StrCat("I4: the desired revision of ", name, " went back"));
    }
    before = node.desired_revision;
  }
  claimed_.clear();
  claimants_.clear();
  for (const auto& [key, claim] : core.claims_) {
    claimants_.insert(key);
    for (const DeviceRef& ref : claim.devices) claimed_[ref] = key;
  }
  modes_.clear();
  for (const auto& [name, queue] : core.queues()) modes_[name] = queue.mode;
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

// The index that searches read says of each device what its node says.
void InvariantChecker::CheckCounts(const Core& core) {
  const Topology& topology = core.cluster().topology();
  for (const auto& [name, node] : core.cluster().nodes()) {
    for (const Device& device : node.devices) {
      const bool free = device.holder.empty() && device.healthy && node.schedulable;
      const std::vector<Topology::Slot> slots = topology.Resolve({{name, device.index}});
      const bool counted =
          !slots.empty() && (topology.Free(slots[0].group) & slots[0].bits) == slots[0].bits;
      if (free == counted) continue;
      broken_.push_back(absl::StrCat("I12: device ", device.index, " of ", name, " is ",
                                     free ? "" : "not ", "free, the counts say otherwise"));
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
    const bool over = node == nullptr || part.epoch > node->epoch || part.epoch < node->heard;
    if (part.state != PartState::kEnded && over) {
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
  const int world = job.attempt.layout.world();
  if (runs && static_cast<int>(job.attempt.ranks.size()) != world) {
    broken_.push_back(
        absl::StrCat("I2: ", key, " runs ", job.attempt.ranks.size(), " of ", world, " ranks"));
  }
  if (fresh_attempt && !job.attempt.validation) CheckStart(core, job);
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

void InvariantChecker::CheckStart(const Core& core, const Job& job) {
  const JobKey& key = job.request.key;
  const std::string account = Core::AccountOf(job.request);
  if (!core.quotas().Admits(account, 0)) {
    broken_.push_back(absl::StrCat("I6: ", key, " started beyond the quota of ", account));
  }
  for (const DeviceRef& ref : job.attempt.ranks) {
    const auto claim = claimed_.find(ref);
    if (claim == claimed_.end() || claim->second == key) continue;
    const auto still = core.claims_.find(claim->second);
    if (still == core.claims_.end()) continue;  // given up since
    const std::vector<DeviceRef>& kept = still->second.devices;
    if (std::find(kept.begin(), kept.end(), ref) == kept.end()) continue;
    broken_.push_back(absl::StrCat("I6: ", key, " took room that was made for ", claim->second));
    break;
  }
  if (!job.request.after.empty()) {
    broken_.push_back(absl::StrCat("I9: ", key, " started before ", job.request.after[0]));
  }
  const auto mode = modes_.find(job.request.queue);
  if (mode != modes_.end() && mode->second == QueueMode::kHeld &&
      core.queues().at(job.request.queue).mode == QueueMode::kHeld) {
    broken_.push_back(absl::StrCat("I9: ", key, " started in a queue that is held"));
  }
  // As its placement must have looked a moment ago. What the node has become since does not count.
  ClusterView before = core.cluster();
  before.Release(job.attempt.ranks, key);
  for (const DeviceRef& ref : job.attempt.ranks) before.SetSchedulable(ref.node, true);
  GangRequest gang = job.request.gang;
  gang.layout = job.attempt.layout;
  const absl::Status valid = Validate(before, gang, {.ranks = job.attempt.ranks});
  if (!valid.ok() && job.attempt.held.size() == job.attempt.ranks.size()) {
    broken_.push_back(absl::StrCat("I9: ", key, ": ", valid.message()));
  }
}

// Who was told to make room, and whether the one it is made for may ask that.
void InvariantChecker::CheckStops(const Core& core) {
  for (const auto& [key, job] : core.jobs()) {
    const auto before = states_.find(key);
    if (job.state != JobState::kPreempting || before == states_.end() ||
        before->second == JobState::kPreempting) {
      continue;
    }
    if (job.attempt.mode == AttemptMode::kStop && job.attempt.end == AttemptEnd::kNone) {
      broken_.push_back(absl::StrCat("I6: ", key, " was stopped without a checkpoint"));
    }
    if (job.reason_code != "PREEMPTING") continue;
    bool entitled = core.claims_.empty();
    for (const auto& [claimant, claim] : core.claims_) {
      const Job& other = *core.FindJob(claimant);
      entitled = entitled || claimants_.contains(claimant) ||
                 core.EffectivePriority(job.request) < core.EffectivePriority(other.request) ||
                 core.quotas().WithinGuarantee(Core::AccountOf(other.request),
                                               other.request.gang.layout.world());
    }
    if (!entitled) {
      broken_.push_back(absl::StrCat("I6: ", key, " was stopped for nobody who may ask that"));
    }
  }
}

void InvariantChecker::CheckLeaving(const Core& core) {
  for (const auto& [name, node] : core.nodes()) {
    if (!node.alive) continue;
    if (!node.leaving && node.empty_at > core.now_ - absl::Seconds(1)) continue;
    for (const JobKey& key : node.jobs) {
      const Job* job = core.FindJob(key);
      if (job->attempt.validation || job->attempt.mode != AttemptMode::kRun) continue;
      if (job->state != JobState::kStarting && job->state != JobState::kRunning) continue;
      broken_.push_back(absl::StrCat("I9: ", key, " goes on on ", name, ", which leaves"));
    }
  }
}

void InvariantChecker::CheckUsage(const Core& core) {
  absl::btree_map<std::string, int> used;
  for (const auto& [key, job] : core.jobs()) {
    for (const DeviceRef& ref : job.attempt.ranks) {
      const auto part = job.attempt.parts.find(ref.node);
      if (part != job.attempt.parts.end() && part->second.state != PartState::kEnded) {
        ++used[Core::AccountOf(job.request)];
      }
    }
  }
  for (const auto& [account, devices] : core.quotas().used()) {
    if (devices == used[account]) continue;
    broken_.push_back(absl::StrCat("I12: ", account, " is said to use ", devices,
                                   " devices and uses ", used[account]));
  }
}

}  // namespace graft::scheduler
