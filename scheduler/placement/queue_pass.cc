#include "scheduler/placement/queue_pass.h"

#include <algorithm>
#include <optional>
#include <queue>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"

namespace graft::scheduler {
namespace {

// Estimates are kept in steps, upwards, so that they make few classes.
absl::Duration Coarse(absl::Duration estimate) {
  if (estimate == absl::InfiniteDuration()) return estimate;
  absl::Duration step = absl::Minutes(1);
  while (step < estimate) step *= 2;
  return step;
}

std::string ClassKey(const WaitingJob& job) {
  const GangRequest& gang = job.gang;
  const Layout& layout = gang.layout;
  return absl::StrCat(job.workspace, "\n", job.priority, "\n", absl::ToInt64Seconds(job.estimate),
                      "\n", layout.tp, ",", layout.cp, ",", layout.dp, ",", layout.pp, ",",
                      layout.ep, "\n", gang.device_kind, "\n", gang.min_memory_bytes, "\n",
                      absl::StrJoin(gang.labels, "\x01", absl::PairFormatter("\x02")), "\n",
                      absl::StrJoin(gang.tolerations, "\x01"), "\n",
                      absl::StrJoin(gang.avoid_nodes, "\x01"), "\n", gang.allow_tp_across_domains,
                      static_cast<int>(gang.max_level), absl::FormatTime(gang.needed_until));
}

class Pass {
 public:
  Pass(const WaitingQueue& queue, const PassInput& input)
      : queue_(queue),
        input_(input),
        quotas_(input.quotas),
        now_free_(*input.topology),
        outside_(*input.topology),
        growth_(input.topology->growth()) {}

  PassResult Run() {
    for (const auto& [key, of] : queue_.classes()) PushFrom(of, of.jobs.begin());
    if (input_.what_if != nullptr) {
      asked_.like = *input_.what_if;
      asked_.jobs[asked_.like.sequence] = asked_.like.id;
      heads_.push(HeadOf(asked_, asked_.jobs.begin()));
    }
    while (!heads_.empty()) {
      const Head head = heads_.top();
      heads_.pop();
      TryClass(head);
      if (head.of == &asked_) break;
    }
    return std::move(result_);
  }

 private:
  struct Head {
    int priority;
    double level;  // of the workspace's share
    int64_t sequence;
    const WaitingQueue::Class* of;
    std::map<int64_t, std::string>::const_iterator job;
    // The queue's top is the greatest.
    bool operator<(const Head& other) const {
      if (priority != other.priority) return priority < other.priority;
      if (level != other.level) return level > other.level;
      return sequence > other.sequence;
    }
  };

  Head HeadOf(const WaitingQueue::Class& of,
              std::map<int64_t, std::string>::const_iterator job) const {
    const double level =
        input_.shares == nullptr ? 0 : input_.shares->Level(of.like.workspace, input_.now);
    return {of.like.priority, level, job->first, &of, job};
  }

  // The class goes on with this job, or with the next when this is the one asked about.
  void PushFrom(const WaitingQueue::Class& of, std::map<int64_t, std::string>::const_iterator job) {
    if (input_.what_if != nullptr && job != of.jobs.end() && job->second == input_.what_if->id) {
      ++job;
    }
    if (job != of.jobs.end()) heads_.push(HeadOf(of, job));
  }

  void TryClass(const Head& head) {
    const WaitingJob& like = head.of->like;
    if (!quotas_.Admit(like.workspace, like.gang.layout.world()).ok()) return;
    std::optional<Placement> placement;
    absl::string_view how = result_.reservations.empty() ? "first in line" : "beside kept room";
    const bool asking = input_.what_if != nullptr;
    if (!asking && head.of->no_fit_at == growth_) {
      ++result_.classes_skipped;
    } else {
      ++result_.classes_tried;
      placement = Seek(like, how);
      if (!asking && !placement.has_value() && result_.reservations.empty()) {
        head.of->no_fit_at = growth_;
      }
    }
    if (!placement.has_value()) {
      if (head.of == &asked_) return;
      NoteAhead(*head.of);
      Reserve(head);
      return;
    }
    now_free_.Take(placement->ranks);
    outside_.Take(placement->ranks);
    quotas_.Charge(like.workspace, like.gang.layout.world());
    result_.starts.push_back({head.job->second, *std::move(placement), how});
    if (timeline_.has_value()) NoteEnd(result_.starts.back());
    PushFrom(*head.of, std::next(head.job));
  }

