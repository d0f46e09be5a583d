// How many bytes of transfers the server holds in memory, over all clients together. Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <utility>

#include "base/mutex.h"

namespace graft::fileservice {

class ByteBudget {
 public:
  explicit ByteBudget(int64_t limit) : limit_(limit) {}

  // Takes `bytes` and returns true; or returns false and calls `ready` once they have been taken,
  // in turn. A request above the limit is served when nothing else is held.
  bool Acquire(int64_t bytes, std::function<void()> ready) {
    MutexLock lock(mu_);
    if (waiting_.empty() && Fits(bytes)) {
      held_ += bytes;
      return true;
    }
    waiting_.emplace_back(bytes, std::move(ready));
    return false;
  }

  void Release(int64_t bytes) {
    std::deque<std::function<void()>> ready;
    {
      MutexLock lock(mu_);
      held_ -= bytes;
      while (!waiting_.empty() && Fits(waiting_.front().first)) {
        held_ += waiting_.front().first;
        ready.push_back(std::move(waiting_.front().second));
        waiting_.pop_front();
      }
    }
    for (const auto& call : ready) call();
  }

  int64_t held() {
    MutexLock lock(mu_);
    return held_;
  }

 private:
  bool Fits(int64_t bytes) const GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return held_ == 0 || held_ + bytes <= limit_;
  }

  const int64_t limit_;
  Mutex mu_;
  int64_t held_ GRAFT_GUARDED_BY(mu_) = 0;
  std::deque<std::pair<int64_t, std::function<void()>>> waiting_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::fileservice
