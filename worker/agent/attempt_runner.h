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
#include "worker/agent/report_maker.h"
#include "worker/agent/staged_runner.h"
#include "worker/agent/upload_queue.h"
#include "worker/trainer/events.h"
#include "worker/trainer/run_config.h"

namespace graft::agent {

class AttemptRunner final : public StagedRunner {
 public:
  AttemptRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired);
  ~AttemptRunner() override;

  void Update(const v1::DesiredAttempt& desired) override;
  v1::ActualAttempt Report() const override;

 private:
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

  void Fail(graft::v1::Reason reason, std::string message, bool retryable);
  void OnStaged(absl::Status status, std::map<std::string, std::string> folders) override;
  void TryStartRanks();
  absl::Status StartRank(const v1::LocalRank& local);
  void OnRankLine(int rank, const std::string& line);
  void OnRankLog(int rank, const std::string& line);
  void OnWarning(int rank, const trainer::WarningEvent& event);
  void AppendLog(int rank, graft::v1::LogEntry::Severity severity, std::string line);
  void OnRankExit(int rank, RankExit exit);
  void OnEvent(int rank, const trainer::Event& event, const std::string& line);
  void OnRun(const trainer::RunEvent& run);
  void OnStep(int rank, const trainer::StepEvent& step);
  void OnEval(int rank, const trainer::EvalEvent& eval);
  void OnAllExited();
  void OnFinished();
  void SendToRanks(absl::string_view line);
  void ApplyGoal();
  void CheckpointAndStop();
  void ArmDeadline();
  void KillRanks();
  // Compares base and result on validation rows, when that is wanted.
  void BeginReport(const trainer::DoneEvent& done);
  absl::StatusOr<ReportRequest> ReportOf(const trainer::DoneEvent& done,
                                         trainer::RunConfig config) const;
  void OnReport(const std::string& folder, const absl::Status& status);
  void StartNextUpload();
  void OnUploaded(const UploadQueue::Item& what, const std::string& session,
                  const absl::StatusOr<int64_t>& bytes);
  void MaybeEnd();
  void CleanUp();
  bool IsLeader() const;
  // Ranks run, and have not been told to leave.
  bool Started() const {
    return report_.state() == v1::ActualAttempt::STATE_STARTING ||
           report_.state() == v1::ActualAttempt::STATE_RUNNING;
  }
  bool IsGang() const { return desired_.rank_table_size() > 1; }

  std::map<std::string, std::string> inputs_;  // key -> folder
  std::map<int, Rank> ranks_;
  UniqueFd rendezvous_;
  UploadQueue uploads_;
  std::unique_ptr<Background> reporting_;
  std::optional<double> base_loss_;  // on the validation rows, before the first step
  int64_t validation_rows_ = 0;
  std::vector<int64_t> split_rows_;
  int64_t sent_checkpoint_request_ = 0;
  bool stop_sent_ = false;
  bool finish_sent_ = false;
  bool ranks_ended_ = false;
  Loop::TimerId deadline_timer_ = 0;
};

}  // namespace graft::agent
