#include "worker/agent/commands.h"

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace graft::agent {
namespace {

constexpr char kCheckpointInput[] = "checkpoint";  // what an attempt goes on from

}  // namespace

absl::StatusOr<RankCommand> TrainCommand(const RunnerEnvironment& environment,
                                         const v1::DesiredAttempt& desired,
                                         const std::map<std::string, std::string>& inputs,
                                         const v1::LocalRank& local) {
  const std::string folder = AttemptFolder(environment, desired);
  GRAFT_ASSIGN_OR_RETURN(trainer::RunConfig config, RunConfigFor(desired, inputs));
  if (const auto checkpoint = inputs.find(kCheckpointInput); checkpoint != inputs.end()) {
    config.resume_from = checkpoint->second;
  }
  config.output.folder = JoinPath(folder, "output");
  config.checkpoint.folder = JoinPath(folder, "checkpoints");
  config.dataset.token_cache = TokenCacheOf(environment, desired);
  config.dataset.skipped_rows = JoinPath(folder, "report/skipped");  // goes with the report
  config.parallelism.rank = local.rank();
  config.parallelism.rendezvous = desired.rendezvous_address();
  config.parallelism.address = environment.fabric_address;
  config.parallelism.attempt = desired.attempt();
  if (config.threads == 0) config.threads = ThreadsPerRank(environment);
  config.events_fd = 1;
  const std::string path = JoinPath(folder, absl::StrCat("run-", local.rank(), ".json"));
  GRAFT_RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  GRAFT_RETURN_IF_ERROR(
      WriteFileAtomically(path, trainer::FormatRunConfig(config), {.mode = 0600, .sync = false}));
  std::vector<std::string> readable;
  for (const auto& [key, input] : inputs) readable.push_back(input);
  GRAFT_ASSIGN_OR_RETURN(RankCommand command,
                         TrainerCommand(environment, desired, local, std::move(readable)));
  command.arguments = {"--run", path};
  if (!desired.attempt_secret().empty() && desired.rank_table_size() > 1) {
    command.environment.emplace_back("GRAFT_ATTEMPT_SECRET", ToHex(desired.attempt_secret()));
  }
  return command;
}

absl::StatusOr<RankCommand> GenerateCommand(const RunnerEnvironment& environment,
                                            const v1::DesiredAttempt& desired,
                                            const GenerateTarget& target) {
  const v1::LocalRank local =
      desired.local_ranks().empty() ? v1::LocalRank() : desired.local_ranks(0);
  std::vector<std::string> readable = {target.model};
  if (!target.adapter.empty()) readable.push_back(target.adapter);
  GRAFT_ASSIGN_OR_RETURN(RankCommand command,
                         TrainerCommand(environment, desired, local, std::move(readable)));
  command.arguments = {"--generate", "--model", target.model, "--threads",
                       absl::StrCat(ThreadsPerRank(environment))};
  const auto add = [&command](const char* flag, const std::string& value) {
    command.arguments.insert(command.arguments.end(), {flag, value});
  };
  if (!target.adapter.empty()) add("--adapter", target.adapter);
  if (!target.chat_template.empty()) {
    const std::string path = JoinPath(AttemptFolder(environment, desired), "chat_template.jinja");
    GRAFT_RETURN_IF_ERROR(
        WriteFileAtomically(path, target.chat_template, {.mode = 0600, .sync = false}));
    add("--chat-template", path);
  }
  return command;
}

}  // namespace graft::agent
