// The time, as a capability that is handed in: nothing below main.cc reads a clock of its own.
#pragma once

#include "absl/time/time.h"
#include "base/mutex.h"

namespace graft {

// Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // The time that decides (leases, deadlines, backfill). It never goes back and does not follow
  // changes of the wall clock; it goes on while the machine sleeps.
  virtual absl::Time Now() = 0;
  // The time that stamps records and log lines, and decides nothing.
  virtual absl::Time WallNow() = 0;
};

// CLOCK_BOOTTIME, anchored once to the wall clock at construction.
class RealClock final : public Clock {
 public:
  RealClock();
  absl::Time Now() override;
  absl::Time WallNow() override;

 private:
  absl::Duration offset_;  // constant after construction
};

// Stands still until told otherwise.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(absl::Time now = absl::FromUnixSeconds(1'700'000'000)) : now_(now) {}
  absl::Time Now() override;
  absl::Time WallNow() override;
  void Advance(absl::Duration by);

 private:
  Mutex mu_;
  absl::Time now_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft
