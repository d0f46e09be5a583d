// The token pass of a job on this node: its inputs are fetched and `graft-validate` reads all rows,
// in a process of its own with bounds on time and memory, before any device is taken.
//
//   STAGING -> RUNNING -> ENDED with what was found, or FAILED with the rows that are bad
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "worker/agent/runner.h"
#include "worker/trainer/findings.h"

namespace graft::agent {

class ValidationRunner final : public Runner {
 public:
  ValidationRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired);
  ~ValidationRunner() override;

  void Update(const v1::DesiredAttempt& desired) override;
  v1::ActualAttempt Report() const override { return report_; }
  bool over() const override;

 private:
  void SetState(v1::ActualAttempt::State state);
  // `retryable`: another try may go better; bad rows stay bad.
  void Fail(graft::v1::Reason reason, const std::string& message, bool retryable);
  void OnStaged(absl::Status status, std::map<std::string, std::string> folders);
  absl::StatusOr<RankCommand> Command() const;
  absl::Status Begin();
  void OnLine(const std::string& line);
  void OnExit(RankExit exit);
  void CleanUp();
  // With the cache's folders called by the versions that lie in them.
  std::string Readable(const std::string& message) const;

  RunnerEnvironment& environment_;
  v1::DesiredAttempt desired_;
  v1::ActualAttempt report_;
  std::map<std::string, std::string> folders_;  // by the inputs' keys
  std::unique_ptr<Background> staging_;
  std::unique_ptr<RankProcess> process_;
  std::string last_words_;
  Loop::TimerId deadline_ = 0;
  // Posted closures hold this and do nothing once the runner is gone.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

// What was found, as the scheduler is told.
v1::ValidationReport ToReport(const trainer::Findings& findings);

}  // namespace graft::agent
