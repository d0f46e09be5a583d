#include "worker/agent/inference_runner.h"

#include <signal.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/agent/generate_lines.h"

namespace graft::agent {
namespace {

constexpr size_t kLastWords = 20;  // lines of the trainer's log that a failure is told with

}  // namespace

InferenceRunner::InferenceRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired)
    : environment_(environment), desired_(std::move(desired)) {
  report_.set_attempt(desired_.attempt());
  report_.set_attempt_epoch(desired_.attempt_epoch());
  if (desired_.goal() != v1::DesiredAttempt::GOAL_RUN) {
    SetState(v1::ActualAttempt::STATE_ENDED);  // Asked to stop before anything was begun.
    return;
  }
  SetState(v1::ActualAttempt::STATE_STAGING);
  report_.mutable_progress()->set_phase("staging");
  staging_ = StageInputs(
      environment_, desired_,
      [this, alive = alive_](double share) {
        if (!*alive) return;
        report_.mutable_progress()->set_phase_fraction(share);
        environment_.on_progress();
      },
      [this](absl::Status status, const std::map<std::string, std::string>& folders) {
        OnStaged(std::move(status), folders);
      });
}

InferenceRunner::~InferenceRunner() {
  *alive_ = false;
  CleanUp();
}

bool InferenceRunner::over() const {
  return report_.state() == v1::ActualAttempt::STATE_ENDED ||
         report_.state() == v1::ActualAttempt::STATE_FAILED;
}

v1::ActualAttempt InferenceRunner::Report() const {
  v1::ActualAttempt report = report_;
  if (process_ != nullptr) report.add_ranks()->set_pid(process_->pid());
  return report;
}

void InferenceRunner::SetState(v1::ActualAttempt::State state) {
  if (report_.state() == state) return;
  report_.set_state(state);
  environment_.on_changed();
}

void InferenceRunner::Fail(graft::v1::Reason reason, std::string message) {
  if (over()) return;
  LOG_WARNING("session failed", {{"session", desired_.attempt()}, {"reason", message}});
  report_.set_reason(reason);
  report_.set_message(std::move(message));
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

void InferenceRunner::OnStaged(absl::Status status,
                               const std::map<std::string, std::string>& folders) {
  if (over()) return;
  report_.clear_progress();
  if (!status.ok()) {
    return Fail(absl::IsResourceExhausted(status) ? graft::v1::REASON_DISK_FULL
                                                  : graft::v1::REASON_DEPENDENCY_UNAVAILABLE,
                std::string(status.message()));
  }
  SetState(v1::ActualAttempt::STATE_STARTING);
  absl::StatusOr<RankCommand> command = Command(folders);
  status = command.ok() ? StartTrainer(*command) : command.status();
  if (!status.ok()) Fail(graft::v1::REASON_RANK_FAILED, std::string(status.message()));
}

absl::StatusOr<RankCommand> InferenceRunner::Command(
    const std::map<std::string, std::string>& folders) const {
  const std::string folder = AttemptFolder(environment_, desired_);
  GRAFT_RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  const v1::LocalRank local =
      desired_.local_ranks().empty() ? v1::LocalRank() : desired_.local_ranks(0);
  RankCommand command = TrainerCommand(environment_, desired_, local);
  const auto model = folders.find("model");
  if (model == folders.end()) return absl::InvalidArgumentError("the session has no model");
  command.arguments = {"--generate", "--model", model->second, "--threads",
                       absl::StrCat(ThreadsPerRank(environment_))};
  if (const auto adapter = folders.find("adapter"); adapter != folders.end()) {
    command.arguments.insert(command.arguments.end(), {"--adapter", adapter->second});
  }
  GRAFT_ASSIGN_OR_RETURN(const Json run, Json::Parse(desired_.run_json()));
  if (const std::string text = run.GetString("chat_template"); !text.empty()) {
    const std::string path = JoinPath(folder, "chat_template.jinja");
    GRAFT_RETURN_IF_ERROR(WriteFileAtomically(path, text, {.mode = 0600, .sync = false}));
    command.arguments.insert(command.arguments.end(), {"--chat-template", path});
  }
  return command;
}

absl::Status InferenceRunner::StartTrainer(const RankCommand& command) {
  Loop& loop = environment_.loop;
  const auto post = [alive = alive_, &loop](std::function<void()> task) {
    const absl::Status posted = loop.Post([alive, task = std::move(task)] {
      if (*alive) task();
    });
    if (!posted.ok()) LOG_WARNING("a trainer's report was dropped", {{"reason", posted.message()}});
  };
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
                   if (last_words_.size() > kLastWords) last_words_.erase(last_words_.begin());
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
  staging_.reset();
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
  environment_.files.Release(desired_.attempt());
  if (const absl::Status removed = RemoveTree(AttemptFolder(environment_, desired_));
      !removed.ok()) {
    LOG_WARNING("a session's folder could not be removed", {{"reason", removed.message()}});
  }
}

}  // namespace graft::agent
