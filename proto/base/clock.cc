#include "base/clock.h"

#include <time.h>

#include "absl/time/clock.h"
#include "base/check.h"

namespace graft {
namespace {

absl::Duration SinceBoot() {
  timespec ts;
  GRAFT_CHECK(clock_gettime(CLOCK_BOOTTIME, &ts) == 0);
  return absl::DurationFromTimespec(ts);
}

}  // namespace

RealClock::RealClock() : offset_(absl::Now() - absl::UnixEpoch() - SinceBoot()) {}

absl::Time RealClock::Now() { return absl::UnixEpoch() + offset_ + SinceBoot(); }

absl::Time RealClock::WallNow() { return absl::Now(); }

absl::Time FakeClock::Now() {
  MutexLock lock(mu_);
  return now_;
}

absl::Time FakeClock::WallNow() { return Now(); }

void FakeClock::Advance(absl::Duration by) {
  GRAFT_CHECK(by >= absl::ZeroDuration());
  MutexLock lock(mu_);
  now_ += by;
}

}  // namespace graft
