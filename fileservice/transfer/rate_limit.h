// Inside of transfer/: a token bucket. Thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/mutex.h"

namespace graft::fileservice {

class RateLimit {
 public:
  // 0: no limit.
  explicit RateLimit(int64_t bytes_per_second) : rate_(bytes_per_second), free_at_(absl::Now()) {}

  // Waits until `bytes` may pass. Callers are served in the order in which they come.
  void Take(int64_t bytes) {
    if (rate_ <= 0) return;
    absl::Time start;
    {
      MutexLock lock(mu_);
      // What was not used for a moment may be made up for, not more.
      start = std::max(free_at_, absl::Now() - kBurst);
      free_at_ =
          start + absl::Seconds(1) * (static_cast<double>(bytes) / static_cast<double>(rate_));
      start = free_at_;
    }
    absl::SleepFor(start - absl::Now());
  }

 private:
  static constexpr absl::Duration kBurst = absl::Milliseconds(20);
  const int64_t rate_;
  Mutex mu_;
  absl::Time free_at_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::fileservice
