// The queue: which waiting job starts where, who makes room, and why the others wait.
#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "scheduler/core/core.h"
#include "scheduler/core/planted.h"

namespace graft::scheduler {
namespace {

// Jobs of one class want the same: where one does not fit, none does.
std::string ClassOf(const Job& job) {
  const GangRequest& gang = job.request.gang;
  const Layout& layout = gang.layout;
  return absl::StrCat(layout.tp, ",", layout.cp, ",", layout.dp, ",", layout.pp, ",", layout.ep,
                      "|", gang.device_kind, "|", gang.min_memory_bytes, "|",
                      absl::StrJoin(gang.labels, ",", absl::PairFormatter("=")), "|",
                      absl::StrJoin(gang.tolerations, ","), "|", gang.allow_tp_across_domains);
}

}  // namespace

// One walk along the queue.
struct Core::Pass {
  absl::btree_set<std::string> no_fit;  // classes
  int reserved = 0;                     // blocked jobs that room is kept for
  // The cluster without the room that is kept; none while nothing is.
  std::optional<ClusterView> outside;
  absl::Time shadow = absl::InfiniteFuture();  // when the kept room is needed
};

int Core::EffectivePriority(const Job& job) const {
  const auto queue = queues_.find(job.request.queue);
  return job.request.priority + (queue == queues_.end() ? 0 : queue->second.priority);
}

void Core::Enqueue(Job& job) { waiting_[KeyOf(job)] = job.request.key; }
void Core::Dequeue(const Job& job) { waiting_.erase(KeyOf(job)); }

bool Core::OverQuota(const Job& job) const {
  const int quota = Quota(job.request.workspace);
  return quota >= 0 && !GRAFT_PLANTED(13) &&
         DevicesUsed(job.request.workspace) + job.request.gang.layout.world() > quota;
}

absl::Time Core::PredictedEnd(const Job& job) const {
  absl::Time end = absl::InfiniteFuture();
  if (job.step_seconds > 0 && job.steps_total > job.step) {
    end = now_ + absl::Seconds(job.step_seconds * static_cast<double>(job.steps_total - job.step));
  }
  if (job.request.time_limit > absl::ZeroDuration()) {
    end = std::min(end, std::max(now_, job.attempt.started) + job.request.time_limit);
  }
  return end;
}

absl::Status Core::Apply(const PassDue&) {
  StartValidations();
  Pass pass;
  std::vector<JobKey> order;
  order.reserve(waiting_.size());
  for (const auto& [key, job] : waiting_) order.push_back(job);
  for (const JobKey& key : order) TryWaiting(jobs_.at(key), pass);
  effects_.pass_wanted = false;
  return absl::OkStatus();
}

void Core::TryWaiting(Job& job, Pass& pass) {
  if (job.request.hold || job.not_before > now_ || OverQuota(job)) return;
  const std::string job_class = ClassOf(job);
  if (pass.no_fit.contains(job_class)) return;
  const ClusterView& view = pass.outside.has_value() ? *pass.outside : cluster_;
  absl::StatusOr<Placement> placement = Seek(view, job);
  absl::string_view how =
      pass.outside.has_value() ? "backfilled beside kept room" : "first in line";
  if (!placement.ok() && pass.outside.has_value() &&
      job.request.time_limit > absl::ZeroDuration() &&
      now_ + job.request.time_limit <= pass.shadow) {
    placement = Seek(cluster_, job);
    how = "backfilled into kept room that it leaves in time";
  }
  if (placement.ok()) {
    if (pass.outside.has_value()) (void)pass.outside->Take(placement->ranks, job.request.key);
    StartGang(job, *placement, how);
    return;
  }
  pass.no_fit.insert(job_class);
  Preempt(job);
  Reserve(job, pass);
}

absl::StatusOr<Placement> Core::Seek(const ClusterView& view, const Job& job) const {
  if (!job.failed_nodes.empty()) {
    GangRequest elsewhere = job.request.gang;
    elsewhere.avoid_nodes = job.failed_nodes;
    absl::StatusOr<Placement> placement = Place(view, elsewhere);
    if (placement.ok()) return placement;
  }
  return Place(view, job.request.gang);
}

// Keeps the room in which the blocked job will start: that which is there when running jobs,
// soonest end first, have left as many devices as it needs.
void Core::Reserve(const Job& job, Pass& pass) {
  if (pass.reserved >= options_.reservations) return;
  std::vector<std::pair<absl::Time, JobKey>> ends;
  for (const JobKey& key : live_) {
    const Job& running = jobs_.at(key);
    if (!running.attempt.ranks.empty()) ends.push_back({PredictedEnd(running), key});
  }
  std::sort(ends.begin(), ends.end());
  ClusterView later = cluster_;
  absl::StatusOr<Placement> room = absl::NotFoundError("");
  absl::Time shadow = now_;
  for (const auto& [end, key] : ends) {
    later.Release(jobs_.at(key).attempt.ranks, key);
    shadow = end;
    room = Seek(later, job);
    if (room.ok()) break;
  }
  if (!room.ok()) return;  // it does not fit this cluster at all
  ++pass.reserved;
  pass.shadow = std::min(pass.shadow, shadow);
  if (!pass.outside.has_value()) pass.outside = cluster_;
  for (const DeviceRef& ref : room->ranks) (void)pass.outside->Take({ref}, "kept");
}

void Core::StartGang(Job& job, const Placement& placement, absl::string_view how) {
  Attempt attempt;
  attempt.ranks = placement.ranks;
  if (!GRAFT_PLANTED(14)) {  // 14: devices are given away without being taken
    const absl::Status taken = cluster_.Take(placement.ranks, job.request.key);
    GRAFT_CHECK(taken.ok()) << taken.ToString();
  }
  used_[job.request.workspace] += static_cast<int>(placement.ranks.size());
  const std::vector<std::string> nodes = placement.Nodes();
  effects_.decisions.push_back(
      {job.request.key,
       absl::StrCat("starts on ", absl::StrJoin(nodes, ", "), " (", how, ", priority ",
                    EffectivePriority(job), ", ", waiting_.size() - 1, " more wait)")});
  if (GRAFT_PLANTED(15) && attempt.ranks.size() > 1) attempt.ranks.pop_back();  // a partial gang
  Start(job, std::move(attempt));
  Move(job, JobState::kStarting, "STARTING",
       absl::StrCat("placed on ", absl::StrJoin(nodes, ", "), "; waits for its ranks"));
  CheckTimeLimit(job);
}

void Core::Start(Job& job, Attempt attempt) {
  attempt.number = ++job.attempts;
  attempt.started = now_;
  for (const DeviceRef& ref : attempt.ranks) attempt.parts[ref.node];
  job.attempt = std::move(attempt);
  live_.insert(job.request.key);
  TouchDesired(job.attempt);
  for (auto& [name, part] : job.attempt.parts) {
    const NodeState& node = nodes_.at(name);
    part.epoch = node.epoch;
    part.told_at = node.desired_revision;
  }
}

void Core::StartValidations() {
  // On the node that validates the least, in name order: a token pass needs a CPU and no device.
  absl::btree_map<std::string, int> load;
  for (const auto& [name, node] : nodes_) {
    if (node.alive && !node.cordoned && !node.draining) load[name] = 0;
  }
  if (load.empty()) return;
  for (const JobKey& key : live_) {
    const Attempt& attempt = jobs_.at(key).attempt;
    if (!attempt.validation) continue;
    const auto it = load.find(attempt.parts.begin()->first);
    if (it != load.end()) ++it->second;
  }
  for (const JobKey& key : std::vector<JobKey>(created_.begin(), created_.end())) {
    Job& job = jobs_.at(key);
    if (job.not_before > now_) continue;
    const auto least = std::min_element(
        load.begin(), load.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
    ++least->second;
    Attempt attempt;
    attempt.validation = true;
    attempt.parts[least->first];
    Start(job, std::move(attempt));
    Move(job, JobState::kValidating, "VALIDATING",
         absl::StrCat("node ", least->first, " reads its inputs through"));
  }
}

// Stops jobs of lower priority so that `job` can start: the cheapest that are enough, each of which
// takes a checkpoint first. While some are on their way out no others are asked.
void Core::Preempt(const Job& job) {
  const auto queue = queues_.find(job.request.queue);
  if (queue == queues_.end() || !queue->second.preempts) return;
  ClusterView later = cluster_;
  std::vector<JobKey> candidates;
  for (const JobKey& key : live_) {
    const Job& other = jobs_.at(key);
    if (other.attempt.ranks.empty()) continue;
    if (other.attempt.mode != AttemptMode::kRun) {
      later.Release(other.attempt.ranks, key);
    } else if (other.request.preemptible && EffectivePriority(other) < EffectivePriority(job)) {
      candidates.push_back(key);
    }
  }
  if (Seek(later, job).ok()) return;
  std::sort(candidates.begin(), candidates.end(), [&](const JobKey& a, const JobKey& b) {
    const Job& left = jobs_.at(a);
    const Job& right = jobs_.at(b);
    const int lp = EffectivePriority(left), rp = EffectivePriority(right);
    if (lp != rp) return lp < rp;
    if (left.attempt.started != right.attempt.started) {
      return left.attempt.started > right.attempt.started;
    }
    return a < b;
  });
  std::vector<JobKey> victims;
  bool enough = false;
  for (const JobKey& key : candidates) {
    later.Release(jobs_.at(key).attempt.ranks, key);
    victims.push_back(key);
    if ((enough = Seek(later, job).ok())) break;
  }
  if (!enough) return;
  // Those that turn out not to be needed stay.
  for (size_t i = 0; i < victims.size();) {
    const std::vector<DeviceRef>& ranks = jobs_.at(victims[i]).attempt.ranks;
    std::vector<DeviceRef> held;
    for (const DeviceRef& ref : ranks) {
      if (jobs_.at(victims[i]).attempt.parts.at(ref.node).state != PartState::kEnded) {
        held.push_back(ref);
      }
    }
    GRAFT_CHECK_OK(later.Take(held, victims[i]));
    if (Seek(later, job).ok()) {
      victims.erase(victims.begin() + static_cast<std::ptrdiff_t>(i));
    } else {
      later.Release(held, victims[i]);
      ++i;
    }
  }
  for (const JobKey& key : victims) {
    Move(jobs_.at(key), JobState::kPreempting, "PREEMPTING",
         absl::StrCat("its devices are wanted by a job of priority ", EffectivePriority(job)));
    Tell(jobs_.at(key), AttemptMode::kCheckpointAndStop);
  }
}

std::vector<WaitReason> Core::Explain(const Job& job, absl::Time now) const {
  std::vector<WaitReason> reasons;
  const auto say = [&](absl::string_view code, std::string text) {
    reasons.push_back({std::string(code), std::move(text)});
  };
  const GangRequest& gang = job.request.gang;
  const int world = gang.layout.world();
  if (job.state == JobState::kPaused) say("HELD", "it is paused; resume it to let it start");
  if (job.state == JobState::kCreated) say("VALIDATION", "no live worker has taken its inputs yet");
  if (job.state != JobState::kQueued) return reasons;
  if (job.request.hold) say("HELD", "it is held back; resume it to let it start");
  if (job.not_before > now) {
    say("BACKOFF", absl::StrCat("waits ", absl::FormatDuration(job.not_before - now),
                                " after restart ", job.restarts, " of ", job.request.max_restarts));
  }
  if (OverQuota(job)) {
    say("QUOTA",
        absl::StrCat("needs ", world, " devices; workspace ", job.request.workspace, " uses ",
                     DevicesUsed(job.request.workspace), " of ", Quota(job.request.workspace)));
  }
  const absl::StatusOr<Placement> placement = Seek(cluster_, job);
  if (!placement.ok()) {
    const Funnel funnel = Measure(cluster_, gang);
    const std::string counts =
        absl::StrCat("needs ", world, " devices; ", funnel.nodes, " nodes, ", funnel.nodes_matching,
                     " match, ", funnel.nodes_schedulable, " of them take jobs; ",
                     funnel.devices_matching, " devices match, ", funnel.devices_free, " are free");
    if (const absl::Status ever = FitsEmptyCluster(cluster_, gang); !ever.ok()) {
      say("NO_NODE_MATCHES", std::string(ever.message()));
    } else if (funnel.devices_schedulable < world) {
      say("DRAINING", absl::StrCat(counts, "; nodes that would do are cordoned, draining or lost"));
    } else if (funnel.devices_free < world) {
      say("CAPACITY", counts);
    } else {
      say("FRAGMENTED", absl::StrCat(counts, ", at most ", funnel.largest_free_domain,
                                     " in one NVLink domain (", funnel.largest_free_domain_name,
                                     "), and a TP group needs ", gang.layout.tp));
    }
  }
  int ahead = 0;
  int devices_ahead = 0;
  for (const auto& [key, other] : waiting_) {
    if (other == job.request.key) break;
    ++ahead;
    devices_ahead += jobs_.at(other).request.gang.layout.world();
  }
  if (ahead > 0) {
    say(placement.ok() ? "RESERVED" : "PRIORITY",
        absl::StrCat(ahead, " jobs that want ", devices_ahead, " devices stand before it"));
  }
  return reasons;
}

}  // namespace graft::scheduler
