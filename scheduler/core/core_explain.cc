// Why a job waits.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "scheduler/core/core.h"

namespace graft::scheduler {
namespace {

constexpr size_t kMostNamedAhead = 20;

int64_t Seconds(absl::Duration duration) {
  return absl::ToInt64Seconds(absl::Ceil(duration, absl::Seconds(1)));
}

}  // namespace

std::vector<WhyWaiting> Core::Holds(const Job& job, absl::Time now) const {
  std::vector<WhyWaiting> holds;
  if (job.state == JobState::kPaused) {
    holds.push_back({"HELD", "it is paused; resume it to let it start", {}});
  }
  if (job.state == JobState::kCreated) {
    holds.push_back({"VALIDATION", "no live worker has taken its inputs yet", {}});
  }
  if (job.state != JobState::kQueued) return holds;
  if (job.request.hold) {
    holds.push_back({"HELD", "it is held back; resume it to let it start", {}});
  }
  if (!job.request.after.empty()) {
    holds.push_back({"DEPENDENCY",
                     absl::StrCat("starts after ", absl::StrJoin(job.request.after, ", ")),
                     {{"jobs", static_cast<int64_t>(job.request.after.size())}}});
  }
  if (const Queue& queue = QueueOf(job); queue.mode == QueueMode::kHeld) {
    holds.push_back(
        {"HELD", absl::StrCat("queue ", queue.name, " is held and starts no jobs"), {}});
  }
  if (job.not_before > now) {
    holds.push_back({"BACKOFF",
                     absl::StrCat("waits ", Seconds(job.not_before - now), " s after restart ",
                                  job.restarts, " of ", job.request.max_restarts),
                     {{"seconds", Seconds(job.not_before - now)}, {"restarts", job.restarts}}});
  }
  const auto claim = claims_.find(job.request.key);
  if (claim != claims_.end()) {
    const int64_t devices = static_cast<int64_t>(claim->second.devices.size());
    holds.push_back(
        {"PREEMPTING",
         absl::StrCat(claim->second.victims == 1
                          ? "a job takes its checkpoint"
                          : absl::StrCat(claim->second.victims, " jobs take their checkpoints"),
                      " to make room for it; devices kept for it: ", devices),
         {{"victims", claim->second.victims}, {"devices", devices}}});
  }
  return holds;
}

absl::string_view Core::WaitCode(const Job& job, absl::Time now) const {
  static constexpr absl::string_view kCodes[] = {"HELD", "VALIDATION", "DEPENDENCY", "BACKOFF",
                                                 "PREEMPTING"};
  const std::vector<WhyWaiting> holds = Holds(job, now);
  for (absl::string_view code : kCodes) {
    if (!holds.empty() && holds[0].code == code) return code;
  }
  if (job.state != JobState::kQueued) return "";
  const int world = job.request.gang.layout.world();
  if (!quotas_.Admits(AccountOf(job.request), world)) return "QUOTA";
  const WaitingJob waiting = ToWaiting(job);
  if (FindSeat(cluster_.topology(), waiting, now).has_value()) return "PRIORITY";
  if (!FindSeat(cluster_.empty(), waiting, now).has_value()) return "NO_NODE_MATCHES";
  return "CAPACITY";
}

JobExplanation Core::Explain(const Job& job, absl::Time now) const {
  const std::vector<WhyWaiting> holds = Holds(job, now);
  JobExplanation explanation;
  if (job.state == JobState::kQueued) {
    if (queue_.Find(job.request.key) != nullptr) {
      explanation = ExplainQueued(job, queue_, now);
    } else {
      WaitingQueue queue = queue_;
      queue.Add(ToWaiting(job));
      explanation = ExplainQueued(job, queue, now);
    }
  }
  // What helps a job whose room is being made, or that may not start at all, is something else.
  if (!holds.empty()) {
    explanation.starts_now = false;
    explanation.counterfactuals.clear();
    explanation.expected_start = explanation.expected_start_p90 = absl::InfiniteFuture();
    explanation.reasons.insert(explanation.reasons.begin(), holds.begin(), holds.end());
  }
  return explanation;
}

JobExplanation Core::ExplainUnsubmitted(const JobRequest& request, absl::Time now) const {
  Job job;
  job.request = request;
  job.request.key.clear();
  job.sequence = next_sequence_;
  job.state = JobState::kQueued;
  WaitingQueue queue = queue_;
  queue.Add(ToWaiting(job));
  return ExplainQueued(job, queue, now);
}

JobExplanation Core::ExplainQueued(const Job& job, const WaitingQueue& queue,
                                   absl::Time now) const {
  const FairShare shares = SharesAt(now);
  const PassInput input = MakePassInput(shares, now);
  scheduler::Explanation why =
      scheduler::Explain(cluster_, queue, input, job.request.key, job.request.other_layouts);
  JobExplanation explanation{.starts_now = why.starts_now,
                             .reasons = std::move(why.reasons),
                             .funnel = why.funnel,
                             .counterfactuals = std::move(why.counterfactuals),
                             .expected_start = why.expected_start};
  if (why.starts_now) {
    explanation.reasons = {{"PRIORITY", "the next pass over the queue starts it", {}}};
  }
  // Were all estimates that far off, every end would come so much later and nothing else change.
  const double overrun = OverrunP90();
  if (overrun > 0 && why.expected_start != absl::InfiniteFuture()) {
    explanation.expected_start_p90 = now + (why.expected_start - now) * std::max(overrun, 1.0);
  }
  // In the job's own numbers; a queue's band is not left.
  auto& changes = explanation.counterfactuals;
  const int band = EffectivePriority(job.request) - job.request.priority;
  for (auto it = changes.begin(); it != changes.end();) {
    it->job.priority -= band;
    const bool possible = it->job.priority <= kMostJobPriority;
    if (it->remedy == Remedy::kPriority) {
      it->text = absl::StrCat("would start now with priority ", it->job.priority);
    }
    it = possible ? std::next(it) : changes.erase(it);
  }
  NoteAhead(queue, input, job.request.key, explanation);
  return explanation;
}

void Core::NoteAhead(const WaitingQueue& queue, const PassInput& input, const JobKey& key,
                     JobExplanation& explanation) const {
  using Place = std::pair<Standing, int64_t>;
  const auto place_of = [&](const WaitingQueue::Class& of, int64_t sequence) {
    const double level = input.shares->Level(of.like.account, input.now);
    return Place(StandingOf(of.like, input.quotas, level), sequence);
  };
  const Place own = place_of(*queue.Find(key), queue.SequenceOf(key));
  std::vector<std::pair<Place, JobKey>> first;
  for (const auto& [name, of] : queue.classes()) {
    JobsAhead* ahead = nullptr;
    Place place = place_of(of, 0);
    for (const auto& [sequence, id] : of.jobs) {
      place.second = sequence;
      if (!(place < own)) break;
      if (ahead == nullptr) ahead = &explanation.ahead[jobs_.at(id).request.workspace];
      ++ahead->jobs;
      ahead->devices += of.like.gang.layout.world();
      if (first.size() < kMostNamedAhead || place < first.back().first) {
        first.insert(std::upper_bound(first.begin(), first.end(), std::make_pair(place, id)),
                     {place, id});
        if (first.size() > kMostNamedAhead) first.pop_back();
      }
    }
  }
  for (auto& [place, id] : first) explanation.first_ahead.push_back(std::move(id));
}

}  // namespace graft::scheduler
