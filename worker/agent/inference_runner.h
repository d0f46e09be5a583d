// An inference session on this node: its model is fetched, `graft-trainer --generate` started with
// it, and questions are carried between that process and the scheduler until it is told to stop.
//
//   STAGING -> STARTING (loads) -> RUNNING (answers) -> STOPPING -> ENDED, or FAILED
//
// A trainer that leaves without being told has failed, with its last words as the reason.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "worker/agent/inference_relay.h"
#include "worker/agent/staged_runner.h"

namespace graft::agent {

class InferenceRunner final : public StagedRunner {
 public:
  InferenceRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired);
  ~InferenceRunner() override;

  void Update(const v1::DesiredAttempt& desired) override;
  v1::ActualAttempt Report() const override;

 private:
  void Fail(graft::v1::Reason reason, std::string message);
  void Stop();
  void OnStaged(absl::Status status, std::map<std::string, std::string> folders) override;
  absl::StatusOr<RankCommand> Command(const std::map<std::string, std::string>& folders) const;
  absl::Status StartTrainer(const RankCommand& command);
  // On the trainer's reader thread: tokens go straight to the relay, which may block it.
  void OnLine(const std::string& line);
  void OnReady(const v1::ServeInferenceRequest& ready);
  void OnExit(RankExit exit);
  void CleanUp();

  std::vector<std::string> last_words_;

  Mutex relay_mu_;
  std::shared_ptr<InferenceRelay> relay_ GRAFT_GUARDED_BY(relay_mu_);  // shared with OnLine
  std::unique_ptr<RankProcess> process_;
};

}  // namespace graft::agent
