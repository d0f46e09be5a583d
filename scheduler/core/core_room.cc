// Room for a waiting job that is made by stopping others: who is stopped, and for whom it is kept
// while they take their checkpoints.
#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/core/core.h"
#include "scheduler/core/planted.h"

namespace graft::scheduler {

// What runs now, as a choice of victims sees it.
struct Core::Running {
  Topology later;  // when all that have been told to stop have stopped, without claimed room
  std::vector<VictimCandidate> candidates;
  // When the next gang that is too young to be stopped no longer is.
  absl::Time next_mature = absl::InfiniteFuture();
};

bool Core::ClaimIsFree(const Claim& claim) const {
  return std::all_of(claim.devices.begin(), claim.devices.end(), [&](const DeviceRef& ref) {
    const Device* device = cluster_.FindDevice(ref);
    return device != nullptr && device->holder.empty();
  });
}

// A claim is over when its job no longer waits or its room will not come: a device of it is held by
// a job that goes on, or its node takes no jobs. Also when all of it was there for a whole pass:
// the job needs something else by now.
bool Core::ClaimHolds(const JobKey& key, const Claim& claim) const {
  const JobRequest& request = jobs_.at(key).request;
  if (queue_.Find(key) == nullptr ||
      !quotas_.Admits(AccountOf(request), request.gang.layout.world()) ||
      (claim.was_free && ClaimIsFree(claim))) {
    return false;
  }
  return std::all_of(claim.devices.begin(), claim.devices.end(), [&](const DeviceRef& ref) {
    const Node* node = cluster_.Find(ref.node);
    const Device* device = cluster_.FindDevice(ref);
    if (node == nullptr || !node->schedulable || device == nullptr || !device->healthy) {
      return false;
    }
    return device->holder.empty() || jobs_.at(device->holder).attempt.mode != AttemptMode::kRun;
  });
}

void Core::DropClaims() {
  for (auto it = claims_.begin(); it != claims_.end();) {
    const bool holds = ClaimHolds(it->first, it->second);
    it->second.was_free = ClaimIsFree(it->second);
    it = holds ? std::next(it) : claims_.erase(it);
  }
}

bool Core::MayMakeRoom(const Job& job) const {
  return !claims_.contains(job.request.key) &&
         (QueueOf(job).preempts ||
          quotas_.WithinGuarantee(AccountOf(job.request), job.request.gang.layout.world()));
}

void Core::MakeRoom(const PassResult& pass) {
  const std::vector<std::string>& blocked = pass.blocked;
  if (std::none_of(blocked.begin(), blocked.end(),
                   [&](const JobKey& key) { return MayMakeRoom(jobs_.at(key)); })) {
    return;
  }
  Running running = LookAtRunning(pass.starts);
  const int64_t cost = static_cast<int64_t>(running.candidates.size()) + running.later.domains();
  int64_t searches = std::max<int64_t>(1, options_.preemption_budget / std::max<int64_t>(1, cost));
  for (const JobKey& key : blocked) {
    const Job& job = jobs_.at(key);
    if (!MayMakeRoom(job) || sought_.contains(key)) continue;
    if (searches-- == 0) {  // the next pass goes on here
      alarms_.insert({now_ + absl::Seconds(1), key});
      return;
    }
    sought_.insert(key);
    if (!MakeRoomFor(job, running) && running.next_mature != absl::InfiniteFuture()) {
      alarms_.insert({running.next_mature, key});
    }
  }
  sought_.clear();
}

Core::Running Core::LookAtRunning(const std::vector<PassStart>& fresh) const {
  // Who was started a moment ago is not stopped for those who were blocked then.
  absl::btree_set<absl::string_view> left_alone;
  for (const PassStart& start : fresh) left_alone.insert(start.id);
  Running running{.later = cluster_.topology()};
  // What an account holds above its guarantee is what it took last.
  absl::btree_map<std::string, std::vector<size_t>> by_account;
  for (const JobKey& key : live_) {
    const Job& job = jobs_.at(key);
    const Attempt& attempt = job.attempt;
    if (attempt.held.empty()) continue;
    if (attempt.mode != AttemptMode::kRun) {
      running.later.Release(attempt.held);
      continue;
    }
    if (job.state != JobState::kStarting && job.state != JobState::kRunning) continue;
    if (left_alone.contains(key)) continue;
    const absl::Duration least = QueueOf(job).min_run_time;
    if (now_ < attempt.started + least) {
      running.next_mature = std::min(running.next_mature, attempt.started + least);
    }
    const absl::Time kept = std::max(attempt.started, job.checkpoint.published);
    by_account[AccountOf(job.request)].push_back(running.candidates.size());
    running.candidates.push_back({.id = key,
                                  .ranks = &attempt.held,
                                  .priority = EffectivePriority(job.request),
                                  .preemptible = job.request.preemptible,
                                  .started = attempt.started,
                                  .min_run_time = least,
                                  .seconds_since_checkpoint = absl::ToDoubleSeconds(now_ - kept)});
  }
  for (const auto& [key, claim] : claims_) running.later.Take(claim.devices);
  for (auto& [account, own] : by_account) {
    if (!quotas_.Has(account)) continue;
    std::stable_sort(own.begin(), own.end(), [&](size_t a, size_t b) {
      return running.candidates[a].started > running.candidates[b].started;
    });
    int borrowed = quotas_.Borrowed(account);
    for (size_t which : own) {
      VictimCandidate& candidate = running.candidates[which];
      candidate.borrows = borrowed > 0;
      candidate.guaranteed = borrowed <= 0;
      borrowed -= static_cast<int>(candidate.ranks->size());
    }
  }
  return running;
}

// False when nobody who may be stopped would make enough room.
bool Core::MakeRoomFor(const Job& job, Running& running) {
  const std::string account = AccountOf(job.request);
  const int world = job.request.gang.layout.world();
  PreemptionRequest request{.gang = job.request.gang,
                            .priority = EffectivePriority(job.request),
                            .reclaims = quotas_.WithinGuarantee(account, world),
                            .borrows = quotas_.Borrows(account, world),
                            .now = now_};
  if (GRAFT_PLANTED(20)) request.reclaims = true;  // whoever waits takes back what is lent
  if (!QueueOf(job).preempts) request.priority = std::numeric_limits<int>::min();
  Victims victims;
  if (!ChooseVictims(running.later, request, running.candidates, victims)) return false;
  // No victims: it fits when those have stopped who were told to, and need not hurry anyone.
  if (!victims.ids.empty()) Preempt(job, victims, running);
  return true;
}

void Core::Preempt(const Job& job, const Victims& victims, Running& running) {
  claims_[job.request.key] = {.devices = victims.placement.ranks,
                              .victims = static_cast<int>(victims.ids.size())};
  for (const std::string& id : victims.ids) {
    Job& victim = jobs_.at(id);
    running.later.Release(victim.attempt.held);
    Move(victim, JobState::kPreempting, "PREEMPTING",
         absl::StrCat("its devices are wanted by a job of priority ", job.request.priority,
                      EffectivePriority(victim.request) < EffectivePriority(job.request)
                          ? ""
                          : ", which is within its quota"));
    // 17: no checkpoint is asked for.
    Tell(victim, GRAFT_PLANTED(17) ? AttemptMode::kStop : AttemptMode::kCheckpointAndStop);
    effects_.decisions.push_back(
        {id, absl::StrCat("stopped for ", job.request.key, ", with ", victims.ids.size() - 1,
                          " others; ", static_cast<int64_t>(victims.cost),
                          " device-seconds in all are done again")});
  }
  running.later.Take(victims.placement.ranks);
  running.candidates.erase(std::remove_if(running.candidates.begin(), running.candidates.end(),
                                          [&](const VictimCandidate& candidate) {
                                            return std::binary_search(victims.ids.begin(),
                                                                      victims.ids.end(),
                                                                      candidate.id);
                                          }),
                           running.candidates.end());
}

}  // namespace graft::scheduler
