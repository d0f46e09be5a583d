// Calls back those who wait for something in the store, after each commit. Callbacks run on a
// thread of Background's, one at a time for each watcher, and may read the store; commits that come
// while one runs are seen by it once more.
//
// Thread-safe.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "absl/time/time.h"
#include "base/mutex.h"
#include "scheduler/service/background.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

// How often a watch that has no news says how far it has read.
inline constexpr absl::Duration kBookmark = absl::Seconds(30);

class Watchers {
 public:
  // Returns true when it has seen what it waited for; it is then called no more.
  using Watcher = std::function<bool()>;

  Watchers(Background& background, const Store& store) : background_(background), store_(store) {}

  // Calls `watcher` soon, and again after each commit.
  void Add(Watcher watcher) {
    {
      MutexLock lock(mu_);
      watchers_[next_++] = std::make_shared<Watcher>(std::move(watcher));
    }
    OnCommitted();
  }

  void OnCommitted() {
    if (pending_.exchange(true)) return;
    if (!background_.Post([this] { RunAll(); }).ok()) pending_ = false;
  }

  // Commits that have not been looked at yet; 0 where nobody watches.
  int64_t lag() {
    {
      MutexLock lock(mu_);
      if (watchers_.empty()) return 0;
    }
    return std::max<int64_t>(store_.revision() - seen_, 0);
  }

 private:
  void RunAll() {
    MutexLock one_at_a_time(run_mu_);
    pending_ = false;
    const int64_t revision = store_.revision();
    // Shared with the map, out of which a watcher may go meanwhile.
    std::vector<std::pair<uint64_t, std::shared_ptr<Watcher>>> now;
    {
      MutexLock lock(mu_);
      now.assign(watchers_.begin(), watchers_.end());
    }
    for (auto& [id, watcher] : now) {
      if (!(*watcher)()) continue;
      MutexLock lock(mu_);
      watchers_.erase(id);
    }
    seen_ = revision;
  }

  Background& background_;
  const Store& store_;
  std::atomic<int64_t> seen_{0};
  std::atomic<bool> pending_{false};
  Mutex run_mu_;
  Mutex mu_;
  uint64_t next_ GRAFT_GUARDED_BY(mu_) = 1;
  std::map<uint64_t, std::shared_ptr<Watcher>> watchers_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::scheduler
