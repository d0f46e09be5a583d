// What one rank is doing, for whoever must say why the others wait: the step, the collective it is
// in, with whom, and a count of things done that stands still when it hangs. Also adds up the time
// that went into waiting.
//
// Thread-safe: written by the rank's thread, read by its watchdog.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "base/mutex.h"
#include "worker/parallel/topology.h"

namespace graft::parallel {

// What the time of a wait counts as.
enum class WaitKind { kCommunication, kTensor, kExperts, kPipeline };

class Activity {
 public:
  struct Snapshot {
    bool training = false;  // between the first step and the end: progress is expected
    int64_t step = 0;
    int64_t ticks = 0;
    bool waiting = false;
    std::string what;  // the collective, while waiting
    std::string with;  // its ranks
    // Set when a collective failed, which is others' doing: the one that was lost or failed.
    bool broken = false;
  };
  struct Seconds {
    double communication = 0;  // all but `pipeline`
    double tensor = 0;         // of it: inside of passes, for tensor parallelism
    double pipeline = 0;       // waits for a stage's neighbour
  };

  void SetStep(int64_t step) {
    MutexLock lock(mu_);
    now_.training = true;
    now_.step = step;
    ++now_.ticks;
  }
  void EndTraining() {
    MutexLock lock(mu_);
    now_.training = false;
  }
  void Tick() {
    MutexLock lock(mu_);
    ++now_.ticks;
  }
  Snapshot Now() const {
    MutexLock lock(mu_);
    return now_;
  }
  // Since the last call.
  Seconds TakeSeconds() {
    MutexLock lock(mu_);
    const Seconds taken = seconds_;
    seconds_ = {};
    return taken;
  }

  // Runs `body` as a wait in the collective `what` over `with`.
  template <typename F>
  void Wait(const char* what, const std::string& with, WaitKind kind, const F& body) {
    const auto start = std::chrono::steady_clock::now();
    Begin(what, with);
    try {
      body();
    } catch (...) {
      Break();
      throw;
    }
    End(kind, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }

 private:
  void Begin(const char* what, const std::string& with) {
    MutexLock lock(mu_);
    now_.waiting = true;
    now_.what = what;
    now_.with = with;
  }
  void Break() {
    MutexLock lock(mu_);
    now_.broken = true;
  }
  void End(WaitKind kind, double seconds) {
    MutexLock lock(mu_);
    now_.waiting = false;
    ++now_.ticks;
    (kind == WaitKind::kPipeline ? seconds_.pipeline : seconds_.communication) += seconds;
    if (kind == WaitKind::kTensor) seconds_.tensor += seconds;
  }

  mutable Mutex mu_;
  Snapshot now_ GRAFT_GUARDED_BY(mu_);
  Seconds seconds_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::parallel
