#include "worker/trainer/event_writer.h"

#include <poll.h>
#include <unistd.h>

#include <cerrno>

namespace graft::trainer {
namespace {

// The mean of two step events, weighted by the steps they stand for; counts and times add up.
StepEvent Merge(const StepEvent& a, const StepEvent& b) {
  StepEvent merged = b;
  const double wa = static_cast<double>(a.steps);
  const double wb = static_cast<double>(b.steps);
  merged.loss = (a.loss * wa + b.loss * wb) / (wa + wb);
  merged.grad_norm = (a.grad_norm * wa + b.grad_norm * wb) / (wa + wb);
  merged.tokens = a.tokens + b.tokens;
  merged.supervised_tokens = a.supervised_tokens + b.supervised_tokens;
  merged.seconds = a.seconds + b.seconds;
  merged.data_seconds = a.data_seconds + b.data_seconds;
  merged.forward_seconds = a.forward_seconds + b.forward_seconds;
  merged.backward_seconds = a.backward_seconds + b.backward_seconds;
  merged.optimizer_seconds = a.optimizer_seconds + b.optimizer_seconds;
  merged.communication_seconds = a.communication_seconds + b.communication_seconds;
  merged.idle_seconds = a.idle_seconds + b.idle_seconds;
  if (merged.seconds > 0) {
    merged.tokens_per_second = static_cast<double>(merged.tokens) / merged.seconds;
  }
  merged.skipped = a.skipped || b.skipped;
  merged.steps = a.steps + b.steps;
  return merged;
}

// Blocks until the line is written; false when the reader has gone.
bool WriteLine(int fd, absl::string_view line) {
  while (!line.empty()) {
    const ssize_t wrote = write(fd, line.data(), line.size());
    if (wrote > 0) {
      line.remove_prefix(static_cast<size_t>(wrote));
    } else if (wrote < 0 && errno == EAGAIN) {
      pollfd waited = {fd, POLLOUT, 0};
      poll(&waited, 1, 1000);
    } else if (wrote < 0 && errno != EINTR) {
      return false;
    }
  }
  return true;
}

}  // namespace

EventWriter::EventWriter(int fd, Clock& clock)
    : fd_(fd), clock_(clock), thread_([this] { Run(); }) {}

EventWriter::~EventWriter() { Close(); }

void EventWriter::Write(Event event) {
  const double now = absl::ToDoubleSeconds(clock_.WallNow() - absl::UnixEpoch());
  MutexLock lock(mu_);
  if (broken_) return;
  queue_.emplace_back(std::move(event), now);
  if (queue_.size() > kMaxQueuedSteps) MergeSteps();
  wake_.Signal();
}

void EventWriter::MergeSteps() {
  std::deque<std::pair<Event, double>> kept;
  for (auto& entry : queue_) {
    const auto* step = std::get_if<StepEvent>(&entry.first);
    auto* last = kept.empty() ? nullptr : std::get_if<StepEvent>(&kept.back().first);
    if (step != nullptr && last != nullptr) {
      kept.back() = {Merge(*last, *step), entry.second};
    } else {
      kept.push_back(std::move(entry));
    }
  }
  queue_ = std::move(kept);
}

void EventWriter::Run() {
  while (true) {
    std::pair<Event, double> entry;
    {
      MutexLock lock(mu_);
      while (queue_.empty() && !closing_) wake_.Wait(mu_);
      if (queue_.empty() || broken_) {
        finished_ = true;
        wake_.SignalAll();
        return;
      }
      entry = std::move(queue_.front());
      queue_.pop_front();
    }
    if (!WriteLine(fd_, FormatEvent(entry.first, entry.second) + "\n")) {
      MutexLock lock(mu_);
      broken_ = true;
      queue_.clear();
    }
  }
}

void EventWriter::Close(absl::Duration patience) {
  if (!thread_.joinable()) return;
  bool finished;
  {
    MutexLock lock(mu_);
    closing_ = true;
    wake_.SignalAll();
    const absl::Time deadline = clock_.Now() + patience;
    while (!finished_ && clock_.Now() < deadline) wake_.WaitFor(mu_, deadline - clock_.Now());
    finished = finished_;
  }
  if (finished) {
    thread_.join();
  } else {
    thread_.detach();  // it hangs in write(2); the process is about to end
  }
}

bool EventWriter::broken() {
  MutexLock lock(mu_);
  return broken_;
}

}  // namespace graft::trainer
