#include "worker/agent/validation_runner.h"

#include <signal.h>

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/agent/trainer_lines.h"
#include "worker/trainer/events.h"

namespace graft::agent {
namespace {

// A million rows of 500 tokens take about 10 minutes on one core.
constexpr absl::Duration kLongest = absl::Hours(1);
// Address space: rows and tokens of the largest set that a node should read, and mapped weights.
constexpr int64_t kMaxAddressSpace = 256LL << 30;

}  // namespace

v1::ValidationReport ToReport(const trainer::Findings& findings) {
  v1::ValidationReport report;
  report.set_training_rows(findings.training_rows);
  report.set_validation_rows(findings.validation_rows);
  report.set_tokens(findings.tokens);
  report.set_supervised_tokens(findings.supervised_tokens);
  report.set_truncated_rows(findings.truncated_rows);
  report.set_skipped_rows(findings.skipped_rows);
  report.set_empty_rows(findings.empty_rows);
  report.set_longest_row(findings.longest_row);
  report.set_steps(findings.steps);
  graft::v1::DatasetSection::Format format = graft::v1::DatasetSection::FORMAT_UNSPECIFIED;
  graft::v1::DatasetSection::Format_Parse(
      absl::StrCat("FORMAT_", absl::AsciiStrToUpper(findings.format)), &format);
  report.set_row_format(format);
  if (findings.truncated_rows > 0) {
    graft::v1::Warning& warning = *report.add_warnings();
    warning.set_code("ROWS_TRUNCATED");
    warning.set_field("spec.batch.max_seq_length");
    warning.set_message(
        absl::StrCat(findings.truncated_rows, " of ", findings.training_rows, " rows are cut at ",
                     findings.max_seq_length, " tokens (", findings.truncated_tokens,
                     " tokens are lost; the longest row has ", findings.longest_row, ")"));
    warning.set_explanation(
        "What is cut is not learnt; a greater max_seq_length takes more memory.");
  }
  if (findings.skipped_rows > 0) {
    graft::v1::Warning& warning = *report.add_warnings();
    warning.set_code("ROWS_SKIPPED");
    warning.set_field("spec.dataset.on_bad_row");
    warning.set_message(
        absl::StrCat(findings.skipped_rows, " rows cannot be used and are left out"));
    warning.set_explanation("They are kept beside the job's report, with what is wrong with each.");
  }
  if (findings.empty_rows > 0) {
    graft::v1::Warning& warning = *report.add_warnings();
    warning.set_code("ROWS_EMPTY");
    warning.set_field("spec.batch.max_seq_length");
    warning.set_message(absl::StrCat(findings.empty_rows, " rows are left out: the cut at ",
                                     findings.max_seq_length,
                                     " tokens keeps nothing of their answers"));
    warning.set_explanation("Shorten the prompts of these rows, or set a greater max_seq_length.");
  }
  for (const trainer::FindingsWarning& found : findings.warnings) {
    graft::v1::Warning& warning = *report.add_warnings();
    warning.set_code(absl::AsciiStrToUpper(found.code));
    warning.set_field("spec.dataset");
    warning.set_message(found.message);
  }
  return report;
}

ValidationRunner::ValidationRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired)
    : StagedRunner(environment, std::move(desired)) {
  if (Wanted()) Stage();
}

ValidationRunner::~ValidationRunner() { CleanUp(); }

void ValidationRunner::Fail(graft::v1::Reason reason, const std::string& message, bool retryable) {
  if (over()) return;
  SetFailure(reason, Readable(message), retryable);
  CleanUp();
  SetState(v1::ActualAttempt::STATE_FAILED);
}

std::string ValidationRunner::Readable(const std::string& message) const {
  std::vector<std::pair<std::string, std::string>> names;
  for (const v1::Input& input : desired_.inputs()) {
    const auto folder = folders_.find(input.key());
    if (folder != folders_.end()) names.emplace_back(folder->second, input.version());
  }
  return absl::StrReplaceAll(message, names);
}

