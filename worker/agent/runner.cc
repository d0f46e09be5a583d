#include "worker/agent/runner.h"

#include <sys/statvfs.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "worker/agent/attempt_runner.h"
#include "worker/agent/inference_runner.h"
#include "worker/agent/validation_runner.h"

namespace graft::agent {
namespace {

// Says that the attempt is over, from the beginning.
class RefusedRunner final : public Runner {
 public:
  explicit RefusedRunner(const v1::DesiredAttempt& desired) {
    report_.set_attempt(desired.attempt());
    report_.set_attempt_epoch(desired.attempt_epoch());
    report_.set_state(v1::ActualAttempt::STATE_FAILED);
    report_.set_reason(graft::v1::REASON_FEATURE_UNAVAILABLE);
    report_.set_message(absl::StrCat("this worker does not carry out ",
                                     v1::DesiredAttempt::Kind_Name(desired.kind())));
  }
  void Update(const v1::DesiredAttempt&) override {}
  v1::ActualAttempt Report() const override { return report_; }
  bool over() const override { return true; }

 private:
  v1::ActualAttempt report_;
};

}  // namespace

std::unique_ptr<Runner> MakeRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired) {
  switch (desired.kind()) {
    case v1::DesiredAttempt::KIND_TRAIN:
      return std::make_unique<AttemptRunner>(environment, std::move(desired));
    case v1::DesiredAttempt::KIND_GENERATE:
      return std::make_unique<InferenceRunner>(environment, std::move(desired));
    case v1::DesiredAttempt::KIND_VALIDATE:
      return std::make_unique<ValidationRunner>(environment, std::move(desired));
    default:
      environment.on_changed();
      return std::make_unique<RefusedRunner>(desired);
  }
}

std::string AttemptFolder(const RunnerEnvironment& environment, const v1::DesiredAttempt& desired) {
  return JoinPath(environment.root, absl::StrCat(Sha256::HexOf(desired.attempt()).substr(0, 16),
                                                 "-", desired.attempt_epoch()));
}

int64_t DiskFree(const std::string& folder) {
  struct statvfs info;
  if (statvfs(folder.c_str(), &info) != 0) return 0;
  return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
}

absl::Status CheckDisk(const v1::DesiredAttempt& desired, const std::string& folder) {
  GRAFT_ASSIGN_OR_RETURN(const trainer::RunConfig config, RunConfigFor(desired, {}));
  const double factor = config.tuning.kind == trainer::TuningKind::kLora ? 1.5 : 3;
  double base = 0;
  for (const v1::Input& input : desired.inputs()) {
    if (input.role() == v1::Input::ROLE_MODEL) base += static_cast<double>(input.size_bytes());
  }
  const auto free = static_cast<double>(DiskFree(folder));
  if (free >= factor * base) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "the disk of %s has %.2f GB free; this tuning wants %.1f times the base model's %.2f GB, "
      "which is %.2f GB",
      folder, free / 1e9, factor, base / 1e9, factor * base / 1e9));
}

std::unique_ptr<Background> StageInputs(
    RunnerEnvironment& environment, const v1::DesiredAttempt& desired,
    std::function<void(double)> on_share,
    std::function<void(absl::Status, std::map<std::string, std::string>)> done) {
  return std::make_unique<Background>(
      environment.loop,
      [inputs = desired.inputs(), token = desired.read_token(), holder = desired.attempt(),
       &files = environment.files, &loop = environment.loop, on_share = std::move(on_share),
       done = std::move(done)](const CancelFlag& cancel) -> std::function<void()> {
        std::map<std::string, std::string> folders;
        absl::Status status;
        int64_t total = 0, before = 0;
        for (const v1::Input& input : inputs) total += input.size_bytes();
        for (const v1::Input& input : inputs) {
          const auto on_progress = [&](const FileLink::Progress& progress) {
            const double share = total > 0 ? static_cast<double>(before + progress.bytes_done) /
                                                 static_cast<double>(total)
                                           : 0;
            // A lost progress report is no loss.
            (void)loop.Post([on_share, share] { on_share(std::min(1.0, share)); });
          };
          const absl::StatusOr<std::string> folder =
              files.Fetch(input, token, holder, cancel, on_progress);
          if (!folder.ok()) {
            status = absl::Status(
                folder.status().code(),
                absl::StrCat("cannot fetch ", input.version(), ": ", folder.status().message()));
            break;
          }
          before += input.size_bytes();
          folders[input.key()] = *folder;
        }
        return [done, status, folders = std::move(folders)] { done(status, folders); };
      });
}

absl::StatusOr<trainer::RunConfig> RunConfigFor(const v1::DesiredAttempt& desired,
                                                const std::map<std::string, std::string>& folders) {
  std::vector<std::pair<std::string, std::string>> replacements;
  for (const auto& [key, folder] : folders) {
    // Inside a JSON string: the path is quoted like every other text there.
    const std::string quoted = JsonQuote(folder);
    replacements.emplace_back(absl::StrCat("${inputs.", key, "}"),
                              quoted.substr(1, quoted.size() - 2));
  }
  return trainer::ParseRunConfig(absl::StrReplaceAll(desired.run_json(), replacements));
}

int ThreadsPerRank(const RunnerEnvironment& environment) {
  return std::max(1, environment.cores / std::max(1, environment.devices));
}

std::string TokenCacheOf(const RunnerEnvironment& environment, const v1::DesiredAttempt& desired) {
  const std::vector<absl::string_view> parts = absl::StrSplit(desired.attempt(), '/');
  return JoinPath(environment.token_cache, parts.size() > 1 ? parts[1] : "");
}

absl::StatusOr<RankCommand> TrainerCommand(const RunnerEnvironment& environment,
                                           const v1::DesiredAttempt& desired,
                                           const v1::LocalRank& local,
                                           std::vector<std::string> inputs) {
  const std::string folder = AttemptFolder(environment, desired);
  const std::string token_cache = TokenCacheOf(environment, desired);
  GRAFT_RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  GRAFT_RETURN_IF_ERROR(MakeDirectories(token_cache, 0700));
  RankCommand command{.program = environment.trainer_program,
                      .environment = {{"PATH", "/usr/bin:/bin"},
                                      {"HOME", folder},
                                      {"TMPDIR", folder},
                                      {"LANG", "C.UTF-8"}},
                      .working_folder = folder,
                      .without_network = environment.isolate && desired.rank_table_size() <= 1,
                      .cgroups = environment.cgroups,
                      .group_memory_bytes = environment.memory_per_device,
                      .nice = environment.nice};
  if (!environment.hidden_folders.empty()) {
    command.files = FileAccess{.hidden = environment.hidden_folders,
                               .readable = std::move(inputs),
                               .writable = {folder, token_cache}};
  }
  command.environment.emplace_back("CUDA_VISIBLE_DEVICES",
                                   environment.cuda ? absl::StrCat(local.device_index()) : "");
  if (!desired.traceparent().empty()) {
    command.environment.emplace_back("TRACEPARENT", desired.traceparent());
  }
  for (const auto& [key, value] : environment.rank_environment) {
    command.environment.emplace_back(key, value);
  }
  for (const auto& [key, value] : desired.environment()) {
    command.environment.emplace_back(key, value);
  }
  // What a simulated trainer is told by whoever tests with it.
  for (const char* name :
       {"GRAFT_FAKE_STEP_SECONDS", "GRAFT_FAKE_FAIL_AT", "GRAFT_FAKE_TOKEN_SECONDS"}) {
    if (const char* value = std::getenv(name)) command.environment.emplace_back(name, value);
  }
  return command;
}

}  // namespace graft::agent
