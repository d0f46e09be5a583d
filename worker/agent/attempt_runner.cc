#include "worker/agent/attempt_runner.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/agent/report_maker.h"
#include "worker/agent/trainer_lines.h"

namespace graft::agent {
namespace {

constexpr size_t kLastWords = 40;  // lines of a rank's log that a failure is told with
constexpr size_t kLastWordsBytes = 4096;
// How long ranks may take to write a checkpoint and leave when no deadline is given.
constexpr absl::Duration kStopGrace = absl::Minutes(10);
constexpr int kRendezvousFd = 3;

constexpr absl::string_view kPauseLine = R"({"command":"pause"})";
constexpr absl::string_view kCheckpointLine = R"({"command":"checkpoint"})";
constexpr absl::string_view kFinishLine = R"({"command":"finish"})";

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
    : environment_(environment), desired_(std::move(desired)) {
  report_.set_attempt(desired_.attempt());
  report_.set_attempt_epoch(desired_.attempt_epoch());
  if (desired_.goal() != v1::DesiredAttempt::GOAL_RUN) {
    SetState(v1::ActualAttempt::STATE_ENDED);  // Asked to stop before anything was begun.
    return;
  }
  if (const absl::Status room = CheckDisk(desired_, environment_.root); !room.ok()) {
    // Another node may have the room.
    Fail(absl::IsResourceExhausted(room) ? graft::v1::REASON_DISK_FULL
                                         : graft::v1::REASON_FIELD_INVALID,
         std::string(room.message()), absl::IsResourceExhausted(room));
    return;
  }
  StartStaging();
}

AttemptRunner::~AttemptRunner() {
  *alive_ = false;
  if (deadline_timer_ != 0) environment_.loop.Cancel(deadline_timer_);
  KillRanks();
  CleanUp();
}

std::string AttemptRunner::Folder() const { return AttemptFolder(environment_, desired_); }

bool AttemptRunner::IsLeader() const {
  return std::any_of(desired_.local_ranks().begin(), desired_.local_ranks().end(),
                     [](const v1::LocalRank& local) { return local.rank() == 0; });
}

bool AttemptRunner::over() const {
  return report_.state() == v1::ActualAttempt::STATE_ENDED ||
         report_.state() == v1::ActualAttempt::STATE_FAILED;
}

void AttemptRunner::SetState(State state) {
  if (report_.state() == state) return;
  report_.set_state(state);
  environment_.on_changed();
}

void AttemptRunner::Fail(graft::v1::Reason reason, std::string message, bool retryable) {
  if (over()) return;
  LOG_WARNING("attempt failed", {{"attempt", desired_.attempt()}, {"reason", message}});
  report_.set_reason(reason);
  report_.set_message(std::move(message));
  report_.set_retryable(retryable);
  KillRanks();
  pending_uploads_.clear();
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

void AttemptRunner::StartStaging() {
  SetState(v1::ActualAttempt::STATE_STAGING);
  report_.mutable_progress()->set_phase("staging");
  staging_ = StageInputs(
      environment_, desired_,
      [this, alive = alive_](double share) {
        if (*alive) report_.mutable_progress()->set_phase_fraction(share);
      },
      [this](absl::Status status, std::map<std::string, std::string> folders) {
        OnStaged(std::move(status), std::move(folders));
      });
}

void AttemptRunner::OnStaged(absl::Status status, std::map<std::string, std::string> folders) {
  if (over() || report_.state() == v1::ActualAttempt::STATE_STOPPING) return;
  if (!status.ok()) {
    const bool full = absl::IsResourceExhausted(status);
    Fail(full ? graft::v1::REASON_DISK_FULL : graft::v1::REASON_DEPENDENCY_UNAVAILABLE,
         std::string(status.message()), true);
    return;
  }
  inputs_ = std::move(folders);
  report_.mutable_progress()->clear_phase();
  report_.mutable_progress()->clear_phase_fraction();
  if (desired_.rank_table_size() > 1 && IsLeader()) {
    if (const absl::Status opened = OpenRendezvous(); !opened.ok()) {
      Fail(graft::v1::REASON_RANK_FAILED, std::string(opened.message()), true);
      return;
    }
  }
  SetState(v1::ActualAttempt::STATE_STAGED);
  TryStartRanks();
}

absl::Status AttemptRunner::OpenRendezvous() {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot make a socket for the rendezvous");
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  if (inet_pton(AF_INET, environment_.fabric_address.c_str(), &address.sin_addr) != 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the fabric address \"", environment_.fabric_address, "\" is no IPv4 address"));
  }
  socklen_t length = sizeof(address);
  if (bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      listen(fd.get(), SOMAXCONN) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return ErrnoStatus(errno, "cannot listen for the rendezvous");
  }
  rendezvous_ = std::move(fd);
  report_.set_rendezvous_address(
      absl::StrCat(environment_.fabric_address, ":", ntohs(address.sin_port)));
  return absl::OkStatus();
}

void AttemptRunner::TryStartRanks() {
  if (report_.state() != v1::ActualAttempt::STATE_STAGED) return;
  if (desired_.rank_table_size() > 1 && desired_.rendezvous_address().empty()) return;
  SetState(v1::ActualAttempt::STATE_STARTING);
  for (const v1::LocalRank& local : desired_.local_ranks()) {
    if (const absl::Status started = StartRank(local); !started.ok()) {
      Fail(graft::v1::REASON_RANK_FAILED, std::string(started.message()), true);
      return;
    }
  }
}

absl::StatusOr<std::string> AttemptRunner::RunFileFor(const v1::LocalRank& local) {
  GRAFT_ASSIGN_OR_RETURN(trainer::RunConfig config, RunConfigFor(desired_, inputs_));
  config.output.folder = JoinPath(Folder(), "output");
  config.checkpoint.folder = JoinPath(Folder(), "checkpoints");
  config.parallelism.rank = local.rank();
  config.parallelism.rendezvous = desired_.rendezvous_address();
  config.parallelism.address = environment_.fabric_address;
  config.parallelism.attempt = desired_.attempt();
  if (config.threads == 0) config.threads = ThreadsPerRank(environment_);
  config.events_fd = 1;
  const std::string path = JoinPath(Folder(), absl::StrCat("run-", local.rank(), ".json"));
  GRAFT_RETURN_IF_ERROR(MakeDirectories(Folder(), 0700));
  GRAFT_RETURN_IF_ERROR(
      WriteFileAtomically(path, trainer::FormatRunConfig(config), {.mode = 0600, .sync = false}));
  return path;
}

RankCommand AttemptRunner::CommandFor(const v1::LocalRank& local,
                                      const std::string& run_file) const {
  RankCommand command = TrainerCommand(environment_, desired_, local);
  command.arguments = {"--run", run_file};
  if (!desired_.attempt_secret().empty() && desired_.rank_table_size() > 1) {
    command.environment.emplace_back("GRAFT_ATTEMPT_SECRET", ToHex(desired_.attempt_secret()));
  }
  if (local.rank() == 0 && rendezvous_.valid()) {
    command.inherited_fd = rendezvous_.get();
    command.inherited_fd_number = kRendezvousFd;
    command.environment.emplace_back("GRAFT_RENDEZVOUS_FD", absl::StrCat(kRendezvousFd));
  }
  return command;
}

absl::Status AttemptRunner::StartRank(const v1::LocalRank& local) {
  GRAFT_ASSIGN_OR_RETURN(const std::string run_file, RunFileFor(local));
  const int number = local.rank();
  Loop& loop = environment_.loop;
  const auto post = [this, alive = alive_, &loop](std::function<void()> task) {
    const absl::Status posted = loop.Post([alive, task = std::move(task)] {
      if (*alive) task();
    });
    if (!posted.ok()) LOG_WARNING("a rank's report was dropped", {{"reason", posted.message()}});
  };
  GRAFT_ASSIGN_OR_RETURN(
      ranks_[number].process,
      RankProcess::Start(
          CommandFor(local, run_file),
          {.on_event =
               [this, number, post](std::string line) {
                 post([this, number, line = std::move(line)] { OnRankLine(number, line); });
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

void AttemptRunner::OnRankLog(int rank, std::string line) {
  Rank& state = ranks_[rank];
  state.last_words.push_back(line);
  if (state.last_words.size() > kLastWords) state.last_words.erase(state.last_words.begin());
  v1::AgentEvent event;
  graft::v1::LogEntry& entry = *event.mutable_log();
  ToProto(environment_.clock.WallNow(), *entry.mutable_time());
  entry.set_rank(rank);
  entry.set_severity(graft::v1::LogEntry::SEVERITY_INFO);
  entry.set_text(std::move(line));
  environment_.relay.Append({desired_.attempt(), rank}, event);
}

void AttemptRunner::OnEvent(int rank, const trainer::Event& event, const std::string& line) {
  Rank& state = ranks_[rank];
  const int64_t now_ms = absl::ToUnixMillis(environment_.clock.WallNow());
  graft::v1::JobProgress& progress = *report_.mutable_progress();
  v1::AgentEvent out;
  if (const auto* run = std::get_if<trainer::RunEvent>(&event)) {
    progress.set_steps_total(run->total_steps);
    progress.set_steps_done(run->first_step);
    validation_rows_ = run->validation_rows;
    SetState(v1::ActualAttempt::STATE_RUNNING);
  } else if (const auto* step = std::get_if<trainer::StepEvent>(&event)) {
    state.step = step->step;
    *out.mutable_metrics() = StepRow(*step, now_ms);
    environment_.relay.Append({desired_.attempt(), rank}, out);
    // Every rank tells of the same steps; the first one here speaks for the attempt.
    if (rank != ranks_.begin()->first) return;
    progress.set_steps_done(step->step);
    progress.set_steps_total(step->total_steps);
    progress.set_epoch(step->epoch);
    progress.set_train_loss(step->loss);
    progress.set_tokens_per_second(step->tokens_per_second);
    progress.set_supervised_tokens(progress.supervised_tokens() + step->supervised_tokens);
    ToProto(environment_.clock.WallNow(), *progress.mutable_last_step_time());
    const double left = static_cast<double>(step->total_steps - step->step) * step->seconds;
    progress.mutable_eta()->set_seconds(static_cast<int64_t>(left));
    environment_.on_progress();
    return;
  } else if (const auto* eval = std::get_if<trainer::EvalEvent>(&event)) {
    progress.set_val_loss(eval->loss);
    if (eval->step == 0) {
      base_loss_ = eval->loss;
    } else if (eval->best || !progress.has_best_val_loss()) {
      progress.set_best_val_loss(eval->loss);
      progress.set_best_step(eval->step);
    }
    *out.mutable_metrics() = EvalRow(*eval, now_ms);
    environment_.relay.Append({desired_.attempt(), rank}, out);
  } else if (const auto* checkpoint = std::get_if<trainer::CheckpointEvent>(&event)) {
    QueueUpload({.kind = v1::Upload::KIND_CHECKPOINT,
                 .folder = checkpoint->folder,
                 .step = checkpoint->step,
                 .val_loss = checkpoint->validation_loss,
                 .best = checkpoint->best});
    report_.set_checkpoint_request(sent_checkpoint_request_);
  } else if (const auto* done = std::get_if<trainer::DoneEvent>(&event)) {
    state.done = true;
    state.done_event = *done;
  } else if (const auto* error = std::get_if<trainer::ErrorEvent>(&event)) {
    state.failed = true;
    state.error_event = *error;
  }
  out.set_life_json(line);
  environment_.relay.Append({desired_.attempt(), rank}, out);
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
    if (desired_.rank_table_size() > 1) {
      message = absl::StrCat("rank ", rank, ", step ", state.error_event.step, ": ", message);
    }
    Fail(failure.reason, std::move(message), failure.retryable);
    return;
  }
  const bool stopping = desired_.goal() == v1::DesiredAttempt::GOAL_STOP;
  if (!state.done && !stopping) {
    const std::string where =
        desired_.rank_table_size() > 1 ? absl::StrCat("rank ", rank) : "the trainer";
    const std::string words =
        state.last_words.empty() ? "" : absl::StrCat(": ", state.last_words.back());
    Fail(graft::v1::REASON_RANK_FAILED,
         absl::StrCat(where, " ", exit.Describe(), " after step ", state.step, words), true);
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
        QueueUpload({.kind = adapter ? v1::Upload::KIND_ADAPTER : v1::Upload::KIND_MODEL,
                     .folder = done.output_folder,
                     .step = done.step,
                     .val_loss = done.validation_loss});
        BeginReport(done);
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
  if (over() || !ranks_ended_ || uploading_ != nullptr || !pending_uploads_.empty() ||
      reporting_ != nullptr) {
    return;
  }
  SetState(v1::ActualAttempt::STATE_ENDED);
  environment_.relay.Close(desired_.attempt());
  CleanUp();
}

RankCommand AttemptRunner::GenerateCommand(const std::string& model,
                                           const std::string& adapter) const {
  RankCommand command = TrainerCommand(environment_, desired_, desired_.local_ranks(0));
  command.arguments = {"--generate", "--model", model, "--threads",
                       absl::StrCat(ThreadsPerRank(environment_))};
  if (!adapter.empty()) {
    command.arguments.insert(command.arguments.end(), {"--adapter", adapter});
  }
  return command;
}

void AttemptRunner::BeginReport(const trainer::DoneEvent& done) {
  absl::StatusOr<trainer::RunConfig> config = RunConfigFor(desired_, inputs_);
  if (!config.ok() || config->evaluation.report_rows <= 0 || validation_rows_ == 0) return;
  const bool adapter = FileExists(JoinPath(done.output_folder, "adapter_config.json"));
  ReportRequest request;
  request.base = GenerateCommand(config->model.path, "");
  request.tuned = adapter ? GenerateCommand(config->model.path, done.output_folder)
                          : GenerateCommand(done.output_folder, "");
  if (!config->dataset.chat_template.empty()) {
    const std::string path = JoinPath(Folder(), "chat_template.jinja");
    if (!WriteFileAtomically(path, config->dataset.chat_template, {.sync = false}).ok()) return;
    for (RankCommand* command : {&request.base, &request.tuned}) {
      command->arguments.insert(command->arguments.end(), {"--chat-template", path});
    }
  }
  request.report.title = absl::StrCat(
      "What ", desired_.attempt().substr(0, desired_.attempt().rfind("/attempts/")), " has learnt");
  request.report.base = config->model.name.empty() ? config->model.path : config->model.name;
  request.report.tuned = adapter ? "with the adapter of this job" : "the model of this job";
  request.report.loss_before = base_loss_;
  request.report.loss_after = done.validation_loss;
  request.config = *std::move(config);
  request.folder = JoinPath(Folder(), "report");
  report_.mutable_progress()->set_phase("comparing with the base on validation rows");
  reporting_ = std::make_unique<Background>(
      environment_.loop, [this, request](const CancelFlag& cancel) -> std::function<void()> {
        const absl::Status status = MakeReport(request, cancel);
        return [this, folder = request.folder, status] { OnReport(folder, status); };
      });
}

void AttemptRunner::OnReport(const std::string& folder, const absl::Status& status) {
  reporting_.reset();
  report_.mutable_progress()->clear_phase();
  if (over()) return;
  if (status.ok()) {
    QueueUpload({.kind = v1::Upload::KIND_REPORT, .folder = folder});
  } else {
    // A job is what it is with or without its report.
    LOG_WARNING("no report", {{"attempt", desired_.attempt()}, {"reason", status.message()}});
    OnRankLog(0, absl::StrCat("no before/after report: ", status.message()));
  }
  MaybeEnd();
}

void AttemptRunner::QueueUpload(PendingUpload upload) {
  // A checkpoint that nobody has fetched yet is superseded by the newer one.
  if (upload.kind == v1::Upload::KIND_CHECKPOINT) {
    // The one written at the end may be of the very step that an interval had just kept.
    if (upload.step == last_checkpoint_step_ && !upload.best) return;
    last_checkpoint_step_ = upload.step;
    pending_uploads_.erase(std::remove_if(pending_uploads_.begin(), pending_uploads_.end(),
                                          [](const PendingUpload& pending) {
                                            return pending.kind == v1::Upload::KIND_CHECKPOINT &&
                                                   !pending.best;
                                          }),
                           pending_uploads_.end());
  }
  pending_uploads_.push_back(std::move(upload));
  StartNextUpload();
}

void AttemptRunner::StartNextUpload() {
  if (uploading_ != nullptr || over()) return;
  for (size_t i = 0; i < pending_uploads_.size(); ++i) {
    const PendingUpload what = pending_uploads_[i];
    const auto grant =
        std::find_if(desired_.upload_grants().begin(), desired_.upload_grants().end(),
                     [&](const v1::UploadGrant& candidate) {
                       return candidate.kind() == what.kind && !candidate.published() &&
                              std::find(used_sessions_.begin(), used_sessions_.end(),
                                        candidate.session()) == used_sessions_.end();
                     });
    // The scheduler gives another session once it has seen this one used.
    if (grant == desired_.upload_grants().end()) continue;
    pending_uploads_.erase(pending_uploads_.begin() + static_cast<ptrdiff_t>(i));
    used_sessions_.push_back(grant->session());
    if (ranks_ended_) SetState(v1::ActualAttempt::STATE_UPLOADING);
    uploading_ = std::make_unique<Background>(
        environment_.loop,
        [this, what, grant = *grant,
         &files = environment_.files](const CancelFlag& cancel) -> std::function<void()> {
          absl::StatusOr<int64_t> bytes =
              files.Upload(what.folder, grant.session(), grant.token(), cancel);
          return [this, what, grant, bytes] { OnUploaded(what, grant, bytes); };
        });
    return;
  }
  if (!ranks_ended_ || pending_uploads_.empty()) return;
  LOG_INFO("an upload waits for a session",
           {{"attempt", desired_.attempt()},
            {"kind", v1::Upload::Kind_Name(pending_uploads_[0].kind)},
            {"sessions", desired_.upload_grants_size()},
            {"used", used_sessions_.size()}});
  SetState(v1::ActualAttempt::STATE_UPLOADING);
}

void AttemptRunner::OnUploaded(const PendingUpload& what, const v1::UploadGrant& grant,
                               absl::StatusOr<int64_t> bytes) {
  uploading_.reset();
  if (over()) return;
  if (!bytes.ok()) {
    const std::string message =
        absl::StrCat("cannot upload ", v1::Upload::Kind_Name(what.kind), " of step ", what.step,
                     ": ", bytes.status().message());
    // A checkpoint that did not get through is followed by another; an output is not.
    if (what.kind != v1::Upload::KIND_REPORT &&
        (what.kind != v1::Upload::KIND_CHECKPOINT ||
         desired_.goal() == v1::DesiredAttempt::GOAL_CHECKPOINT_AND_STOP)) {
      Fail(absl::IsResourceExhausted(bytes.status()) ? graft::v1::REASON_DISK_FULL
                                                     : graft::v1::REASON_DEPENDENCY_UNAVAILABLE,
           message, true);
      return;
    }
    LOG_WARNING("upload failed", {{"attempt", desired_.attempt()}, {"reason", message}});
  } else {
    v1::Upload& upload = *report_.add_uploads();
    upload.set_session(grant.session());
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
    SendToRanks(std::string(kCheckpointLine));
  }
  StartNextUpload();
}

void AttemptRunner::ApplyGoal() {
  const bool started = report_.state() == v1::ActualAttempt::STATE_STARTING ||
                       report_.state() == v1::ActualAttempt::STATE_RUNNING;
  switch (desired_.goal()) {
    case v1::DesiredAttempt::GOAL_STOP:
      KillRanks();
      pending_uploads_.clear();
      if (ranks_.empty() || ranks_ended_) {
        SetState(v1::ActualAttempt::STATE_ENDED);
        CleanUp();
      } else {
        SetState(v1::ActualAttempt::STATE_STOPPING);
      }
      break;
    case v1::DesiredAttempt::GOAL_CHECKPOINT_AND_STOP:
      if (!started && !ranks_ended_) {
        // Nothing has been trained yet: there is nothing to keep.
        SetState(v1::ActualAttempt::STATE_ENDED);
        CleanUp();
      } else if (reporting_ != nullptr) {
        reporting_.reset();  // whoever wants the devices does not wait for it
        MaybeEnd();
      } else if (started && !stop_sent_) {
        stop_sent_ = true;
        SendToRanks(std::string(kPauseLine));
        SetState(v1::ActualAttempt::STATE_STOPPING);
        ArmDeadline();
      }
      break;
    case v1::DesiredAttempt::GOAL_FINISH:
      if (started && !finish_sent_) {
        finish_sent_ = true;
        SendToRanks(std::string(kFinishLine));
        ArmDeadline();
      }
      break;
    default:
      break;
  }
}

void AttemptRunner::ArmDeadline() {
  absl::Duration grace = kStopGrace;
  if (desired_.has_deadline())
    grace = FromProto(desired_.deadline()) - environment_.clock.WallNow();
  if (deadline_timer_ != 0) environment_.loop.Cancel(deadline_timer_);
  deadline_timer_ =
      environment_.loop.RunAt(environment_.clock.Now() + grace, [this, alive = alive_] {
        if (!*alive || ranks_ended_ || over()) return;
        Fail(graft::v1::REASON_TIME_LIMIT, "the ranks did not leave by their deadline", true);
      });
}

void AttemptRunner::SendToRanks(const std::string& line) {
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
  staging_.reset();
  uploading_.reset();
  reporting_.reset();
  for (auto& [number, rank] : ranks_) rank.process.reset();
  environment_.files.Release(desired_.attempt());
  environment_.relay.Close(desired_.attempt());
  rendezvous_.reset();
  if (const absl::Status removed = RemoveTree(Folder()); !removed.ok()) {
    LOG_WARNING("an attempt's folder could not be removed", {{"reason", removed.message()}});
  }
}

}  // namespace graft::agent
