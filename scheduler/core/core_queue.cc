// The queue: which waiting job starts where.
#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "scheduler/core/core.h"
#include "scheduler/core/planted.h"

namespace graft::scheduler {
namespace {

// What a pass costs, about: each class that waits is tried, and when one is blocked each gang that
// runs is looked at. One that costs more than kQuickPass is followed by a pause of so many times
// its cost, so that a queue of any length takes a small share of the loop's time.
constexpr absl::Duration kCostOfClass = absl::Microseconds(4);
constexpr absl::Duration kCostOfGang = absl::Microseconds(1);
constexpr absl::Duration kQuickPass = absl::Milliseconds(2);
constexpr int kPausePerCost = 10;
constexpr absl::Duration kLongestPause = absl::Seconds(30);  // while something is blocked
// A gang that was told to stop is taken to be gone after so long.
constexpr absl::Duration kLeaving = absl::Seconds(30);
// A blocked job waits so many times as long as it will run before room is kept for it.
constexpr int kPatience = 2;
constexpr size_t kMostNamed = 16;
constexpr int kStartsForeseen = 32;  // blocked jobs whose start is worked out for those who ask
// Run times over their estimates: how many are remembered, and how few say nothing.
constexpr size_t kOverrunsKept = 256;
constexpr size_t kFewestOverruns = 20;

std::string Names(const std::vector<std::string>& names) {
  if (names.size() <= kMostNamed) return absl::StrJoin(names, ", ");
  return absl::StrCat(absl::StrJoin(names.begin(), names.begin() + kMostNamed, ", "), " and ",
                      names.size() - kMostNamed, " more");
}

}  // namespace

const Queue& Core::QueueOf(const Job& job) const {
  static const auto* none = new Queue();
  const auto it = queues_.find(job.request.queue);
  return it == queues_.end() ? *none : it->second;
}

int Core::EffectivePriority(const JobRequest& request) const {
  const auto queue = queues_.find(request.queue);
  const int band = queue == queues_.end() ? 0 : queue->second.priority;
  return band * (2 * kMostJobPriority + 1) + request.priority;
}

WaitingJob Core::ToWaiting(const Job& job) const {
  const Queue& queue = QueueOf(job);
  return {.id = job.request.key,
          .account = AccountOf(job.request),
          .priority = EffectivePriority(job.request),
          .sequence = job.sequence,
          .gang = job.request.gang,
          .other_layouts = job.request.other_layouts,
          .rather_not = job.failed_nodes,
          .estimate = Remaining(job),
          .passes_others = queue.backfill,
          .shares = queue.fair};
}

bool Core::MayStart(const Job& job) const {
  return !job.request.hold && job.request.after.empty() && job.not_before <= now_ &&
         (QueueOf(job).mode != QueueMode::kHeld ||
          GRAFT_PLANTED(18));  // 18: a held queue starts jobs
}

// One that may not start is left out: an alarm, a resume or its queue's change brings it back here.
void Core::Enqueue(Job& job) {
  waiting_.insert(job.request.key);
  if (MayStart(job)) queue_.Add(ToWaiting(job));
}

void Core::Dequeue(const Job& job) {
  waiting_.erase(job.request.key);
  queue_.Remove(job.request.key);
  claims_.erase(job.request.key);
}

void Core::Reconsider(Job& job) {
  queue_.Remove(job.request.key);
  if (job.state == JobState::kQueued && MayStart(job)) queue_.Add(ToWaiting(job));
  effects_.pass_wanted = true;
}

absl::Duration Core::Remaining(const Job& job) const {
  const int64_t step = job.attempt.live() ? job.step : job.checkpoint.step;
  absl::Duration left = job.request.expected_run_time;
  if (job.step_seconds > 0 && job.steps_total > step) {
    left = absl::Seconds(job.step_seconds * static_cast<double>(job.steps_total - step));
  }
  return std::min(left, TimeLimitLeft(job));
}

absl::Time Core::PredictedEnd(const Job& job, absl::Time now) const {
  const Attempt& attempt = job.attempt;
  if (attempt.mode != AttemptMode::kRun) return now + kLeaving;
  const bool measured = job.step_seconds > 0 && job.steps_total > job.step;
  const absl::Time end = (measured ? now : attempt.started) + Remaining(job);
  // What has outlived its estimate is believed to go on for a tenth of its age.
  return end > now ? end : now + (now - attempt.started) / 10;
}

void Core::NoteOverrun(const Attempt& over) {
  const bool whole = over.end == AttemptEnd::kSucceeded && over.mode == AttemptMode::kRun;
  if (!whole || over.validation) return;
  if (over.expected <= absl::ZeroDuration() || over.expected == absl::InfiniteDuration()) return;
  overruns_.push_back(absl::FDivDuration(now_ - over.started, over.expected));
  if (overruns_.size() > kOverrunsKept) overruns_.pop_front();
}

double Core::OverrunP90() const {
  if (overruns_.size() < kFewestOverruns) return 0;
  std::vector<double> sorted(overruns_.begin(), overruns_.end());
  const auto nine_tenths = sorted.begin() + static_cast<int64_t>(sorted.size()) * 9 / 10;
  std::nth_element(sorted.begin(), nine_tenths, sorted.end());
  return *nine_tenths;
}

FairShare Core::SharesAt(absl::Time now) const {
  FairShare shares = shares_;
  for (const auto& [account, until] : charged_) {
    shares.Charge(account, quotas_.Used(account), now - until, now);
  }
  return shares;
}

PassInput Core::MakePassInput(const FairShare& shares, absl::Time now) const {
  PassInput input{.topology = &cluster_.topology(),
                  .quotas = quotas_,
                  .shares = &shares,
                  .now = now,
                  .reservations = options_.reservations};
  if (options_.keep_room_after > absl::ZeroDuration()) {
    input.keeps_room = [this, now](const std::string& id) {
      const auto job = jobs_.find(id);
      if (job == jobs_.end() || options_.keep_room_after == absl::InfiniteDuration()) return false;
      const absl::Duration own = Remaining(job->second);
      const bool known = own != absl::InfiniteDuration();
      return !known ||
             now - job->second.since >= std::min(kPatience * own, options_.keep_room_after);
    };
  }
  input.running = [this, now] {
    std::vector<RunningGang> running;
    for (const JobKey& key : live_) {
      const Job& job = jobs_.at(key);
      if (job.attempt.held.empty()) continue;
      running.push_back({key, &job.attempt.held, PredictedEnd(job, now)});
    }
    return running;
  };
  for (const auto& [key, claim] : claims_) {
    if (GRAFT_PLANTED(16)) break;  // room that was made for a job is anyone's
    if (ClaimHolds(key, claim)) input.claims.push_back({key, now, claim.devices});
  }
  if (GRAFT_PLANTED(13)) input.quotas = Quotas();  // quotas are not looked at
  return input;
}

absl::Status Core::Apply(const PassDue&) {
  LookAtDue();  // whose backoff ends now is in this pass
  effects_.pass_wanted = false;
  late_pass_ = absl::InfiniteFuture();
  StartValidations();
  pass_deferred_ = queue_.size() > 0 && now_ < next_pass_;
  if (queue_.size() == 0 || pass_deferred_) return absl::OkStatus();
  const int64_t classes = static_cast<int64_t>(queue_.classes().size());
  const FairShare shares = SharesAt(now_);
  const PassInput input = MakePassInput(shares, now_);
  DropClaims();
  const PassResult result = RunPass(queue_, input);
  for (const PassStart& start : result.starts) StartGang(start);
  MakeRoom(result);
  absl::Duration cost = classes * kCostOfClass;
  if (!result.blocked.empty()) cost += static_cast<int64_t>(live_.size()) * kCostOfGang;
  if (!result.blocked.empty()) late_pass_ = now_ + kLongestPause;
  if (cost > kQuickPass) next_pass_ = now_ + kPausePerCost * cost;
  return absl::OkStatus();
}

std::string Core::DecisionText(const Job& job, const PassStart& start) const {
  const Layout& layout = start.layout;
  const Placement& placement = start.placement;
  return absl::StrCat("attempt ", job.attempts + 1, " starts on ", Names(placement.Nodes()), " (",
                      start.how, "): tp ", layout.tp, ", cp ", layout.cp, ", dp ", layout.dp,
                      ", pp ", layout.pp, ", ep ", layout.ep,
                      layout == job.request.gang.layout ? "" : " instead of its first choice",
                      "; inside one ", LevelName(placement.level), ", units of ", placement.unit,
                      " in ", placement.domains, " NVLink domains, ", placement.crossings,
                      " switch borders crossed; priority ", job.request.priority, ", waited ",
                      absl::FormatDuration(absl::Trunc(now_ - job.since, absl::Seconds(1))), ", ",
                      waiting_.size() - 1, " more wait");
}

void Core::StartGang(const PassStart& start) {
  Job& job = jobs_.at(start.id);
  GangRequest gang = job.request.gang;
  gang.layout = start.layout;
  const absl::Status valid = Validate(cluster_, gang, start.placement);
  if (!valid.ok()) {
    effects_.decisions.push_back({start.id, absl::StrCat("not started: ", valid.message())});
    return;
  }
  Attempt attempt;
  attempt.layout = start.layout;
  attempt.ranks = start.placement.ranks;
  attempt.held = attempt.ranks;
  if (!GRAFT_PLANTED(14)) {  // 14: devices are given away without being taken
    const absl::Status taken = cluster_.Take(attempt.ranks, start.id);
    GRAFT_CHECK(taken.ok()) << taken.ToString();
  }
  Hold(job, static_cast<int>(attempt.ranks.size()));
  attempt.decision = DecisionText(job, start);
  effects_.decisions.push_back({start.id, attempt.decision});
  if (GRAFT_PLANTED(15) && attempt.ranks.size() > 1) attempt.ranks.pop_back();  // a partial gang
  Start(job, std::move(attempt));
  Move(job, JobState::kStarting, "STARTING",
       absl::StrCat("placed on ", Names(start.placement.Nodes()), "; waits for its ranks"));
  CheckTimeLimit(job);
}

void Core::Start(Job& job, Attempt attempt) {
  attempt.number = ++job.attempts;
  attempt.started = now_;
  attempt.expected = Remaining(job);
  for (const DeviceRef& ref : attempt.ranks) attempt.parts[ref.node];
  job.attempt = std::move(attempt);
  live_.insert(job.request.key);
  TouchDesired(job.attempt);
  for (auto& [name, part] : job.attempt.parts) {
    NodeState& node = nodes_.at(name);
    node.jobs.insert(job.request.key);
    effects_.holders_changed.insert(name);
    part.epoch = node.epoch;
    part.told_at = node.desired_revision;
  }
}

void Core::StartValidations() {
  if (created_.empty()) return;
  // On the node that validates the least, in name order: a token pass needs a CPU and no device.
  absl::btree_map<std::string, int> load;
  for (const auto& [name, node] : nodes_) {
    if (node.takes_jobs()) load[name] = 0;
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
    if (least->second >= options_.validations_per_node) return;  // one that ends makes room
    ++least->second;
    Attempt attempt;
    attempt.validation = true;
    attempt.parts[least->first];
    Start(job, std::move(attempt));
    Move(job, JobState::kValidating, "VALIDATING",
         absl::StrCat("node ", least->first, " reads its inputs through"));
  }
}

std::vector<const Job*> Core::Waiting(absl::Time now, size_t most) const {
  // Those that may not start are last; inside a group age decides.
  using Group = std::vector<std::pair<int64_t, const JobKey*>>;
  absl::btree_map<std::pair<bool, Standing>, Group> groups;
  const FairShare shares = SharesAt(now);
  const auto group_of = [&](bool held, const WaitingJob& like) -> Group& {
    return groups[{held, StandingOf(like, quotas_, shares.Level(like.account, now))}];
  };
  for (const auto& [name, of] : queue_.classes()) {
    Group& group = group_of(false, of.like);
    for (const auto& [sequence, key] : of.jobs) group.push_back({sequence, &key});
  }
  if (queue_.size() < waiting_.size()) {
    for (const JobKey& key : waiting_) {
      if (queue_.Find(key) != nullptr) continue;
      const Job& job = jobs_.at(key);
      group_of(true, ToWaiting(job)).push_back({job.sequence, &key});
    }
  }
  std::vector<const Job*> list;
  for (auto& [order, group] : groups) {
    const size_t count = std::min(group.size(), most - list.size());
    const auto end = group.begin() + static_cast<int64_t>(count);
    if (end != group.end()) std::nth_element(group.begin(), end, group.end());
    std::sort(group.begin(), end);
    for (auto it = group.begin(); it != end; ++it) list.push_back(&jobs_.at(*it->second));
    if (list.size() == most) break;
  }
  return list;
}

std::vector<WaitingPlace> Core::Outlook(absl::Time now, size_t most) const {
  const FairShare shares = SharesAt(now);
  PassInput input = MakePassInput(shares, now);
  input.reservations = kStartsForeseen;
  input.keeps_room = nullptr;  // nobody goes ahead of what is foreseen
  absl::flat_hash_map<JobKey, absl::Time> starts;
  for (Reservation& room : RunPass(queue_, input).reservations) {
    starts.emplace(std::move(room.id), room.start);
  }
  std::vector<WaitingPlace> places;
  absl::flat_hash_map<std::string, int64_t> last;  // by queue
  for (const Job* job : Waiting(now, most)) {
    const auto start = starts.find(job->request.key);
    places.push_back({job, ++last[job->request.queue],
                      start == starts.end() ? absl::InfiniteFuture() : start->second});
  }
  return places;
}

}  // namespace graft::scheduler
