// graft-fake-trainer: speaks the trainer's protocol and computes nothing. It lets a client's tests
// see the whole life of a job in seconds; every answer about such a job says that the trainer was
// fake.
//
//   graft-fake-trainer --run run.json        simulates steps
//   graft-fake-trainer --validate run.json   finds nothing wrong with the rows
//   graft-fake-trainer --generate ...        answers each request with its own words
//   (fake_generate.h)
//
// GRAFT_FAKE_STEP_SECONDS   seconds a step takes (default 0.01)
// GRAFT_FAKE_TOKEN_SECONDS  seconds a token of an answer takes (default 0)
// GRAFT_FAKE_FAIL_AT        "STEP=CODE": the run fails at that step with that error code, once per
//                           checkpoint folder, so that a restart goes on
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "worker/agent/fake_generate.h"
#include "worker/trainer/control_words.h"
#include "worker/trainer/events.h"
#include "worker/trainer/findings.h"
#include "worker/trainer/run_config.h"
#include "worker/trainer/training_data.h"

namespace graft::agent {
namespace {

using trainer::DoneReason;
using trainer::ErrorCode;

std::atomic<bool> terminated{false};

double UnixSeconds() { return absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch()); }

// Files stand for their rows: none is opened.
int64_t ValidationFiles(const trainer::RunConfig& config) {
  trainer::DatasetConfig dataset = config.dataset;
  return trainer::ExpandFolders(dataset).ok() ? static_cast<int64_t>(dataset.validation.size()) : 0;
}

// Finds nothing wrong.
int Validate(const trainer::RunConfig& config) {
  const trainer::Findings findings{
      .format = "chat", .training_rows = 1, .validation_rows = ValidationFiles(config)};
  std::cout << trainer::FormatFindings(findings) << std::endl;
  return 0;
}

class Run {
 public:
  explicit Run(trainer::RunConfig config) : config_(std::move(config)) {
    total_ = config_.schedule.max_steps > 0 ? config_.schedule.max_steps : 100;
    double seconds = 0;
    const char* given = std::getenv("GRAFT_FAKE_STEP_SECONDS");
    if (given != nullptr && absl::SimpleAtod(given, &seconds)) step_seconds_ = seconds;
    ReadFailure();
  }

  int Execute() {
    first_ = ResumedStep();
    Emit(trainer::RunEvent{.device = "fake",
                           .architecture = "fake",
                           .validation_rows = ValidationFiles(config_),
                           .total_steps = total_,
                           .first_step = first_});
    for (int64_t step = first_ + 1; step <= total_; ++step) {
      absl::SleepFor(absl::Seconds(step_seconds_));
      if (terminated) return Finish(step - 1, DoneReason::kTerminated);
      for (const std::string& word : ReadWords()) {
        if (word == trainer::kPauseWord) return Finish(step - 1, DoneReason::kPaused);
        if (word == trainer::kFinishWord || word == trainer::kFinishWithBestWord) {
          return Finish(step - 1, DoneReason::kCompleted);
        }
        if (word == trainer::kCheckpointWord) Checkpoint(step - 1);
      }
      if (step == fail_step_ && Arm()) return Fail(step);
      Emit(trainer::StepEvent{.step = step,
                              .total_steps = total_,
                              .epoch = static_cast<double>(step) / static_cast<double>(total_),
                              .loss = LossAt(step),
                              .grad_norm = 1,
                              .learning_rate = config_.schedule.learning_rate,
                              .tokens = 1000,
                              .supervised_tokens = 500,
                              .tokens_per_second = 1000 / std::max(step_seconds_, 1e-6),
                              .seconds = step_seconds_});
      if (config_.checkpoint.interval > 0 && step % config_.checkpoint.interval == 0) {
        Checkpoint(step);
      }
    }
    return Finish(total_, DoneReason::kCompleted);
  }

 private:
  void Emit(const trainer::Event& event) {
    const std::string line = trainer::FormatEvent(event, UnixSeconds()) + "\n";
    const int fd = static_cast<int>(config_.events_fd);
    if (write(fd, line.data(), line.size()) < 0) terminated = true;  // Nobody listens any more.
  }

  // A curve that falls, the same for the same seed.
  double LossAt(int64_t step) const {
    const double wobble = std::sin(static_cast<double>(step * 37 + config_.seed % 1000)) * 0.02;
    return 0.5 + 2.5 * std::exp(-4.0 * static_cast<double>(step) / static_cast<double>(total_)) +
           wobble;
  }

  void ReadFailure() {
    const char* given = std::getenv("GRAFT_FAKE_FAIL_AT");
    if (given == nullptr) return;
    const std::pair<std::string, std::string> parts =
        absl::StrSplit(given, absl::MaxSplits('=', 1));
    if (!absl::SimpleAtoi(parts.first, &fail_step_)) return;
    for (const auto& [code, name] : trainer::EnumNames<ErrorCode>::Names()) {
      if (parts.second == name) fail_code_ = code;
    }
  }

