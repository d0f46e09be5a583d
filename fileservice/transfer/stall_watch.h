// Ends transfers on which no byte moves. One thread looks at all of them every second.
//
// Watch() keeps a weak reference; OnStall runs on the watch's thread, at most once for a stream.
#pragma once

#include <atomic>
#include <list>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"

namespace graft::fileservice {

class Watched {
 public:
  virtual ~Watched() = default;
  virtual void OnStall() = 0;
  void Touch(Clock& clock) {
    last_ms_.store(absl::ToUnixMillis(clock.Now()), std::memory_order_relaxed);
  }
  int64_t last_ms() const { return last_ms_.load(std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> last_ms_{0};
};

class StallWatch {
 public:
  StallWatch(Clock& clock, absl::Duration timeout)
      : clock_(clock), timeout_(timeout), thread_([this] { Run(); }) {}
  ~StallWatch() {
    {
      MutexLock lock(mu_);
      stopping_ = true;
      wake_.SignalAll();
    }
    thread_.join();
  }

  absl::Duration timeout() const { return timeout_; }

  void Watch(const std::shared_ptr<Watched>& stream) {
    stream->Touch(clock_);
    MutexLock lock(mu_);
    streams_.push_back(stream);
  }

 private:
  void Run() {
    while (true) {
      std::vector<std::shared_ptr<Watched>> stalled;
      {
        MutexLock lock(mu_);
        if (stopping_) return;
        wake_.WaitFor(mu_, absl::Seconds(1));
        if (stopping_) return;
        const int64_t oldest = absl::ToUnixMillis(clock_.Now() - timeout_);
        for (auto at = streams_.begin(); at != streams_.end();) {
          std::shared_ptr<Watched> stream = at->lock();
          if (stream != nullptr && stream->last_ms() > oldest) {
            ++at;
            continue;
          }
          if (stream != nullptr) stalled.push_back(std::move(stream));
          at = streams_.erase(at);
        }
      }
      for (const std::shared_ptr<Watched>& stream : stalled) stream->OnStall();
    }
  }

  Clock& clock_;
  const absl::Duration timeout_;
  Mutex mu_;
  CondVar wake_;
  bool stopping_ GRAFT_GUARDED_BY(mu_) = false;
  std::list<std::weak_ptr<Watched>> streams_ GRAFT_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace graft::fileservice
