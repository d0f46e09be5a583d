// What the fileservice is asked to publish of a job (checkpoints, its result, its report), and what
// its answers mean.
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "scheduler/core/core.h"
#include "scheduler/core/planted.h"

namespace graft::scheduler {
namespace {

bool MayHelpToRetry(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
         absl::IsResourceExhausted(status) || absl::IsAborted(status);
}

}  // namespace

void Core::Publish(Job& job, const std::string& session, bool result, int64_t step) {
  effects_.jobs.insert(job.request.key);
  PublishCall call{.id = next_call_++,
                   .job = job.request.key,
                   .attempt = job.attempt.number,
                   .session = session,
                   .result = result,
                   .step = step,
                   .deadline = now_ + options_.call_deadline};
  calls_[call.id] = call;
  call_alarms_.insert({call.deadline, call.id});
  effects_.calls.push_back(std::move(call));
}

// Beside everything else: a job is what it is with or without its report.
void Core::PublishReport(Job& job) {
  effects_.jobs.insert(job.request.key);
  PublishCall call{.id = next_call_++,
                   .job = job.request.key,
                   .attempt = job.attempt.number,
                   .session = job.report_session,
                   .report = true,
                   .deadline = now_ + options_.call_deadline};
  calls_[call.id] = call;
  call_alarms_.insert({call.deadline, call.id});
  effects_.calls.push_back(std::move(call));
}

void Core::ReportAnswered(const PublishCall& call, const CallAnswered& event) {
  const auto job = jobs_.find(call.job);
  if (job == jobs_.end() || !event.status.ok()) return;
  job->second.report_version = event.version;
  effects_.jobs.insert(call.job);
}

absl::Status Core::Apply(const CallAnswered& event) {
  const auto it = calls_.find(event.id);
  if (it == calls_.end()) return absl::OkStatus();  // answered twice, or too late
  const PublishCall call = it->second;
  const auto found = jobs_.find(call.job);
  const bool wanted =
      found != jobs_.end() &&
      (call.report || (found->second.attempt.number == call.attempt &&
                       found->second.state != JobState::kCancelling &&
                       (call.result || found->second.publishing.session == call.session)));
  if (wanted && MayHelpToRetry(event.status)) {
    if (call.deadline == absl::InfiniteFuture()) return absl::OkStatus();  // it will be
    call_alarms_.erase({call.deadline, call.id});
    it->second.deadline = absl::InfiniteFuture();
    call_alarms_.insert({now_ + options_.first_backoff, call.id});
    return absl::OkStatus();
  }
  calls_.erase(it);
  if (call.report) {
    ReportAnswered(call, event);
    return absl::OkStatus();
  }
  if (!wanted && !GRAFT_PLANTED(12)) return absl::OkStatus();
  if (found == jobs_.end()) return absl::OkStatus();  // 12
  Job& job = found->second;
  effects_.jobs.insert(call.job);
  if (call.result) {
    if (event.status.ok()) {
      job.result_version = event.version;
    } else {
      job.attempt.end = AttemptEnd::kFailed;
      job.attempt.end_message =
          absl::StrCat("its result could not be published: ", event.status.message());
    }
  } else {
    const Checkpoint made = std::exchange(job.publishing, {});
    if (event.status.ok()) {
      job.checkpoint = made;
      job.checkpoint.version = event.version;
      job.checkpoint.published = now_;
    }
    TouchDesired(job.attempt);
  }
  if (job.attempt.live()) FinishAttempt(job);
  return absl::OkStatus();
}

}  // namespace graft::scheduler
