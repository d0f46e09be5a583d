// Calls that wait for something other than the server's own work (hanging gets, watches, streams of
// workers): they end when the server does, because a client that is told so calls the next server
// at once, and one that waits for the end of a grace period does not. Thread-safe; nothing is
// called under its lock.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <utility>

#include "base/mutex.h"

namespace graft::rpc {

class HeldCalls {
 public:
  // Keeps `end` for EndAll until it is released by the id returned; calls it at once, and returns
  // 0, after EndAll. It may run beside or after its Release, and must know by itself whom it finds.
  uint64_t Hold(std::function<void()> end) {
    {
      MutexLock lock(mu_);
      if (!ended_) {
        ends_[++last_] = std::move(end);
        return last_;
      }
    }
    end();
    return 0;
  }
  void Release(uint64_t id) {
    std::function<void()> end;  // what it holds is destroyed without the lock
    MutexLock lock(mu_);
    const auto it = ends_.find(id);
    if (it == ends_.end()) return;
    end.swap(it->second);
    ends_.erase(it);
  }
  void EndAll() {
    std::map<uint64_t, std::function<void()>> ends;
    {
      MutexLock lock(mu_);
      ended_ = true;
      ends.swap(ends_);
    }
    for (auto& [id, end] : ends) end();
  }

 private:
  Mutex mu_;
  bool ended_ GRAFT_GUARDED_BY(mu_) = false;
  uint64_t last_ GRAFT_GUARDED_BY(mu_) = 0;
  std::map<uint64_t, std::function<void()>> ends_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::rpc
