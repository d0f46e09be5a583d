// What runners that first fetch inputs have in common: how they begin, what they report, and how
// the threads that work for them come back to the loop.
//
//   class MyRunner final : public StagedRunner {
//     MyRunner(...) : StagedRunner(environment, std::move(desired)) { if (Wanted()) Stage(); }
//     void OnStaged(absl::Status status, std::map<std::string, std::string> folders) override;
//
// Owned by the agent's loop, where every method runs.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "worker/agent/runner.h"

namespace graft::agent {

class StagedRunner : public Runner {
 public:
  v1::ActualAttempt Report() const override { return report_; }
  bool over() const final;

 protected:
  using State = v1::ActualAttempt::State;

  StagedRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired);
  // After it nothing that was posted runs any more.
  ~StagedRunner() override { *alive_ = false; }

  // Whether there is something to do. A wish that was to stop from the beginning has ENDED.
  bool Wanted();
  // Fetches the inputs; OnStaged is told, unless StopStaging comes first.
  void Stage();
  virtual void OnStaged(absl::Status status, std::map<std::string, std::string> folders) = 0;
  void StopStaging() { staging_.reset(); }
  // What a failed fetch means for the job.
  static graft::v1::Reason FetchReason(const absl::Status& status);

  void SetState(State state);
  // Sets what a failure says; the state is the caller's to set, when its ranks are gone.
  void SetFailure(graft::v1::Reason reason, std::string message, bool retryable);
  // Runs `task` on the loop, unless this is gone by then. From any thread.
  std::function<void(std::function<void()>)> Poster();
  // The same at a time to come.
  Loop::TimerId RunAfter(absl::Duration delay, std::function<void()> task);
  std::string Folder() const { return AttemptFolder(environment_, desired_); }
  // Lets go of the cached inputs and removes the attempt's folder.
  void ReleaseFiles();

  RunnerEnvironment& environment_;
  v1::DesiredAttempt desired_;
  v1::ActualAttempt report_;

 private:
  std::unique_ptr<Background> staging_;
  // Posted closures hold this and do nothing once the runner is gone.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace graft::agent
