// What the agent does for one attempt, of whatever kind.
//
// Owned by the agent's loop; every method runs there. Destroying a runner ends what it runs at
// once.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/loop.h"
#include "graft/agent/v1/agent.pb.h"
#include "worker/agent/background.h"
#include "worker/agent/cgroup.h"
#include "worker/agent/event_relay.h"
#include "worker/agent/links.h"
#include "worker/agent/rank_process.h"
#include "worker/trainer/run_config.h"

namespace graft::agent {

// What every runner of an agent shares. All outlive the runners.
struct RunnerEnvironment {
  Loop& loop;
  Clock& clock;
  SchedulerLink& scheduler;
  FileLink& files;
  EventRelay& relay;
  std::string root;  // attempts' folders are made below it
  // Rows' tokens, a folder for each workspace: the check of a job makes them, its training maps
  // them.
  std::string token_cache;
  std::string trainer_program;  // absolute path
  std::string validator_program;
  std::string fabric_address;  // ranks listen there
  int cores = 1;               // shared by the ranks of this node
  int devices = 1;
  bool cuda = false;  // devices are GPUs
  int nice = 0;
  std::map<std::string, std::string> rank_environment;  // what this node adds to every rank's
  bool isolate = false;  // processes without peers get no network (isolation.h)
  // Folders that the processes do not see, but for what their attempt needs (file_rules.h); empty:
  // they see what the worker sees.
  std::vector<std::string> hidden_folders;
  const CgroupTree* cgroups = nullptr;  // of the processes' own control groups; null: none
  int64_t memory_per_device = 0;        // of the machine's; a rank's control group is held to it
  // A runner's report has changed: its state, or only how far it is, which may wait a little.
  std::function<void()> on_changed;
  std::function<void()> on_progress;
};

class Runner {
 public:
  virtual ~Runner() = default;
  // The scheduler's newest wish for the same attempt epoch.
  virtual void Update(const v1::DesiredAttempt& desired) = 0;
  virtual v1::ActualAttempt Report() const = 0;
  // ENDED or FAILED: nothing of it is left but its report.
  virtual bool over() const = 0;
};

// The runner for the attempt's kind. One that this worker does not carry out FAILS by name.
std::unique_ptr<Runner> MakeRunner(RunnerEnvironment& environment, v1::DesiredAttempt desired);

// The attempt's own folder below the root: short enough for a path, no character of it special.
std::string AttemptFolder(const RunnerEnvironment& environment, const v1::DesiredAttempt& desired);

// Bytes that are free on the disk of `folder`.
int64_t DiskFree(const std::string& folder);

// RESOURCE_EXHAUSTED unless the disk of `folder` has room for a training attempt: 1.5 times the
// base model for LoRA, 3 times where a whole model comes out.
absl::Status CheckDisk(const v1::DesiredAttempt& desired, const std::string& folder);

// Fetches the attempt's inputs, one after the other. On the loop, `on_share` gets how far it is, 0
// to 1, and `done` the folders by the inputs' keys. `done` is not called once the result is
// destroyed; a late `on_share` may still come.
std::unique_ptr<Background> StageInputs(
    RunnerEnvironment& environment, const v1::DesiredAttempt& desired,
    std::function<void(double)> on_share,
    std::function<void(absl::Status, std::map<std::string, std::string>)> done);

// The attempt's run.json with the inputs' folders in it.
absl::StatusOr<trainer::RunConfig> RunConfigFor(const v1::DesiredAttempt& desired,
                                                const std::map<std::string, std::string>& folders);

// The node's cores shared out among its devices.
int ThreadsPerRank(const RunnerEnvironment& environment);

// Where the tokens of the attempt's workspace are kept.
std::string TokenCacheOf(const RunnerEnvironment& environment, const v1::DesiredAttempt& desired);

// A trainer's command but for its arguments: an environment built up from nothing, the attempt's
// folder, the rank's device, `inputs` to read. Makes the folders that it writes in.
absl::StatusOr<RankCommand> TrainerCommand(const RunnerEnvironment& environment,
                                           const v1::DesiredAttempt& desired,
                                           const v1::LocalRank& local,
                                           std::vector<std::string> inputs);

}  // namespace graft::agent