  // Whether this failure has not struck this run before.
  bool Arm() {
    if (config_.checkpoint.folder.empty()) return true;
    const std::string mark = JoinPath(config_.checkpoint.folder, "failed-once");
    if (FileExists(mark)) return false;
    return MakeDirectories(config_.checkpoint.folder).ok() && WriteFileAtomically(mark, "").ok();
  }

  int64_t ResumedStep() const {
    if (config_.resume_from.empty()) return 0;
    const absl::StatusOr<std::string> text = ReadFile(JoinPath(config_.resume_from, "fake.json"));
    if (!text.ok()) return 0;
    const absl::StatusOr<Json> state = Json::Parse(*text);
    return state.ok() ? state->GetInt("step") : 0;
  }

  // The lines on standard input that are there.
  std::vector<std::string> ReadWords() {
    pollfd waiting = {.fd = STDIN_FILENO, .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, 0) <= 0) return {};
    char buffer[4096];
    const ssize_t got = read(STDIN_FILENO, buffer, sizeof(buffer));
    if (got <= 0) return {};
    return absl::StrSplit(absl::string_view(buffer, static_cast<size_t>(got)), '\n');
  }

  void Checkpoint(int64_t step) {
    if (config_.checkpoint.folder.empty()) return;
    checkpoint_ = JoinPath(config_.checkpoint.folder, absl::StrCat("step-", step));
    if (config_.parallelism.rank != 0) return;  // the leader's is uploaded, and must not change
    Json state;
    state.Set("step", step).Set("fake", true);
    absl::Status status = MakeDirectories(checkpoint_);
    if (status.ok()) status = WriteFileAtomically(JoinPath(checkpoint_, "fake.json"), state.Dump());
    if (!status.ok()) {
      Emit(trainer::WarningEvent{
          .code = "CHECKPOINT_FAILED", .message = status.ToString(), .step = step});
      return;
    }
    Emit(trainer::CheckpointEvent{
        .step = step, .folder = checkpoint_, .bytes = 32, .loss = LossAt(step)});
  }

  int Fail(int64_t step) {
    Emit(trainer::WarningEvent{
        .code = "FAKE_FAILURE", .message = "the run is about to fail, as asked for", .step = step});
    Emit(trainer::ErrorEvent{.code = fail_code_,
                             .message = "the fake trainer was told to fail here",
                             .hint = "unset GRAFT_FAKE_FAIL_AT",
                             .step = step});
    return 1;
  }

  int Finish(int64_t step, DoneReason reason) {
    Checkpoint(step);
    trainer::DoneEvent done{
        .reason = reason, .step = step, .loss = LossAt(step), .checkpoint_folder = checkpoint_};
    if (reason == DoneReason::kCompleted && config_.parallelism.rank == 0 &&
        !config_.output.folder.empty()) {
      Json note;
      note.Set("fake_trainer", true).Set("peft_type", "LORA").Set("r", config_.tuning.rank);
      absl::Status status = MakeDirectories(config_.output.folder);
      if (status.ok()) {
        status = WriteFileAtomically(JoinPath(config_.output.folder, "adapter_config.json"),
                                     note.Dump(2));
      }
      if (!status.ok()) {
        Emit(trainer::ErrorEvent{
            .code = ErrorCode::kStorage, .message = status.ToString(), .step = step});
        return 1;
      }
      done.output_folder = config_.output.folder;
    }
    Emit(done);
    return 0;
  }

  const trainer::RunConfig config_;
  double step_seconds_ = 0.01;
  int64_t total_ = 0;
  int64_t first_ = 0;
  int64_t fail_step_ = -1;
  ErrorCode fail_code_ = ErrorCode::kInternal;
  std::string checkpoint_;
};

int Main(int argc, char** argv) {
  signal(SIGTERM, [](int) { terminated = true; });
  signal(SIGPIPE, SIG_IGN);
  std::string run;
  bool validate = false;
  for (int i = 1; i < argc; ++i) {
    if (absl::string_view(argv[i]) == "--generate") return FakeGenerate();
    const absl::string_view word = argv[i];
    validate |= word == "--validate";
    if ((word == "--run" || word == "--validate") && i + 1 < argc) run = argv[++i];
  }
  if (run.empty()) {
    std::cerr << "usage: graft-fake-trainer --run run.json | --generate\n";
    return 2;
  }
  const absl::StatusOr<std::string> text = ReadFile(run);
  if (!text.ok()) {
    std::cerr << text.status().message() << "\n";
    return 2;
  }
  absl::StatusOr<trainer::RunConfig> config = trainer::ParseRunConfig(*text);
  if (!config.ok()) {
    std::cerr << config.status().message() << "\n";
    return 2;
  }
  return validate ? Validate(*config) : Run(*std::move(config)).Execute();
}

}  // namespace
}  // namespace graft::agent

int main(int argc, char** argv) { return graft::agent::Main(argc, argv); }
