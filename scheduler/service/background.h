// A few threads for calls that block (the fileservice's). Work is spread over them in turn.
//
// Thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/loop.h"

namespace graft::scheduler {

class Background {
 public:
  Background(Clock& clock, int threads) {
    for (int i = 0; i < threads; ++i) loops_.push_back(std::make_unique<Loop>(clock));
  }
  // RESOURCE_EXHAUSTED when too much waits, UNAVAILABLE after Stop.
  absl::Status Post(std::function<void()> work) {
    return loops_[next_.fetch_add(1) % loops_.size()]->Post(std::move(work));
  }
  // Runs `work` later, unless stopped before.
  void PostAt(absl::Time when, std::function<void()> work) {
    loops_[0]->RunAt(when, std::move(work));
  }
  void Stop() {
    for (auto& loop : loops_) loop->Stop();
  }

 private:
  std::vector<std::unique_ptr<Loop>> loops_;
  std::atomic<size_t> next_{0};
};

}  // namespace graft::scheduler
