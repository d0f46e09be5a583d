#include "scheduler/placement/queue_pass.h"

#include <algorithm>
#include <optional>
#include <queue>
#include <utility>

#include "absl/container/flat_hash_set.h"
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

void AppendLayout(const Layout& layout, std::string& key) {
  absl::StrAppend(&key, layout.tp, ",", layout.cp, ",", layout.dp, ",", layout.pp, ",", layout.ep,
                  "\n");
}

// All that a search for the job's room depends on.
std::string WishKey(const WaitingJob& job) {
  const GangRequest& gang = job.gang;
  std::string key = absl::StrCat(
      absl::ToInt64Seconds(job.estimate), "\n", gang.device_kind, "\n", gang.min_memory_bytes, "\n",
      absl::StrJoin(gang.labels, "\x01", absl::PairFormatter("\x02")), "\n",
      absl::StrJoin(gang.tolerations, "\x01"), "\n", absl::StrJoin(gang.avoid_nodes, "\x01"), "\n",
      absl::StrJoin(gang.only_nodes, "\x01"), "\n", absl::StrJoin(job.rather_not, "\x01"), "\n",
      gang.allow_tp_across_domains, static_cast<int>(gang.max_level), ",", gang.nodes, ",",
      absl::ToUnixNanos(gang.needed_until), "\n");
  AppendLayout(gang.layout, key);
  for (const Layout& layout : job.other_layouts) AppendLayout(layout, key);
  return key;
}

std::string ClassKey(const WaitingJob& job, absl::string_view wish) {
  return absl::StrCat(job.account, "\n", job.priority, "\n", job.passes_others, job.shares, "\n",
                      wish);
}

std::optional<Placement> TrySoftly(const Topology& free, const WaitingJob& job,
                                   const GangRequest& gang, absl::Time now) {
  if (job.rather_not.empty() && !free.has_ends()) return TryPlace(free, gang);
  std::vector<absl::Time> stays = {gang.needed_until};
  if (free.has_ends()) {
    stays = {std::max(gang.needed_until, now + job.estimate),
             std::max(gang.needed_until, now + std::min(kLeastStay, job.estimate))};
  }
  GangRequest asked = gang;
  asked.avoid_nodes.insert(asked.avoid_nodes.end(), job.rather_not.begin(), job.rather_not.end());
  for (int round = job.rather_not.empty() ? 1 : 0; round < 2; ++round) {
    if (round == 1) asked.avoid_nodes = gang.avoid_nodes;
    for (const absl::Time until : stays) {
      asked.needed_until = until;
      std::optional<Placement> placement = TryPlace(free, asked);
      if (placement.has_value()) return placement;
    }
  }
  return std::nullopt;
}

class Pass {
 public:
  Pass(const WaitingQueue& queue, const PassInput& input)
      : queue_(queue),
        input_(input),
        quotas_(input.quotas),
        now_free_(*input.topology),
        growth_(input.topology->growth()) {}

