// Threads that wait for the disk, so that a reader works on what came while the next bytes come,
// and no thread of the network waits. They start with the first read.
//
// Thread-safe.
#pragma once

#include <deque>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

#include "base/mutex.h"

namespace graft::fileservice {

class ReadPool {
 public:
  // Reads that run at a time: more than there are processors, for most of them wait.
  static constexpr size_t kThreads = 8;

  ReadPool() = default;
  // Runs what was posted, and returns when that is done.
  ~ReadPool() {
    std::vector<std::thread> threads;
    {
      MutexLock lock(mu_);
      stopping_ = true;
      threads.swap(threads_);
      work_.SignalAll();
    }
    for (std::thread& thread : threads) thread.join();
  }
  ReadPool(const ReadPool&) = delete;
  ReadPool& operator=(const ReadPool&) = delete;

  // Runs `read` on one of the threads. It must not wait for another that was posted.
  void Post(std::function<void()> read) {
    MutexLock lock(mu_);
    posted_.push_back(std::move(read));
    if (posted_.size() > idle_ && threads_.size() < kThreads) {
      threads_.emplace_back([this] { Run(); });
    }
    work_.Signal();
  }

 private:
  void Run() {
    while (true) {
      std::function<void()> read;
      {
        MutexLock lock(mu_);
        ++idle_;
        while (posted_.empty() && !stopping_) work_.Wait(mu_);
        --idle_;
        if (posted_.empty()) return;
        read = std::move(posted_.front());
        posted_.pop_front();
      }
      read();
    }
  }

  Mutex mu_;
  CondVar work_;
  std::deque<std::function<void()>> posted_ GRAFT_GUARDED_BY(mu_);
  std::vector<std::thread> threads_ GRAFT_GUARDED_BY(mu_);
  size_t idle_ GRAFT_GUARDED_BY(mu_) = 0;
  bool stopping_ GRAFT_GUARDED_BY(mu_) = false;
};

}  // namespace graft::fileservice