  // Jobs of the class that stand before the one asked about.
  void NoteAhead(const WaitingQueue::Class& of) {
    if (input_.what_if == nullptr) return;
    int ahead = static_cast<int>(of.jobs.size());
    if (of.like.priority == asked_.like.priority && of.like.workspace == asked_.like.workspace) {
      ahead = static_cast<int>(
          std::distance(of.jobs.begin(), of.jobs.lower_bound(asked_.like.sequence)));
    }
    result_.jobs_ahead += ahead;
    result_.devices_ahead += ahead * of.like.gang.layout.world();
  }

  std::optional<Placement> Seek(const WaitingJob& like, absl::string_view& how) const {
    std::optional<Placement> placement = TryPlace(outside_, like.gang);
    if (placement.has_value() || result_.reservations.empty()) return placement;
    if (input_.now + like.estimate > first_needed_) return std::nullopt;
    how = "in kept room that it leaves in time";
    return TryPlace(now_free_, like.gang);
  }

  void Reserve(const Head& head) {
    if (static_cast<int>(result_.reservations.size()) >= input_.reservations) return;
    if (!timeline_.has_value()) {
      timeline_.emplace(now_free_, input_.running);
      for (const PassStart& start : result_.starts) NoteEnd(start);
    }
    Reservation found;
    if (!timeline_->Find(now_free_, head.of->like.gang, result_.reservations, input_.now, found)) {
      return;
    }
    found.id = head.job->second;
    first_needed_ = std::min(first_needed_, found.start);
    outside_.Take(found.devices);
    result_.reservations.push_back(std::move(found));
  }

  void NoteEnd(const PassStart& start) {
    timeline_->Add(now_free_, start.placement.ranks,
                   input_.now + queue_.Find(start.id)->like.estimate);
  }

  const WaitingQueue& queue_;
  const PassInput& input_;
  Quotas quotas_;
  Topology now_free_;  // without what this pass has given away
  Topology outside_;   // and without kept room
  const uint64_t growth_;
  std::priority_queue<Head> heads_;
  WaitingQueue::Class asked_;
  std::optional<Timeline> timeline_;  // made when the first job is blocked
  absl::Time first_needed_ = absl::InfiniteFuture();
  PassResult result_;
};

}  // namespace

void WaitingQueue::Add(WaitingJob job) {
  GRAFT_CHECK(!where_.contains(job.id)) << job.id << " waits already";
  job.estimate = Coarse(job.estimate);
  const auto [it, added] = classes_.try_emplace(ClassKey(job));
  it->second.jobs[job.sequence] = job.id;
  where_[job.id] = {it, job.sequence};
  if (added) it->second.like = std::move(job);
}

bool WaitingQueue::Remove(absl::string_view id) {
  const auto it = where_.find(id);
  if (it == where_.end()) return false;
  const auto [of, sequence] = it->second;
  of->second.jobs.erase(sequence);
  if (of->second.jobs.empty()) classes_.erase(of);
  where_.erase(it);
  return true;
}

const WaitingQueue::Class* WaitingQueue::Find(absl::string_view id) const {
  const auto it = where_.find(id);
  return it == where_.end() ? nullptr : &it->second.first->second;
}

PassResult RunPass(const WaitingQueue& queue, const PassInput& input) {
  return Pass(queue, input).Run();
}

}  // namespace graft::scheduler
