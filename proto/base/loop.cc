#include "base/loop.h"

#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/check.h"

namespace graft {

Loop::Loop(Clock& clock, Options options) : clock_(clock), options_(options) {
  thread_ = std::thread([this] { Run(); });
}

Loop::~Loop() { Stop(); }

absl::Status Loop::Post(Task task) {
  MutexLock lock(mu_);
  if (stopping_) return absl::UnavailableError("the server is shutting down");
  if (queue_.size() >= options_.max_queued) {
    return absl::ResourceExhaustedError("too many requests are queued; try again later");
  }
  queue_.push_back(std::move(task));
  if (queue_.size() == 1) wake_.Signal();
  return absl::OkStatus();
}

Loop::TimerId Loop::RunAt(absl::Time when, Task task) {
  MutexLock lock(mu_);
  const TimerId id = next_timer_++;
  timers_.emplace(std::make_pair(when, id), std::move(task));
  timer_times_.emplace(id, when);
  wake_.Signal();
  return id;
}

bool Loop::Cancel(TimerId id) {
  MutexLock lock(mu_);
  const auto it = timer_times_.find(id);
  if (it == timer_times_.end()) return false;
  timers_.erase({it->second, id});
  timer_times_.erase(it);
  return true;
}

size_t Loop::queued() {
  MutexLock lock(mu_);
  return queue_.size();
}

void Loop::Stop() {
  {
    MutexLock lock(mu_);
    stopping_ = true;
    wake_.Signal();
  }
  if (!thread_.joinable()) return;
  GRAFT_CHECK(!IsOnLoopThread());
  thread_.join();
}

void Loop::Run() {
  std::deque<Task> batch;
  for (;;) {
    {
      MutexLock lock(mu_);
      for (;;) {
        const absl::Time now = clock_.Now();
        while (!timers_.empty() && timers_.begin()->first.first <= now) {
          auto timer = timers_.begin();
          queue_.push_back(std::move(timer->second));
          timer_times_.erase(timer->first.second);
          timers_.erase(timer);
        }
        if (!queue_.empty()) break;
        if (stopping_) return;
        if (timers_.empty()) {
          wake_.Wait(mu_);
        } else {
          wake_.WaitFor(mu_, timers_.begin()->first.first - now);
        }
      }
      batch.swap(queue_);
    }
    for (Task& task : batch) task();
    batch.clear();
    if (on_idle_) on_idle_();
  }
}

}  // namespace graft