  PassResult Run() {
    StartClaims();
    for (const auto& [key, of] : queue_.classes()) PushFrom(of, of.jobs.begin());
    if (asking()) {
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
  using JobIterator = std::map<int64_t, std::string>::const_iterator;
  struct Head {
    Standing standing;
    int64_t sequence;
    const WaitingQueue::Class* of;
    JobIterator job;
    // The queue's top is the greatest.
    bool operator<(const Head& other) const {
      if (other.standing < standing) return true;
      if (standing < other.standing) return false;
      return sequence > other.sequence;
    }
  };

  bool asking() const { return input_.what_if != nullptr; }
  bool AskedAbout(const std::string& id) const { return asking() && id == input_.what_if->id; }

  Head HeadOf(const WaitingQueue::Class& of, JobIterator job) {
    const double level = input_.shares == nullptr ? 0 : LevelOf(of.like.account);
    return {StandingOf(of.like, quotas_, level), job->first, &of, job};
  }

  // The same all through the pass, and asked for by every class.
  double LevelOf(const std::string& account) {
    const auto [level, fresh] = levels_.try_emplace(account, 0);
    if (fresh) level->second = input_.shares->Level(account, input_.now);
    return level->second;
  }

  // The class goes on with this job, or with the next that has not been decided already.
  void PushFrom(const WaitingQueue::Class& of, JobIterator job) {
    while (job != of.jobs.end() && (AskedAbout(job->second) || claimed_.contains(job->second))) {
      ++job;
    }
    if (job != of.jobs.end()) heads_.push(HeadOf(of, job));
  }

  // Jobs whose room has come free start there, before anyone else.
  void StartClaims() {
    for (const Reservation& claim : input_.claims) {
      if (AskedAbout(claim.id)) continue;
      now_free_.Take(claim.devices);
    }
    for (const Reservation& claim : input_.claims) {
      const WaitingQueue::Class* of = queue_.Find(claim.id);
      if (AskedAbout(claim.id) || of == nullptr) continue;
      Topology own = now_free_;
      for (Topology::Slot slot : own.Resolve(claim.devices)) {
        slot.bits &= input_.topology->Free(slot.group);
        own.Release(slot);
      }
      claimed_.insert(claim.id);
      std::optional<Seat> seat = FindSeat(own, of->like, input_.now);
      if (!seat.has_value() || !Admits(of->like, *seat)) continue;
      Start(claim.id, of->like, *std::move(seat), "in the room that was made for it");
    }
  }

  bool Admits(const WaitingJob& like, const Seat& seat) const {
    return quotas_.Admits(like.account, seat.layout.world());
  }

  void TryClass(const Head& head) {
    const WaitingJob& like = head.of->like;
    if (!like.passes_others && any_blocked_) return;
    if (!quotas_.Admits(like.account, LeastDevices(like))) return;
    std::optional<Seat> seat;
    absl::string_view how = result_.reservations.empty() ? "first in line" : "beside kept room";
    if (KnownNotToFit(head)) {
      ++result_.classes_skipped;
    } else {
      ++result_.classes_tried;
      seat = Seek(like, how);
      if (!seat.has_value()) NoteNoFit(head);
    }
    if (!seat.has_value()) return Block(head);
    if (!Admits(like, *seat)) return;
    Start(head.job->second, like, *std::move(seat), how);
    PushFrom(*head.of, std::next(head.job));
  }

  // In one pass room only goes, so that what has not fitted does not fit later. From pass to pass
  // it stays so until something has grown.
  bool KnownNotToFit(const Head& head) const {
    if (head.of == &asked_) return false;
    const WaitingQueue::Wish& wish = head.of->wish->second;
    return no_fit_.contains(&wish) || (!asking() && wish.no_fit_at == growth_);
  }
  void NoteNoFit(const Head& head) {
    if (head.of == &asked_) return;
    const WaitingQueue::Wish& wish = head.of->wish->second;
    no_fit_.insert(&wish);
    const bool whole = result_.reservations.empty() && input_.claims.empty();
    if (whole && !asking()) wish.no_fit_at = growth_;
  }

  static int LeastDevices(const WaitingJob& like) {
    int least = like.gang.layout.world();
    for (const Layout& layout : like.other_layouts) least = std::min(least, layout.world());
    return least;
  }

  void Start(const std::string& id, const WaitingJob& like, Seat seat, absl::string_view how) {
    now_free_.Take(seat.placement.ranks);
    if (outside_.has_value()) outside_->Take(seat.placement.ranks);
    quotas_.Charge(like.account, seat.layout.world());
    result_.starts.push_back({id, seat.layout, std::move(seat.placement), how});
    if (timeline_.has_value()) NoteEnd(result_.starts.back());
  }

  void Block(const Head& head) {
    any_blocked_ = true;
    if (head.of == &asked_) return;
    NoteAhead(*head.of);
    if (result_.blocked.size() < kMostBlocked) result_.blocked.push_back(head.job->second);
    Reserve(head);
  }

  // Jobs of the class that stand before the one asked about.
  void NoteAhead(const WaitingQueue::Class& of) {
    if (!asking()) return;
    int ahead = static_cast<int>(of.jobs.size());
    if (of.like.priority == asked_.like.priority && of.like.account == asked_.like.account) {
      ahead = static_cast<int>(
          std::distance(of.jobs.begin(), of.jobs.lower_bound(asked_.like.sequence)));
    }
    result_.jobs_ahead += ahead;
    result_.devices_ahead += ahead * of.like.gang.layout.world();
  }

  std::optional<Seat> Seek(const WaitingJob& like, absl::string_view& how) const {
    std::optional<Seat> seat =
        FindSeat(outside_.has_value() ? *outside_ : now_free_, like, input_.now);
    if (seat.has_value() || result_.reservations.empty()) return seat;
    const absl::Time end = input_.now + like.estimate;
    if (end == absl::InfiniteFuture() || end > last_needed_) return std::nullopt;
    how = "in kept room that it leaves in time";
    if (end <= first_needed_) return FindSeat(now_free_, like, input_.now);
    // Some of the kept room is needed only after it is done.
    Topology free = now_free_;
    for (const Reservation& kept : result_.reservations) {
      if (kept.start < end) free.Take(kept.devices);
    }
    return FindSeat(free, like, input_.now);
  }

  void Reserve(const Head& head) {
    if (static_cast<int>(result_.reservations.size()) >= input_.reservations) return;
    if (input_.keeps_room && !input_.keeps_room(head.job->second)) return;
    if (!timeline_.has_value()) {
      timeline_.emplace(now_free_, input_.Running());
      for (const PassStart& start : result_.starts) NoteEnd(start);
    }
    Reservation found;
    GangRequest gang = head.of->like.gang;
    if (now_free_.has_ends()) {
      gang.needed_until = std::max(gang.needed_until, input_.now + kLeastStay);
    }
    if (!timeline_->Find(now_free_, gang, result_.reservations, input_.now, found)) return;
    found.id = head.job->second;
    first_needed_ = std::min(first_needed_, found.start);
    last_needed_ = std::max(last_needed_, found.start);
    if (!outside_.has_value()) outside_ = now_free_;
    outside_->Take(found.devices);
    result_.reservations.push_back(std::move(found));
  }

  void NoteEnd(const PassStart& start) {
    timeline_->Add(now_free_, start.placement.ranks,
                   input_.now + queue_.Find(start.id)->like.estimate);
  }

  static constexpr size_t kMostBlocked = 32;

  const WaitingQueue& queue_;
  const PassInput& input_;
  Quotas quotas_;
  Topology now_free_;                // without what this pass has given away
  std::optional<Topology> outside_;  // and without kept room, once there is some
  const uint64_t growth_;
  std::priority_queue<Head> heads_;
  absl::flat_hash_map<absl::string_view, double> levels_;  // by account
  WaitingQueue::Class asked_;
  absl::btree_set<std::string> claimed_;                   // jobs that room was made for
  std::optional<Timeline> timeline_;                       // made when the first job is blocked
  absl::flat_hash_set<const WaitingQueue::Wish*> no_fit_;  // in this pass
  bool any_blocked_ = false;
  absl::Time first_needed_ = absl::InfiniteFuture();  // of kept room
  absl::Time last_needed_ = absl::InfinitePast();
  PassResult result_;
};

}  // namespace

Standing StandingOf(const WaitingJob& job, const Quotas& quotas, double level) {
  return {.borrows = quotas.Borrows(job.account, job.gang.layout.world()),
          .priority = job.priority,
          .level = job.shares ? level : 0};
}

std::optional<Seat> FindSeat(const Topology& free, const WaitingJob& job, absl::Time now) {
  std::optional<Placement> placement = TrySoftly(free, job, job.gang, now);
  if (placement.has_value()) return Seat{job.gang.layout, *std::move(placement)};
  for (const Layout& layout : job.other_layouts) {
    GangRequest other = job.gang;
    other.layout = layout;
    placement = TrySoftly(free, job, other, now);
    if (placement.has_value()) return Seat{layout, *std::move(placement)};
  }
  return std::nullopt;
}

WaitingQueue::WaitingQueue(const WaitingQueue& other)
    : wishes_(other.wishes_), classes_(other.classes_) {
  for (auto of = classes_.begin(); of != classes_.end(); ++of) {
    of->second.wish = wishes_.find(of->second.wish->first);
    for (const auto& [sequence, id] : of->second.jobs) where_[id] = {of, sequence};
  }
}

void WaitingQueue::Add(WaitingJob job) {
  GRAFT_CHECK(!where_.contains(job.id)) << job.id << " waits already";
  job.estimate = Coarse(job.estimate);
  const std::string wish = WishKey(job);
  const auto [it, added] = classes_.try_emplace(ClassKey(job, wish));
  it->second.jobs[job.sequence] = job.id;
  where_[job.id] = {it, job.sequence};
  if (!added) return;
  it->second.wish = wishes_.try_emplace(wish).first;
  ++it->second.wish->second.classes;
  it->second.like = std::move(job);
}

bool WaitingQueue::Remove(absl::string_view id) {
  const auto it = where_.find(id);
  if (it == where_.end()) return false;
  const auto [of, sequence] = it->second;
  of->second.jobs.erase(sequence);
  if (of->second.jobs.empty()) {
    if (--of->second.wish->second.classes == 0) wishes_.erase(of->second.wish);
    classes_.erase(of);
  }
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
