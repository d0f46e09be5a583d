#include "worker/agent/attempt_runner.h"

#include <signal.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/agent/commands.h"
#include "worker/agent/rendezvous.h"
#include "worker/agent/trainer_lines.h"
#include "worker/trainer/control_words.h"

namespace graft::agent {
namespace {

constexpr size_t kLastWords = 40;  // lines of a rank's log that a failure is told with
constexpr size_t kLastWordsBytes = 4096;
// How long ranks may take to write a checkpoint and leave when no deadline is given.
constexpr absl::Duration kStopGrace = absl::Minutes(10);
constexpr int kRendezvousFd = 3;

absl::Time FromProto(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

void ToProto(absl::Time time, google::protobuf::Timestamp& out) {
  out.set_seconds(absl::ToUnixSeconds(time));
  out.set_nanos(static_cast<int32_t>(
      absl::ToInt64Nanoseconds(time - absl::FromUnixSeconds(absl::ToUnixSeconds(time)))));
}

}  // namespace

AttemptRunner::AttemptRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired)
    : StagedRunner(environment, std::move(desired)),
      uploads_(environment.loop, environment.files,
               [this](const UploadQueue::Item& what, const std::string& session,
                      const absl::StatusOr<int64_t>& bytes) { OnUploaded(what, session, bytes); }) {
  if (!Wanted()) return;
  if (const absl::Status room = CheckDisk(desired_, environment_.root); !room.ok()) {
    // Another node may have the room.
    Fail(absl::IsResourceExhausted(room) ? graft::v1::REASON_DISK_FULL
                                         : graft::v1::REASON_FIELD_INVALID,
         std::string(room.message()), absl::IsResourceExhausted(room));
    return;
  }
  Stage();
}

AttemptRunner::~AttemptRunner() {
  if (deadline_timer_ != 0) environment_.loop.Cancel(deadline_timer_);
  KillRanks();
  CleanUp();
}

bool AttemptRunner::IsLeader() const {
  return std::any_of(desired_.local_ranks().begin(), desired_.local_ranks().end(),
                     [](const v1::LocalRank& local) { return local.rank() == 0; });
}

void AttemptRunner::Fail(graft::v1::Reason reason, std::string message, bool retryable) {
  if (over()) return;
  SetFailure(reason, std::move(message), retryable);
  KillRanks();
  uploads_.DropWaiting();
  SetState(v1::ActualAttempt::STATE_FAILED);
  CleanUp();
}

v1::ActualAttempt AttemptRunner::Report() const {
  v1::ActualAttempt report = report_;
  for (const auto& [number, rank] : ranks_) {
    v1::ActualRank& actual = *report.add_ranks();
    actual.set_rank(number);
    actual.set_step(rank.step);
    if (!rank.exited) {
      actual.set_pid(rank.process == nullptr ? 0 : rank.process->pid());
    } else if (rank.exit.signal != 0) {
      actual.set_signal(rank.exit.signal);
    } else {
      actual.set_exit_code(rank.exit.code);
    }
    if (report_.state() == v1::ActualAttempt::STATE_FAILED) {
      std::string words = absl::StrJoin(rank.last_words, "\n");
      if (words.size() > kLastWordsBytes) words.erase(0, words.size() - kLastWordsBytes);
      actual.set_last_words(std::move(words));
    }
  }
  return report;
}

void AttemptRunner::OnStaged(absl::Status status, std::map<std::string, std::string> folders) {
  if (report_.state() == v1::ActualAttempt::STATE_STOPPING) return;
  if (!status.ok()) return Fail(FetchReason(status), std::string(status.message()), true);
  inputs_ = std::move(folders);
  if (IsGang() && IsLeader()) {
    absl::StatusOr<Rendezvous> opened = OpenRendezvous(environment_.fabric_address);
    if (!opened.ok()) {
      return Fail(graft::v1::REASON_RANK_FAILED, std::string(opened.status().message()), true);
    }
    rendezvous_ = std::move(opened->socket);
    report_.set_rendezvous_address(opened->address);
  }
  SetState(v1::ActualAttempt::STATE_STAGED);
  TryStartRanks();
}

void AttemptRunner::TryStartRanks() {
  if (report_.state() != v1::ActualAttempt::STATE_STAGED) return;
  if (IsGang() && desired_.rendezvous_address().empty()) return;
  SetState(v1::ActualAttempt::STATE_STARTING);
  for (const v1::LocalRank& local : desired_.local_ranks()) {
    if (const absl::Status started = StartRank(local); !started.ok()) {
      Fail(graft::v1::REASON_RANK_FAILED, std::string(started.message()), true);
      return;
    }
  }
  ApplyGoal();  // it may have become to finish while the inputs came
}

absl::Status AttemptRunner::StartRank(const v1::LocalRank& local) {
  GRAFT_ASSIGN_OR_RETURN(RankCommand command, TrainCommand(environment_, desired_, inputs_, local));
  if (local.rank() == 0 && rendezvous_.valid()) {
    command.inherited_fd = rendezvous_.get();
    command.inherited_fd_number = kRendezvousFd;
    command.environment.emplace_back("GRAFT_RENDEZVOUS_FD", absl::StrCat(kRendezvousFd));
  }
  const int number = local.rank();
  for (const auto& [key, value] : environment_.rank_environment) {
    OnRankLog(number, absl::StrCat("this node sets ", key, "=", value));
  }
  const auto post = Poster();
  GRAFT_ASSIGN_OR_RETURN(
      ranks_[number].process,
      RankProcess::Start(
          command, {.on_event =
                        [this, number, post](std::string line) {
                          post(
                              [this, number, line = std::move(line)] { OnRankLine(number, line); });
                        },
                    .on_log =
                        [this, number, post](std::string line) {
                          post([this, number, line = std::move(line)] { OnRankLog(number, line); });
                        },
                    .on_exit =
                        [this, number, post](RankExit exit) {
                          post([this, number, exit] { OnRankExit(number, exit); });
                        }}));
  return absl::OkStatus();
}

void AttemptRunner::OnRankLine(int rank, const std::string& line) {
  const absl::StatusOr<trainer::Event> event = trainer::ParseEvent(line);
  if (event.ok()) {
    OnEvent(rank, *event, line);
  } else if (!absl::IsNotFound(event.status())) {
    OnRankLog(rank, line);  // Not an event: somebody printed to standard output.
  }
}

void AttemptRunner::OnRankLog(int rank, const std::string& line) {
  Printed printed = ReadPrinted(line);
  Rank& state = ranks_[rank];
  state.last_words.push_back(printed.text);
  if (state.last_words.size() > kLastWords) state.last_words.erase(state.last_words.begin());
  AppendLog(rank, printed.severity, std::move(printed.text));
}

void AttemptRunner::OnWarning(int rank, const trainer::WarningEvent& event) {
  const graft::v1::Warning warning = WarningOf(event);
  AppendLog(rank, graft::v1::LogEntry::SEVERITY_WARNING,
            absl::StrCat(warning.message(), " (", warning.code(), ")"));
  auto& known = *report_.mutable_warnings();
  const auto same = std::find_if(known.begin(), known.end(),
                                 [&](const auto& one) { return one.code() == warning.code(); });
  (same == known.end() ? *known.Add() : *same) = warning;
}

void AttemptRunner::AppendLog(int rank, graft::v1::LogEntry::Severity severity, std::string line) {
  v1::AgentEvent event;
  graft::v1::LogEntry& entry = *event.mutable_log();
  ToProto(environment_.clock.WallNow(), *entry.mutable_time());
  entry.set_rank(rank);
  entry.set_severity(severity);
  entry.set_text(std::move(line));
  environment_.relay.Append({desired_.attempt(), rank}, event);
}

void AttemptRunner::OnStep(int rank, const trainer::StepEvent& step) {
  ranks_[rank].step = step.step;
  v1::AgentEvent row;
  *row.mutable_metrics() = StepRow(step, absl::ToUnixMillis(environment_.clock.WallNow()));
  environment_.relay.Append({desired_.attempt(), rank}, row);
  // Every rank tells of the same steps; the first one here speaks for the attempt.
  if (rank != ranks_.begin()->first) return;
  graft::v1::JobProgress& progress = *report_.mutable_progress();
  progress.set_steps_done(step.step);
  progress.set_steps_total(step.total_steps);
  progress.set_epoch(step.epoch);
  progress.set_train_loss(step.loss);
  progress.set_tokens_per_second(step.tokens_per_second);
  progress.set_supervised_tokens(progress.supervised_tokens() + step.supervised_tokens);
  ToProto(environment_.clock.WallNow(), *progress.mutable_last_step_time());
  const double left = static_cast<double>(step.total_steps - step.step) * step.seconds;
  progress.mutable_eta()->set_seconds(static_cast<int64_t>(left));
  environment_.on_progress();
}

void AttemptRunner::OnRun(const trainer::RunEvent& run) {
  graft::v1::JobProgress& progress = *report_.mutable_progress();
  progress.set_steps_total(run.total_steps);
  progress.set_steps_done(run.first_step);
  if (run.validation_loss.has_value()) progress.set_val_loss(*run.validation_loss);
  if (run.best_validation_loss.has_value()) {
    progress.set_best_val_loss(*run.best_validation_loss);
    progress.set_best_step(run.best_step);
  }
  // Another rank's event may be read behind the first one's evaluation.
  if (run.base_validation_loss.has_value()) base_loss_ = run.base_validation_loss;
  validation_rows_ = run.validation_rows;
  split_rows_ = run.split_rows;
  SetState(v1::ActualAttempt::STATE_RUNNING);
}

void AttemptRunner::OnEval(int rank, const trainer::EvalEvent& eval) {
  graft::v1::JobProgress& progress = *report_.mutable_progress();
  progress.set_val_loss(eval.loss);
  if (eval.step == 0) {
    base_loss_ = eval.loss;
  } else if (eval.best || !progress.has_best_val_loss()) {
    progress.set_best_val_loss(eval.loss);
    progress.set_best_step(eval.step);
  }
  v1::AgentEvent row;
  *row.mutable_metrics() = EvalRow(eval, absl::ToUnixMillis(environment_.clock.WallNow()));
  environment_.relay.Append({desired_.attempt(), rank}, row);
}

void AttemptRunner::OnEvent(int rank, const trainer::Event& event, const std::string& line) {
  Rank& state = ranks_[rank];
  if (const auto* step = std::get_if<trainer::StepEvent>(&event)) return OnStep(rank, *step);
  if (const auto* run = std::get_if<trainer::RunEvent>(&event)) {
    OnRun(*run);
  } else if (const auto* eval = std::get_if<trainer::EvalEvent>(&event)) {
    OnEval(rank, *eval);
  } else if (const auto* sample = std::get_if<trainer::SampleEvent>(&event)) {
    AppendLog(rank, graft::v1::LogEntry::SEVERITY_INFO, SampleText(*sample));
  } else if (const auto* warning = std::get_if<trainer::WarningEvent>(&event)) {
    OnWarning(rank, *warning);
  } else if (const auto* checkpoint = std::get_if<trainer::CheckpointEvent>(&event)) {
    uploads_.Add({.kind = v1::Upload::KIND_CHECKPOINT,
                  .folder = checkpoint->folder,
                  .step = checkpoint->step,
                  .val_loss = checkpoint->validation_loss,
                  .best = checkpoint->best});
    StartNextUpload();
    report_.set_checkpoint_request(sent_checkpoint_request_);
  } else if (const auto* done = std::get_if<trainer::DoneEvent>(&event)) {
    state.done = true;
    state.done_event = *done;
  } else if (const auto* error = std::get_if<trainer::ErrorEvent>(&event)) {
    state.failed = true;
    state.error_event = *error;
  }
  v1::AgentEvent life;
  life.set_life_json(line);
  environment_.relay.Append({desired_.attempt(), rank}, life);
  environment_.on_changed();
}

void AttemptRunner::OnRankExit(int rank, RankExit exit) {
  Rank& state = ranks_[rank];
  state.exited = true;
  state.exit = exit;
  if (over()) return;
  if (state.failed) {
    const Failure failure = FailureOf(state.error_event.code);
    std::string message = state.error_event.message;
    if (!state.error_event.hint.empty()) absl::StrAppend(&message, " — ", state.error_event.hint);
    if (IsGang()) {
      message = absl::StrCat("rank ", rank, ", step ", state.error_event.step, ": ", message);
    }
    Fail(failure.reason, std::move(message), failure.retryable);
    return;
  }
  const bool stopping = desired_.goal() == v1::DesiredAttempt::GOAL_STOP;
  if (!state.done && !stopping) {
    const std::string where = IsGang() ? absl::StrCat("rank ", rank) : "the trainer";
    const std::string words =
        state.last_words.empty() ? "" : absl::StrCat(": ", state.last_words.back());
    const bool memory = exit.memory_exceeded_bytes > 0;
    Fail(memory ? graft::v1::REASON_OUT_OF_MEMORY : graft::v1::REASON_RANK_FAILED,
         absl::StrCat(where, " ", exit.Describe(), " after step ", state.step, words), !memory);
    return;
  }
  const bool all = std::all_of(ranks_.begin(), ranks_.end(),
                               [](const auto& entry) { return entry.second.exited; });
  if (all) OnAllExited();
}

void AttemptRunner::OnAllExited() {
  ranks_ended_ = true;
  if (desired_.goal() == v1::DesiredAttempt::GOAL_STOP) {
    SetState(v1::ActualAttempt::STATE_ENDED);
    CleanUp();
    return;
  }
  if (IsLeader()) OnFinished();
  MaybeEnd();
}

void AttemptRunner::OnFinished() {
  const trainer::DoneEvent& done = ranks_[0].done_event;
  switch (done.reason) {
    case trainer::DoneReason::kEarlyStopped:
      report_.set_reason(graft::v1::REASON_EARLY_STOPPED);
      [[fallthrough]];
    case trainer::DoneReason::kCompleted:
      if (!done.output_folder.empty()) {
        const bool adapter = FileExists(JoinPath(done.output_folder, "adapter_config.json"));
        uploads_.Add({.kind = adapter ? v1::Upload::KIND_ADAPTER : v1::Upload::KIND_MODEL,
                      .folder = done.output_folder,
                      .step = done.step,
                      .val_loss = done.validation_loss});
        StartNextUpload();
        // Whoever wants the devices does not wait for it.
        if (desired_.goal() != v1::DesiredAttempt::GOAL_CHECKPOINT_AND_STOP) BeginReport(done);
      }
      break;
    case trainer::DoneReason::kPaused:
      break;
    case trainer::DoneReason::kTerminated:
      // Nobody asked it to leave: the machine is going down, or somebody else ended it.
      if (desired_.goal() == v1::DesiredAttempt::GOAL_RUN) {
        Fail(graft::v1::REASON_RANK_FAILED, "the trainer was terminated from outside", true);
      }
      break;
  }
}

void AttemptRunner::MaybeEnd() {
  if (over() || !ranks_ended_ || !uploads_.idle() || reporting_ != nullptr) return;
  SetState(v1::ActualAttempt::STATE_ENDED);
  environment_.relay.Close(desired_.attempt());
  CleanUp();
}

absl::StatusOr<ReportRequest> AttemptRunner::ReportOf(const trainer::DoneEvent& done,
                                                      trainer::RunConfig config) const {
  const bool adapter = FileExists(JoinPath(done.output_folder, "adapter_config.json"));
  ReportRequest request;
  const GenerateTarget base{.model = config.model.path,
                            .chat_template = config.dataset.chat_template};
  GenerateTarget tuned = base;
  (adapter ? tuned.adapter : tuned.model) = done.output_folder;
  GRAFT_ASSIGN_OR_RETURN(request.base, GenerateCommand(environment_, desired_, base));
  GRAFT_ASSIGN_OR_RETURN(request.tuned, GenerateCommand(environment_, desired_, tuned));
  request.report.title = absl::StrCat(
      "What ", desired_.attempt().substr(0, desired_.attempt().rfind("/attempts/")), " has learnt");
  request.report.base = config.model.name.empty() ? config.model.path : config.model.name;
  request.report.tuned = adapter ? "with the adapter of this job" : "the model of this job";
  request.report.loss_before = base_loss_;
  request.report.loss_after = done.validation_loss;
  request.config = std::move(config);
  request.split_rows = split_rows_;
  request.folder = JoinPath(Folder(), "report");
  return request;
}

void AttemptRunner::BeginReport(const trainer::DoneEvent& done) {
  absl::StatusOr<trainer::RunConfig> config = RunConfigFor(desired_, inputs_);
  if (!config.ok() || config->evaluation.report_rows <= 0 || validation_rows_ == 0) return;
  const absl::StatusOr<ReportRequest> request = ReportOf(done, *std::move(config));
  if (!request.ok()) return OnReport("", request.status());
  report_.mutable_progress()->set_phase("comparing with the base on validation rows");
  reporting_ = std::make_unique<Background>(
      environment_.loop,
      [this, request = *request](const CancelFlag& cancel) -> std::function<void()> {
        const absl::Status status = MakeReport(request, cancel);
        return [this, folder = request.folder, status] { OnReport(folder, status); };
      });
}

void AttemptRunner::OnReport(const std::string& folder, const absl::Status& status) {
  reporting_.reset();
  report_.mutable_progress()->clear_phase();
  if (over()) return;
  if (status.ok()) {
    uploads_.Add({.kind = v1::Upload::KIND_REPORT, .folder = folder});
    StartNextUpload();
  } else {
    // A job is what it is with or without its report.
    LOG_WARNING("no report", {{"attempt", desired_.attempt()}, {"reason", status.message()}});
    OnRankLog(0, absl::StrCat("no before/after report: ", status.message()));
  }
  MaybeEnd();
}

void AttemptRunner::StartNextUpload() {
  if (over()) return;
  uploads_.StartNext(desired_.upload_grants());
  if (ranks_ended_ && !uploads_.idle()) SetState(v1::ActualAttempt::STATE_UPLOADING);
}

void AttemptRunner::OnUploaded(const UploadQueue::Item& what, const std::string& session,
                               const absl::StatusOr<int64_t>& bytes) {
  if (over()) return;
  if (!bytes.ok()) {
    const std::string message =
        absl::StrCat("cannot upload ", v1::Upload::Kind_Name(what.kind), " of step ", what.step,
                     ": ", bytes.status().message());
    // A checkpoint that did not get through is followed by another; an output is not.
    if (what.kind != v1::Upload::KIND_REPORT &&
        (what.kind != v1::Upload::KIND_CHECKPOINT ||
         desired_.goal() == v1::DesiredAttempt::GOAL_CHECKPOINT_AND_STOP)) {
      return Fail(FetchReason(bytes.status()), message, true);
    }
    LOG_WARNING("upload failed", {{"attempt", desired_.attempt()}, {"reason", message}});
  } else {
    v1::Upload& upload = *report_.add_uploads();
    upload.set_session(session);
    upload.set_kind(what.kind);
    upload.set_step(what.step);
    if (what.val_loss.has_value()) upload.set_val_loss(*what.val_loss);
    upload.set_best(what.best);
    upload.set_size_bytes(*bytes);
    environment_.on_changed();
  }
  StartNextUpload();
  MaybeEnd();
}

void AttemptRunner::Update(const v1::DesiredAttempt& desired) {
  const bool goal_changed = desired.goal() != desired_.goal();
  desired_ = desired;
  // Sessions that the scheduler no longer lists have been dealt with.
  auto& uploads = *report_.mutable_uploads();
  uploads.erase(std::remove_if(uploads.begin(), uploads.end(),
                               [this](const v1::Upload& upload) {
                                 return std::none_of(desired_.upload_grants().begin(),
                                                     desired_.upload_grants().end(),
                                                     [&upload](const v1::UploadGrant& grant) {
                                                       return grant.session() == upload.session() &&
                                                              !grant.published();
                                                     });
                               }),
                uploads.end());
  if (over()) return;
  if (goal_changed) ApplyGoal();
  if (over()) return;
  TryStartRanks();
  if (desired_.checkpoint_request() > sent_checkpoint_request_ &&
      report_.state() == v1::ActualAttempt::STATE_RUNNING) {
    sent_checkpoint_request_ = desired_.checkpoint_request();
    SendToRanks(trainer::kCheckpointWord);
  }
  StartNextUpload();
}

void AttemptRunner::ApplyGoal() {
  switch (desired_.goal()) {
    case v1::DesiredAttempt::GOAL_STOP:
      KillRanks();
      uploads_.DropWaiting();
      if (ranks_.empty() || ranks_ended_) {
        SetState(v1::ActualAttempt::STATE_ENDED);
        CleanUp();
      } else {
        SetState(v1::ActualAttempt::STATE_STOPPING);
      }
      break;
    case v1::DesiredAttempt::GOAL_CHECKPOINT_AND_STOP:
      CheckpointAndStop();
      break;
    case v1::DesiredAttempt::GOAL_FINISH:
      if (Started() && !finish_sent_) {
        finish_sent_ = true;
        // Without a deadline: nobody waits for the devices, and a last step may be long.
        SendToRanks(desired_.use_best() ? trainer::kFinishWithBestWord : trainer::kFinishWord);
      }
      break;
    default:
      break;
  }
}

void AttemptRunner::CheckpointAndStop() {
  if (!Started() && !ranks_ended_) {
    // Nothing has been trained yet: there is nothing to keep.
    SetState(v1::ActualAttempt::STATE_ENDED);
    CleanUp();
  } else if (reporting_ != nullptr) {
    reporting_.reset();  // whoever wants the devices does not wait for it
    MaybeEnd();
  } else if (Started() && !stop_sent_) {
    stop_sent_ = true;
    SendToRanks(trainer::kPauseWord);
    SetState(v1::ActualAttempt::STATE_STOPPING);
    ArmDeadline();
  }
}

void AttemptRunner::ArmDeadline() {
  absl::Duration grace = kStopGrace;
  if (desired_.has_deadline())
    grace = FromProto(desired_.deadline()) - environment_.clock.WallNow();
  if (deadline_timer_ != 0) environment_.loop.Cancel(deadline_timer_);
  deadline_timer_ = RunAfter(grace, [this] {
    if (ranks_ended_ || over()) return;
    Fail(graft::v1::REASON_TIME_LIMIT, "the ranks did not leave by their deadline", true);
  });
}

void AttemptRunner::SendToRanks(absl::string_view line) {
  for (auto& [number, rank] : ranks_) {
    if (rank.exited || rank.process == nullptr) continue;
    if (const absl::Status sent = rank.process->Send(line); !sent.ok()) {
      LOG_WARNING("a rank could not be told", {{"rank", number}, {"reason", sent.message()}});
    }
  }
}

void AttemptRunner::KillRanks() {
  for (auto& [number, rank] : ranks_) {
    if (!rank.exited && rank.process != nullptr) rank.process->Signal(SIGKILL);
  }
}

void AttemptRunner::CleanUp() {
  StopStaging();
  uploads_.Stop();
  reporting_.reset();
  for (auto& [number, rank] : ranks_) rank.process.reset();
  environment_.relay.Close(desired_.attempt());
  rendezvous_.reset();
  ReleaseFiles();
}

}  // namespace graft::agent
