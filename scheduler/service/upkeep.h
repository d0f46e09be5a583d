// What has to be done from time to time so that the store does not grow for ever: changes and
// events beyond the horizon, request ids that are forgotten, deleted jobs after their time; and
// watches are looked at although nothing was committed, so that their bookmarks come.
//
// Runs on a thread of Background's until that stops. Every step may be repeated or cut short.
#pragma once

#include <functional>

#include "absl/time/time.h"
#include "scheduler/service/mutate.h"

namespace graft::scheduler {

inline constexpr absl::Duration kWatchHorizon = absl::Hours(24);
inline constexpr absl::Duration kDeletedKept = absl::Hours(24 * 30);

class Upkeep {
 public:
  struct Options {
    absl::Duration every = absl::Minutes(10);
    absl::Duration bookmark_every = absl::Seconds(5);
    int64_t max_changes = 5'000'000;             // revisions that are kept however young they are
    std::function<void()> also = nullptr;        // runs with each round
    std::function<void()> also_often = nullptr;  // runs every `bookmark_every`
  };
  Upkeep(const ServiceContext& context, Options options)
      : context_(context), options_(std::move(options)) {}
  // Plans the first rounds.
  void Start();

  // One round, now: what the timer does.
  void Sweep();

 private:
  void PlanSweep();
  void PlanBookmarks();
  void CompactChanges();
  void ForgetRequests();
  void PurgeDeleted();

  const ServiceContext& context_;
  const Options options_;
};

}  // namespace graft::scheduler
