// Locks and waits. absl's are not used because TSan does not see Debian's build of them: each use
// is reported as a race. These are std's with clang's thread annotations.
//
//   Mutex mu_;
//   int value_ GRAFT_GUARDED_BY(mu_);
//   { MutexLock lock(mu_); value_ = 3; }
#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

#define GRAFT_GUARDED_BY(x) ABSL_GUARDED_BY(x)
#define GRAFT_EXCLUSIVE_LOCKS_REQUIRED(...) ABSL_EXCLUSIVE_LOCKS_REQUIRED(__VA_ARGS__)
#define GRAFT_LOCKS_EXCLUDED(...) ABSL_LOCKS_EXCLUDED(__VA_ARGS__)

namespace graft {

class ABSL_LOCKABLE Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;

  void Lock() ABSL_EXCLUSIVE_LOCK_FUNCTION() { mu_.lock(); }
  void Unlock() ABSL_UNLOCK_FUNCTION() { mu_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mu_;
};

class ABSL_SCOPED_LOCKABLE MutexLock {
 public:
  explicit MutexLock(Mutex& mu) ABSL_EXCLUSIVE_LOCK_FUNCTION(mu) : mu_(mu) { mu_.Lock(); }
  ~MutexLock() ABSL_UNLOCK_FUNCTION() { mu_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mu_;
};

class CondVar {
 public:
  // Waits until signalled; like every condition variable it may wake without cause.
  void Wait(Mutex& mu) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    std::unique_lock<std::mutex> lock(mu.mu_, std::adopt_lock);
    cv_.wait(lock);
    lock.release();
  }
  // The same for at most `timeout`. Returns false when that has passed.
  bool WaitFor(Mutex& mu, absl::Duration timeout) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu) {
    std::unique_lock<std::mutex> lock(mu.mu_, std::adopt_lock);
    // Longer waits would overflow the clock's representation inside wait_for.
    const absl::Duration bounded = std::min(timeout, absl::Hours(24 * 365));
    const bool signalled =
        cv_.wait_for(lock, absl::ToChronoNanoseconds(bounded)) == std::cv_status::no_timeout;
    lock.release();
    return signalled;
  }
  void Signal() { cv_.notify_one(); }
  void SignalAll() { cv_.notify_all(); }

 private:
  std::condition_variable cv_;
};

// Set once, waited for by any number of threads.
class Notification {
 public:
  void Notify() {
    MutexLock lock(mu_);
    done_ = true;
    cv_.SignalAll();
  }
  bool HasBeenNotified() {
    MutexLock lock(mu_);
    return done_;
  }
  void Wait() {
    MutexLock lock(mu_);
    while (!done_) cv_.Wait(mu_);
  }
  // Returns whether it was notified within `timeout`.
  bool WaitFor(absl::Duration timeout) {
    const absl::Time deadline = absl::Now() + timeout;
    MutexLock lock(mu_);
    while (!done_) {
      const absl::Duration left = deadline - absl::Now();
      if (left <= absl::ZeroDuration()) return false;
      cv_.WaitFor(mu_, left);
    }
    return true;
  }

 private:
  Mutex mu_;
  CondVar cv_;
  bool done_ GRAFT_GUARDED_BY(mu_) = false;
};

}  // namespace graft
