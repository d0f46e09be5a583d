#include "worker/agent/staged_runner.h"

#include <utility>

#include "base/file.h"
#include "base/log.h"

namespace graft::agent {

StagedRunner::StagedRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired)
    : environment_(environment), desired_(std::move(desired)) {
  report_.set_attempt(desired_.attempt());
  report_.set_attempt_epoch(desired_.attempt_epoch());
}

bool StagedRunner::over() const {
  return report_.state() == v1::ActualAttempt::STATE_ENDED ||
         report_.state() == v1::ActualAttempt::STATE_FAILED;
}

bool StagedRunner::Wanted() {
  // One that is to finish has a result to bring: an attempt before it was lost.
  if (desired_.goal() == v1::DesiredAttempt::GOAL_RUN ||
      desired_.goal() == v1::DesiredAttempt::GOAL_FINISH) {
    return true;
  }
  SetState(v1::ActualAttempt::STATE_ENDED);
  return false;
}

void StagedRunner::Stage() {
  SetState(v1::ActualAttempt::STATE_STAGING);
  report_.mutable_progress()->set_phase("staging");
  staging_ = StageInputs(
      environment_, desired_,
      [this, alive = alive_](double share) {
        if (!*alive) return;
        report_.mutable_progress()->set_phase_fraction(share);
        environment_.on_progress();
      },
      [this](absl::Status status, std::map<std::string, std::string> folders) {
        report_.mutable_progress()->clear_phase();
        report_.mutable_progress()->clear_phase_fraction();
        if (!over()) OnStaged(std::move(status), std::move(folders));
      });
}

graft::v1::Reason StagedRunner::FetchReason(const absl::Status& status) {
  return absl::IsResourceExhausted(status) ? graft::v1::REASON_DISK_FULL
                                           : graft::v1::REASON_DEPENDENCY_UNAVAILABLE;
}

void StagedRunner::SetState(State state) {
  if (report_.state() == state) return;
  report_.set_state(state);
  environment_.on_changed();
}

void StagedRunner::SetFailure(graft::v1::Reason reason, std::string message, bool retryable) {
  LOG_WARNING("attempt failed", {{"attempt", desired_.attempt()}, {"reason", message}});
  report_.set_reason(reason);
  report_.set_message(std::move(message));
  report_.set_retryable(retryable);
}

std::function<void(std::function<void()>)> StagedRunner::Poster() {
  return [alive = alive_, &loop = environment_.loop](std::function<void()> task) {
    const absl::Status posted = loop.Post([alive, task = std::move(task)] {
      if (*alive) task();
    });
    if (!posted.ok()) LOG_WARNING("a rank's report was dropped", {{"reason", posted.message()}});
  };
}

Loop::TimerId StagedRunner::RunAfter(absl::Duration delay, std::function<void()> task) {
  return environment_.loop.RunAt(environment_.clock.Now() + delay,
                                 [alive = alive_, task = std::move(task)] {
                                   if (*alive) task();
                                 });
}

void StagedRunner::ReleaseFiles() {
  environment_.files.Release(desired_.attempt());
  if (const absl::Status removed = RemoveTree(Folder()); !removed.ok()) {
    LOG_WARNING("an attempt's folder could not be removed", {{"reason", removed.message()}});
  }
}

}  // namespace graft::agent