void ValidationRunner::Update(const v1::DesiredAttempt& desired) {
  desired_ = desired;
  if (over() || desired_.goal() == v1::DesiredAttempt::GOAL_RUN) return;
  CleanUp();
  SetState(v1::ActualAttempt::STATE_ENDED);
}

void ValidationRunner::OnStaged(absl::Status status, std::map<std::string, std::string> folders) {
  folders_ = std::move(folders);
  if (!status.ok()) return Fail(FetchReason(status), std::string(status.message()), true);
  report_.mutable_progress()->set_phase("reading rows");
  if (status = Begin(); !status.ok()) {
    return Fail(graft::v1::REASON_RANK_FAILED, std::string(status.message()), true);
  }
  SetState(v1::ActualAttempt::STATE_RUNNING);
}

absl::StatusOr<RankCommand> ValidationRunner::Command() const {
  const std::string folder = Folder();
  GRAFT_RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  GRAFT_ASSIGN_OR_RETURN(trainer::RunConfig config, RunConfigFor(desired_, folders_));
  config.dataset.token_cache = TokenCacheOf(environment_, desired_);
  const std::string path = JoinPath(folder, "run.json");
  GRAFT_RETURN_IF_ERROR(
      WriteFileAtomically(path, trainer::FormatRunConfig(config), {.mode = 0600, .sync = false}));
  std::vector<std::string> readable;
  for (const auto& [key, input] : folders_) readable.push_back(input);
  GRAFT_ASSIGN_OR_RETURN(RankCommand command, TrainerCommand(environment_, desired_,
                                                             v1::LocalRank(), std::move(readable)));
  command.program = environment_.validator_program;
  command.arguments = {"--validate", path};
  command.memory_limit_bytes = kMaxAddressSpace;
  return command;
}

absl::Status ValidationRunner::Begin() {
  GRAFT_ASSIGN_OR_RETURN(const RankCommand command, Command());
  const auto post = Poster();
  GRAFT_ASSIGN_OR_RETURN(
      process_,
      RankProcess::Start(
          command,
          {.on_event =
               [this, post](std::string line) {
                 post([this, line = std::move(line)] { OnLine(line); });
               },
           .on_log =
               [this, post](std::string line) {
                 post([this, line = std::move(line)] { last_words_ = line; });
               },
           .on_exit = [this, post](RankExit exit) { post([this, exit] { OnExit(exit); }); }}));
  deadline_ = RunAfter(kLongest, [this] {
    deadline_ = 0;
    Fail(graft::v1::REASON_TIME_LIMIT,
         absl::StrCat("its rows were not read within ", absl::FormatDuration(kLongest)), false);
  });
  return absl::OkStatus();
}

void ValidationRunner::OnLine(const std::string& line) {
  if (over()) return;
  if (const auto findings = trainer::ParseFindings(line); findings.ok()) {
    *report_.mutable_validation() = ToReport(*findings);
    return;
  }
  const absl::StatusOr<trainer::Event> event = trainer::ParseEvent(line);
  if (!event.ok()) return;
  if (const auto* error = std::get_if<trainer::ErrorEvent>(&*event)) {
    const Failure failure = FailureOf(error->code);
    Fail(failure.reason, error->message, failure.retryable);
  }
}

void ValidationRunner::OnExit(RankExit exit) {
  if (over()) return;
  if (!report_.has_validation()) {
    const bool killed = exit.signal != 0;
    return Fail(killed ? graft::v1::REASON_OUT_OF_MEMORY : graft::v1::REASON_RANK_FAILED,
                absl::StrCat("reading the rows ", exit.Describe(), last_words_.empty() ? "" : ": ",
                             last_words_),
                true);
  }
  CleanUp();
  SetState(v1::ActualAttempt::STATE_ENDED);
}

void ValidationRunner::CleanUp() {
  StopStaging();
  if (deadline_ != 0) environment_.loop.Cancel(deadline_);
  deadline_ = 0;
  process_.reset();
  ReleaseFiles();
}

}  // namespace graft::agent
