// Which waiting jobs start now. Jobs that want the same are one class and are tried once, so that a
// pass costs what its classes and its starts cost, and not what the queue is long.
//
//   WaitingQueue queue;
//   queue.Add({.id = "w/j1", .account = "w", .sequence = 1, .gang = request});
//   PassResult result = RunPass(queue, input);
//   for (const PassStart& start : result.starts) ...   // Take, then queue.Remove(start.id)
//
// Order: those that do not borrow, then priority, then the account that has had least of its fair
// share, then age. The first jobs that do not fit keep the room in which they will start once
// running jobs have come to their estimated ends; others go ahead of them only outside of that
// room, or when they are over before it is needed. Owned by the scheduler's loop; reads no clock.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "scheduler/placement/fair_share.h"
#include "scheduler/placement/placement.h"
#include "scheduler/placement/quotas.h"
#include "scheduler/placement/timeline.h"

namespace graft::scheduler {

struct WaitingJob {
  std::string id;
  std::string account;   // of quotas and shares
  int priority = 0;      // effective; greater goes first
  int64_t sequence = 0;  // of submission; distinct
  GangRequest gang;
  // Layouts that it may take where that of `gang` does not fit now, best first.
  std::vector<Layout> other_layouts;
  // Nodes that it goes to only when no others do.
  std::vector<std::string> rather_not;
  // How long it will run; infinite where nothing is known.
  absl::Duration estimate = absl::InfiniteDuration();
  bool passes_others = true;  // may start while a job before it is blocked
  bool shares = true;         // else age alone decides inside its priority
};

// Where a waiting job stands: the smaller goes first, and among equals the older.
struct Standing {
  bool borrows = false;
  int priority = 0;
  double level = 0;  // of the account's share

  friend bool operator<(const Standing& a, const Standing& b) {
    if (a.borrows != b.borrows) return b.borrows;
    if (a.priority != b.priority) return a.priority > b.priority;
    return a.level < b.level;
  }
};

// `level` is the account's; it counts where the job takes part in sharing.
Standing StandingOf(const WaitingJob& job, const Quotas& quotas, double level);

class WaitingQueue {
 public:
  // What a search for room depends on. Classes of several accounts and priorities share one.
  struct Wish {
    int classes = 0;
    // The cluster's growth at which it was last seen not to fit; 0: never.
    mutable uint64_t no_fit_at = 0;
  };
  using Wishes = std::map<std::string, Wish>;
  struct Class {
    WaitingJob like;                      // id and sequence mean nothing
    std::map<int64_t, std::string> jobs;  // by sequence; never empty
    Wishes::iterator wish;
  };

  WaitingQueue() = default;
  WaitingQueue(const WaitingQueue& other);
  WaitingQueue& operator=(const WaitingQueue&) = delete;

  // The id must not be there yet.
  void Add(WaitingJob job);
  // False when it is not there.
  bool Remove(absl::string_view id);
  size_t size() const { return where_.size(); }
  const std::map<std::string, Class>& classes() const { return classes_; }
  const Class* Find(absl::string_view id) const;
  int64_t SequenceOf(absl::string_view id) const { return where_.at(id).second; }

 private:
  Wishes wishes_;                         // by all that Wish is about
  std::map<std::string, Class> classes_;  // by what jobs of the class have in common
  // id -> class and sequence
  absl::flat_hash_map<std::string, std::pair<std::map<std::string, Class>::iterator, int64_t>>
      where_;
};

struct PassInput {
  std::vector<RunningGang> Running() const {
    return running ? running() : std::vector<RunningGang>();
  }

  const Topology* topology = nullptr;
  // Asked for when the first job is blocked. May be empty: nothing runs.
  std::function<std::vector<RunningGang>()> running;
  // Room that was made for waiting jobs by stopping others, and is for nobody else.
  std::vector<Reservation> claims;
  Quotas quotas;
  const FairShare* shares = nullptr;  // nullptr: age alone decides inside a priority
  absl::Time now;
  int reservations = 32;
  // Whether room is kept for this job when it is blocked. Empty: for everyone.
  std::function<bool(const std::string& id)> keeps_room;
  // A question: what if the waiting job of this id were so? The pass ends when it has been decided,
  // and leaves no mark on the queue.
  const WaitingJob* what_if = nullptr;
};

struct PassStart {
  std::string id;
  Layout layout;
  Placement placement;
  // Why it may: "first in line", "beside kept room", "in kept room that it leaves in time", "in the
  // room that was made for it".
  absl::string_view how;
};

struct PassResult {
  std::vector<PassStart> starts;
  std::vector<Reservation> reservations;  // in the order of the queue
  std::vector<std::string> blocked;       // the first jobs that do not fit, in that order
  int classes_tried = 0;
  int jobs_ahead = 0;  // of the one that was asked about: those that were tried and did not start
  int devices_ahead = 0;
  int classes_skipped = 0;  // not searched for: the same wish did not fit, and nothing has grown
};

PassResult RunPass(const WaitingQueue& queue, const PassInput& input);

// A job whose end is not known, or is after all ends of nodes, needs a node for so long at least:
// it will take a checkpoint before the node leaves and go on elsewhere.
inline constexpr absl::Duration kLeastStay = absl::Minutes(15);

// Where the job would start in `free`, and in which of its layouts: away from nodes that it would
// rather not have and on nodes that stay until it is done, if there are such.
struct Seat {
  Layout layout;
  Placement placement;
};
std::optional<Seat> FindSeat(const Topology& free, const WaitingJob& job, absl::Time now);

}  // namespace graft::scheduler
