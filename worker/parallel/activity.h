// What one rank is doing, for whoever must say why the others wait: the step, the collective it is
// in, with whom, and a count of things done that stands still when it hangs. Also adds up the time
// that went into waiting.
//
// On a device waits are queued: the rank's thread goes on, and it is the device's stream that
// waits. Events on both sides of such a wait tell when the stream came to it and when it went on.
//
// Thread-safe: written by the rank's thread, read by its watchdog.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/Event.h>

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>

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
  // What the device's stream waits in counts where the thread itself does not wait.
  Snapshot Now() const;
  // Since the last call, of waits that are over.
  Seconds TakeSeconds() {
    MutexLock lock(mu_);
    Poll();
    const Seconds taken = seconds_;
    seconds_ = {};
    return taken;
  }
  // Returns when the device has left every wait that was queued. Throws what the device has met.
  void Settle() const;

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
  // The same where `body` queues a wait on the current stream of `device`.
  template <typename F>
  void WaitOn(at::Device device, const char* what, const std::string& with, WaitKind kind,
              const F& body) {
    if (device.is_cpu()) return Wait(what, with, kind, body);
    auto queued = std::make_shared<Queued>(device, what, with, kind);
    try {
      body();
    } catch (...) {
      Break();
      throw;
    }
    Queue(std::move(queued));
  }

 private:
  struct Queued {
    Queued(at::Device device, const char* what, const std::string& with, WaitKind kind);
    bool reached() const;
    at::Device device;
    std::string what, with;
    WaitKind kind;
    c10::Event begin, end;
  };
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
    Count(kind, seconds);
  }
  void Count(WaitKind kind, double seconds) const GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    ++now_.ticks;
    (kind == WaitKind::kPipeline ? seconds_.pipeline : seconds_.communication) += seconds;
    if (kind == WaitKind::kTensor) seconds_.tensor += seconds;
  }
  void Queue(std::shared_ptr<Queued> queued);
  // Counts the queued waits that are over.
  void Poll() const GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable Mutex mu_;
  mutable Snapshot now_ GRAFT_GUARDED_BY(mu_);
  mutable Seconds seconds_ GRAFT_GUARDED_BY(mu_);
  // shared: with whoever waits for one of them to be over.
  mutable std::deque<std::shared_ptr<Queued>> queued_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::parallel
