#include "worker/agent/inference_runner.h"

#include <signal.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/agent/commands.h"
#include "worker/agent/generate_lines.h"

namespace graft::agent {
namespace {

constexpr size_t kLinesOfLog = 20;  // lines of the trainer's log that a failure is told with

}  // namespace

InferenceRunner::InferenceRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired)
    : StagedRunner(environment, std::move(desired)) {
  if (Wanted()) Stage();
}

InferenceRunner::~InferenceRunner() { CleanUp(); }

v1::ActualAttempt InferenceRunner::Report() const {
  v1::ActualAttempt report = report_;
  if (process_ != nullptr) report.add_ranks()->set_pid(process_->pid());
  return report;
}

void InferenceRunner::Fail(graft::v1::Reason reason, std::string message) {
  if (over()) return;
  SetFailure(reason, std::move(message), /*retryable=*/false);
  CleanUp();
  SetState(v1::ActualAttempt::STATE_FAILED);
}

void InferenceRunner::Update(const v1::DesiredAttempt& desired) {
  desired_ = desired;
  // There is nothing to keep: every goal but RUN means the same.
  if (!over() && desired_.goal() != v1::DesiredAttempt::GOAL_RUN) Stop();
}

void InferenceRunner::Stop() {
  CleanUp();
  SetState(v1::ActualAttempt::STATE_ENDED);
}

void InferenceRunner::OnStaged(absl::Status status, std::map<std::string, std::string> folders) {
  report_.clear_progress();
  if (!status.ok()) return Fail(FetchReason(status), std::string(status.message()));
  SetState(v1::ActualAttempt::STATE_STARTING);
  absl::StatusOr<RankCommand> command = Command(folders);
  status = command.ok() ? StartTrainer(*command) : command.status();
  if (!status.ok()) Fail(graft::v1::REASON_RANK_FAILED, std::string(status.message()));
}

absl::StatusOr<RankCommand> InferenceRunner::Command(
    const std::map<std::string, std::string>& folders) const {
  GRAFT_RETURN_IF_ERROR(MakeDirectories(Folder(), 0700));
  const auto model = folders.find("model");
  if (model == folders.end()) return absl::InvalidArgumentError("the session has no model");
  GRAFT_ASSIGN_OR_RETURN(const Json run, Json::Parse(desired_.run_json()));
  GenerateTarget target{.model = model->second, .chat_template = run.GetString("chat_template")};
  if (const auto adapter = folders.find("adapter"); adapter != folders.end()) {
    target.adapter = adapter->second;
  }
  return GenerateCommand(environment_, desired_, target);
}

absl::Status InferenceRunner::StartTrainer(const RankCommand& command) {
  const auto post = Poster();
  GRAFT_ASSIGN_OR_RETURN(
      process_,
      RankProcess::Start(
          command,
          {.on_event =
               [this, post](std::string line) {
                 const auto reply = trainer::ParseGenerateReply(line);
                 if (reply.ok() && std::holds_alternative<trainer::ReadyReply>(*reply)) {
                   return post([this, ready = ToReply(*reply)] { OnReady(ready); });
                 }
                 OnLine(line);
               },
           .on_log =
               [this, post](std::string line) {
                 post([this, line = std::move(line)] {
                   last_words_.push_back(line);
                   if (last_words_.size() > kLinesOfLog) last_words_.erase(last_words_.begin());
                 });
               },
           .on_exit = [this, post](RankExit exit) { post([this, exit] { OnExit(exit); }); }}));
  return absl::OkStatus();
}

void InferenceRunner::OnReady(const v1::ServeInferenceRequest& ready) {
  if (over() || process_ == nullptr) return;
  v1::ServeInferenceRequest hello = ready;
  hello.set_session(desired_.attempt());
  hello.set_attempt_epoch(desired_.attempt_epoch());
  {
    MutexLock lock(relay_mu_);
    relay_ = std::make_shared<InferenceRelay>(
        environment_.scheduler, std::move(hello),
        [process = process_.get()](const std::string& line) { return process->Send(line); });
  }
  SetState(v1::ActualAttempt::STATE_RUNNING);
}

void InferenceRunner::OnLine(const std::string& line) {
  const absl::StatusOr<trainer::GenerateReply> reply = trainer::ParseGenerateReply(line);
  if (!reply.ok()) {
    LOG_WARNING("a line of the trainer is not understood", {{"reason", reply.status().message()}});
    return;
  }
  std::shared_ptr<InferenceRelay> relay;
  {
    MutexLock lock(relay_mu_);
    relay = relay_;
  }
  if (relay != nullptr) relay->Reply(ToReply(*reply));
}

void InferenceRunner::OnExit(RankExit exit) {
  if (over()) return;
  const std::string words = last_words_.empty() ? "" : absl::StrCat(": ", last_words_.back());
  Fail(graft::v1::REASON_RANK_FAILED, absl::StrCat("the trainer ", exit.Describe(), words));
}

void InferenceRunner::CleanUp() {
  StopStaging();
  // A trainer that is gone reads and writes no more, so that nothing of the relay's waits for it.
  if (process_ != nullptr) process_->Signal(SIGKILL);
  std::shared_ptr<InferenceRelay> relay;
  {
    MutexLock lock(relay_mu_);
    relay = std::move(relay_);
  }
  if (relay != nullptr) relay->Stop();
  relay.reset();
  process_.reset();
  ReleaseFiles();
}

}  // namespace graft::agent
