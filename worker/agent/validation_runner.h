// The token pass of a job on this node: its inputs are fetched and `graft-validate` reads all rows,
// in a process of its own with bounds on time and memory, before any device is taken.
//
//   STAGING -> RUNNING -> ENDED with what was found, or FAILED with the rows that are bad
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "worker/agent/staged_runner.h"
#include "worker/trainer/findings.h"

namespace graft::agent {

class ValidationRunner final : public StagedRunner {
 public:
  ValidationRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired);
  ~ValidationRunner() override;

  void Update(const v1::DesiredAttempt& desired) override;

 private:
  // `retryable`: another try may go better; bad rows stay bad.
  void Fail(graft::v1::Reason reason, const std::string& message, bool retryable);
  void OnStaged(absl::Status status, std::map<std::string, std::string> folders) override;
  absl::StatusOr<RankCommand> Command() const;
  absl::Status Begin();
  void OnLine(const std::string& line);
  void OnExit(RankExit exit);
  void CleanUp();
  // With the cache's folders called by the versions that lie in them.
  std::string Readable(const std::string& message) const;

  std::map<std::string, std::string> folders_;  // by the inputs' keys
  std::unique_ptr<RankProcess> process_;
  std::string last_words_;
  Loop::TimerId deadline_ = 0;
};

// What was found, as the scheduler is told.
v1::ValidationReport ToReport(const trainer::Findings& findings);

}  // namespace graft::agent
