#include "worker/agent/inference_relay.h"

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"
#include "worker/agent/generate_lines.h"

namespace graft::agent {
namespace {

constexpr size_t kMaxUnsent = 1024;  // replies; a token each
constexpr absl::Duration kFirstPause = absl::Milliseconds(100);
constexpr absl::Duration kLongestPause = absl::Seconds(2);

}  // namespace

InferenceRelay::InferenceRelay(SchedulerLink& scheduler, v1::ServeInferenceRequest hello,
                               std::function<absl::Status(const std::string&)> to_trainer)
    : scheduler_(scheduler), hello_(std::move(hello)), to_trainer_(std::move(to_trainer)) {
  thread_ = std::thread([this] { Run(); });
}

InferenceRelay::~InferenceRelay() {
  Stop();
  thread_.join();
}

void InferenceRelay::Stop() {
  MutexLock lock(mu_);
  stopping_ = true;
  if (open_ != nullptr) open_->Cancel();
  changed_.SignalAll();
}

void InferenceRelay::Run() {
  absl::Duration pause = kFirstPause;
  for (;;) {
    const absl::Time begun = absl::Now();
    Serve();
    // A stream that has held was no failure to dial.
    pause = absl::Now() - begun > kLongestPause ? kFirstPause : std::min(pause * 2, kLongestPause);
    MutexLock lock(mu_);
    if (!stopping_) changed_.WaitFor(mu_, pause);
    if (stopping_) return;
  }
}

void InferenceRelay::Serve() {
  {
    MutexLock lock(mu_);
    broken_ = false;
  }
  const std::unique_ptr<InferenceStream> stream = scheduler_.OpenInference(
      [this](const v1::ServeInferenceResponse& command) { OnCommand(command); },
      [this](const absl::Status& status) {
        LOG_INFO("a session's stream has ended",
                 {{"session", hello_.session()}, {"reason", status.message()}});
        MutexLock lock(mu_);
        broken_ = true;
        changed_.SignalAll();
      });
  std::set<std::string> abandoned;
  {
    MutexLock lock(mu_);
    open_ = stream.get();
    if (stopping_) stream->Cancel();
  }
  for (bool alive = stream->Write(hello_); alive;) {
    v1::ServeInferenceRequest next;
    {
      MutexLock lock(mu_);
      while (unsent_.empty() && !broken_ && !stopping_) changed_.Wait(mu_);
      if (broken_ || stopping_) break;
      next = std::move(unsent_.front());
      unsent_.pop_front();
      changed_.SignalAll();
    }
    alive = stream->Write(next);
  }
  {
    MutexLock lock(mu_);
    open_ = nullptr;
    broken_ = true;
    abandoned.swap(questions_);
    unsent_.clear();
    changed_.SignalAll();
  }
  stream->Cancel();
  for (const std::string& id : abandoned) {
    v1::ServeInferenceResponse cancel;
    cancel.set_request_id(id);
    cancel.set_cancel(true);
    ToTrainer(cancel);
  }
}

void InferenceRelay::OnCommand(const v1::ServeInferenceResponse& command) {
  {
    MutexLock lock(mu_);
    if (broken_) return;
    if (!command.cancel()) questions_.insert(command.request_id());
  }
  ToTrainer(command);
}

void InferenceRelay::ToTrainer(const v1::ServeInferenceResponse& command) {
  const absl::StatusOr<trainer::GenerateInput> input = ToGenerateInput(command);
  absl::Status status = input.status();
  if (status.ok()) status = to_trainer_(trainer::FormatGenerateInput(*input));
  if (status.ok() || command.cancel()) return;
  v1::ServeInferenceRequest failed;
  failed.set_request_id(command.request_id());
  failed.mutable_failure()->set_reason(absl::IsInvalidArgument(status)
                                           ? graft::v1::REASON_FIELD_INVALID
                                           : graft::v1::REASON_RANK_FAILED);
  failed.mutable_failure()->set_message(std::string(status.message()));
  Reply(std::move(failed));
}

void InferenceRelay::Reply(v1::ServeInferenceRequest reply) {
  MutexLock lock(mu_);
  while (unsent_.size() >= kMaxUnsent && !broken_ && !stopping_) changed_.Wait(mu_);
  if (broken_ || stopping_ || !questions_.contains(reply.request_id())) return;
  if (reply.has_end() || reply.has_failure()) questions_.erase(reply.request_id());
  unsent_.push_back(std::move(reply));
  changed_.SignalAll();
}

}  // namespace graft::agent
