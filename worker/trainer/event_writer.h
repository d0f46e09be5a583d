// Sends events to whoever started the trainer, from a thread of its own: a pipe that nobody reads
// never holds up a step. Where the queue is full, step events that wait are merged into their mean;
// everything else is kept.
//
// Thread-safe. Close writes what is queued, for at most `patience`.
#pragma once

#include <deque>
#include <string>
#include <thread>

#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "worker/trainer/events.h"

namespace graft::trainer {

class EventWriter {
 public:
  // `fd` is not closed. `clock` must outlive this.
  EventWriter(int fd, Clock& clock);
  ~EventWriter();
  void Write(Event event);
  void Warn(std::string code, std::string message, int64_t step = 0) {
    Write(WarningEvent{std::move(code), std::move(message), step});
  }
  void Close(absl::Duration patience = absl::Seconds(5));
  // Whether the reader has gone: the pipe is closed.
  bool broken();

 private:
  static constexpr size_t kMaxQueuedSteps = 256;

  void Run();
  void MergeSteps() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const int fd_;
  Clock& clock_;
  Mutex mu_;
  CondVar wake_;
  std::deque<std::pair<Event, double>> queue_ GRAFT_GUARDED_BY(mu_);
  bool closing_ GRAFT_GUARDED_BY(mu_) = false;
  bool finished_ GRAFT_GUARDED_BY(mu_) = false;
  bool broken_ GRAFT_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace graft::trainer
