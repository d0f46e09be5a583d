// One training attempt on this node, from its inputs to its uploads.
//
//   STAGING -> STAGED -> STARTING -> RUNNING -> UPLOADING -> ENDED
//                 (anything) -> STOPPING -> ENDED, or FAILED
//
// The runner carries out what the scheduler wishes (a DesiredAttempt) and says how things are (an
// ActualAttempt); it decides nothing by itself but that a gang whose rank has failed is over.
//
// Downloads, uploads and the ranks' pipes have threads of their own and come back by posting.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/loop.h"
#include "graft/agent/v1/agent.pb.h"
#include "worker/agent/background.h"
#include "worker/agent/rank_process.h"
#include "worker/agent/runner.h"
#include "worker/trainer/events.h"
#include "worker/trainer/run_config.h"

namespace graft::agent {

class AttemptRunner final : public Runner {
 public:
  AttemptRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired);
  ~AttemptRunner() override;

  void Update(const v1::DesiredAttempt& desired) override;
  v1::ActualAttempt Report() const override;
  bool over() const override;

 private:
  using State = v1::ActualAttempt::State;

  struct Rank {
    std::unique_ptr<RankProcess> process;
    bool exited = false;
    RankExit exit;
    int64_t step = 0;
    std::vector<std::string> last_words;
    bool done = false;
    trainer::DoneEvent done_event;
    bool failed = false;
    trainer::ErrorEvent error_event;
  };

  // An upload that was asked for; started one after the other.
  struct PendingUpload {
    v1::Upload::Kind kind = v1::Upload::KIND_UNSPECIFIED;
    std::string folder;
    int64_t step = 0;
    std::optional<double> val_loss;
    bool best = false;
  };

  void SetState(State state);
  void Fail(graft::v1::Reason reason, std::string message, bool retryable);
  void StartStaging();
  void OnStaged(absl::Status status, std::map<std::string, std::string> folders);
  void TryStartRanks();
  absl::Status OpenRendezvous();
  absl::Status StartRank(const v1::LocalRank& local);
  absl::StatusOr<std::string> RunFileFor(const v1::LocalRank& local);
  RankCommand CommandFor(const v1::LocalRank& local, const std::string& run_file) const;
  void OnRankLine(int rank, const std::string& line);
  void OnRankLog(int rank, std::string line);
  void OnRankExit(int rank, RankExit exit);
  void OnEvent(int rank, const trainer::Event& event, const std::string& line);
  void OnAllExited();
  void OnFinished();
  void SendToRanks(const std::string& line);
  void ApplyGoal();
  void ArmDeadline();
  void KillRanks();
  // Compares base and result on validation rows, when that is wanted.
  void BeginReport(const trainer::DoneEvent& done);
  void OnReport(const std::string& folder, const absl::Status& status);
  RankCommand GenerateCommand(const std::string& model, const std::string& adapter) const;
  void QueueUpload(PendingUpload upload);
  void StartNextUpload();
  void OnUploaded(const PendingUpload& what, const v1::UploadGrant& grant,
                  absl::StatusOr<int64_t> bytes);
  void MaybeEnd();
  void CleanUp();
  std::string Folder() const;
  bool IsLeader() const;

  RunnerEnvironment& environment_;
  v1::DesiredAttempt desired_;
  v1::ActualAttempt report_;
  std::map<std::string, std::string> inputs_;  // key -> folder
  std::map<int, Rank> ranks_;
  UniqueFd rendezvous_;
  std::unique_ptr<Background> staging_;
  std::unique_ptr<Background> uploading_;
  std::unique_ptr<Background> reporting_;
  std::optional<double> base_loss_;  // on the validation rows, before the first step
  int64_t validation_rows_ = 0;
  std::vector<PendingUpload> pending_uploads_;
  std::vector<std::string> used_sessions_;
  int64_t sent_checkpoint_request_ = 0;
  int64_t last_checkpoint_step_ = -1;
  bool stop_sent_ = false;
  bool finish_sent_ = false;
  bool ranks_ended_ = false;
  Loop::TimerId deadline_timer_ = 0;
  // Posted closures hold this and do nothing once the runner is gone.
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace graft::agent
