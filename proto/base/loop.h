// One thread that runs closures in the order in which they were posted, and timers.
//
// State that is owned by a loop needs no lock: whatever touches it is posted. The queue is bounded,
// so that overload is said to the caller instead of growing memory.
//
// Post, RunAt and Cancel may be called from any thread; Stop not from the loop itself.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <thread>
#include <utility>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"

namespace graft {

class Loop {
 public:
  using Task = std::function<void()>;
  using TimerId = uint64_t;

  struct Options {
    size_t max_queued = 65536;
  };

  // Starts the thread. `clock` must outlive the loop.
  explicit Loop(Clock& clock) : Loop(clock, Options()) {}
  Loop(Clock& clock, Options options);
  // Stops, see below.
  ~Loop();

  // Runs `task` after what is queued. RESOURCE_EXHAUSTED when the queue is full, UNAVAILABLE after
  // Stop; the task is then dropped.
  absl::Status Post(Task task);
  // Runs `task` at `when` (or at once if that has passed). Returns an id for Cancel.
  TimerId RunAt(absl::Time when, Task task);
  // Returns false when the timer has run, or is running.
  bool Cancel(TimerId id);
  // Runs what is queued, drops the timers, and joins the thread. May be called twice.
  void Stop();
  bool IsOnLoopThread() const { return std::this_thread::get_id() == thread_.get_id(); }
  // Set to be called on the loop's thread when the queue has run dry: work that many tasks share
  // (one sync for all that waited) is done there. Set before the first Post.
  void set_on_idle(Task on_idle) { on_idle_ = std::move(on_idle); }
  size_t queued();

 private:
  void Run();

  Clock& clock_;
  const Options options_;
  Task on_idle_;
  Mutex mu_;
  CondVar wake_;
  std::deque<Task> queue_ GRAFT_GUARDED_BY(mu_);
  std::map<std::pair<absl::Time, TimerId>, Task> timers_ GRAFT_GUARDED_BY(mu_);
  std::map<TimerId, absl::Time> timer_times_ GRAFT_GUARDED_BY(mu_);
  TimerId next_timer_ GRAFT_GUARDED_BY(mu_) = 1;
  bool stopping_ GRAFT_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace graft
