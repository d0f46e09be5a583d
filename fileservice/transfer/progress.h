// Inside of transfer/: counts what moves and tells the caller now and then. Thread-safe.
#pragma once

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "base/mutex.h"
#include "fileservice/transfer/client.h"

namespace graft::fileservice {

class ProgressMeter {
 public:
  ProgressMeter(ProgressCallback callback, absl::Duration interval)
      : callback_(std::move(callback)), interval_(interval), began_(absl::Now()), told_(began_) {}

  void Expect(int64_t files, int64_t bytes) {
    MutexLock lock(mu_);
    now_.total_files = files;
    now_.total_bytes = bytes;
  }
  // CANCELLED once the caller wants no more.
  absl::Status Add(int64_t moved, int64_t saved) {
    MutexLock lock(mu_);
    now_.moved_bytes += moved;
    now_.saved_bytes += saved;
    now_.done_bytes += moved + saved;
    return Tell(interval_);
  }
  absl::Status FileDone() {
    MutexLock lock(mu_);
    ++now_.done_files;
    return Tell(interval_);
  }
  // What was counted of an attempt that failed does not count.
  void Restart() {
    MutexLock lock(mu_);
    const Progress before = now_;
    now_ = Progress();
    now_.total_bytes = before.total_bytes;
    now_.total_files = before.total_files;
  }
  int64_t saved_bytes() {
    MutexLock lock(mu_);
    return now_.saved_bytes;
  }
  Progress Finish() {
    MutexLock lock(mu_);
    Tell(absl::ZeroDuration()).IgnoreError();
    return now_;
  }

 private:
  absl::Status Tell(absl::Duration interval) GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const absl::Time now = absl::Now();
    if (callback_ != nullptr && now - told_ >= interval) {
      told_ = now;
      const double seconds = std::max(absl::ToDoubleSeconds(now - began_), 1e-3);
      now_.bytes_per_second = static_cast<double>(now_.done_bytes) / seconds;
      const int64_t left = now_.total_bytes - now_.done_bytes;
      now_.eta = now_.bytes_per_second > 0
                     ? absl::Seconds(static_cast<double>(left) / now_.bytes_per_second)
                     : absl::InfiniteDuration();
      if (!callback_(now_)) cancelled_ = true;
    }
    return cancelled_ ? absl::CancelledError("the transfer was cancelled") : absl::OkStatus();
  }

  const ProgressCallback callback_;
  const absl::Duration interval_;
  const absl::Time began_;
  Mutex mu_;
  absl::Time told_ GRAFT_GUARDED_BY(mu_);
  Progress now_ GRAFT_GUARDED_BY(mu_);
  bool cancelled_ GRAFT_GUARDED_BY(mu_) = false;
};

}  // namespace graft::fileservice
