// A whole cluster in one thread and one seed: the scheduler's engine over a disk that fails,
// workers that die and freeze, a fileservice that is late, a network that delays, loses, repeats
// and reorders, and clients that retry. The code under test is the program's own; it never knows.
//
//   Simulation simulation({.seed = 7});
//   SimulationResult result = simulation.Run();
//
// The same seed gives the same trace. Time is simulated: an hour of it costs milliseconds.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/time/time.h"
#include "base/random.h"
#include "scheduler/core/invariants.h"
#include "scheduler/service/engine.h"
#include "scheduler/store/mem_store.h"

namespace graft::scheduler {

// A moment in a job's life at which the scheduler's process can be killed.
enum class Milestone { kSubmitted, kPlaced, kRunning, kPreempted, kCheckpointed, kCompleted };
// The process dies the first time that a job passes it: before the commit that says so, or after
// the commit and before anyone is told.
struct Crash {
  Milestone at = Milestone::kSubmitted;
  bool committed = false;
};

struct SimulationOptions {
  uint64_t seed = 1;
  int workers = 5;
  int devices = 4;  // of each worker
  int jobs = 25;
  // Called now and then, when a turn is over.
  std::function<void(const Core& core, absl::Time now)> look;
  absl::Duration chaos = absl::Minutes(6);     // faults happen for so long
  absl::Duration healing = absl::Minutes(40);  // and then all must come to an end
  std::optional<Crash> crash;
  // The commit of the turn of this number (from 1) is refused, for want of room.
  int full_at_turn = 0;
};

struct SimulationResult {
  // What broke, beginning with the invariant's number; empty: all is well.
  std::string broken;
  uint64_t trace_hash = 0;
  int events = 0;
  int completed = 0;
  int restarts = 0;  // of the scheduler
  int failed_commits = 0;
  int turns = 0;
  bool crashed = false;  // where SimulationOptions::crash asked for it
  std::string trace;     // the last lines of it
};

class Simulation final : public EngineOutput {
 public:
  explicit Simulation(SimulationOptions options);
  SimulationResult Run();

  void OnCommitted(int64_t revision) override {}
  void OnDesiredChanged(const std::string& node) override {}
  void OnPublish(const PublishCall& call) override;
  void OnJobWritten(Turn& turn, const Job& job) override;

 private:
  struct Part {  // of an attempt, as it really runs on a worker
    PartReport report;
    AttemptMode mode = AttemptMode::kRun;
    GangKind kind = GangKind::kTrain;
    std::vector<std::pair<int, int>> ranks;
    std::string rendezvous;  // as the scheduler says
    int64_t next_checkpoint = 10;
  };
  struct Worker {
    std::string name;
    bool alive = true;
    bool frozen = false;
    int life = 0;       // events of an earlier life are void
    int64_t epoch = 0;  // 0: not registered
    int64_t desired_revision = 0;
    absl::Time leaves = absl::InfiniteFuture();  // for good; it comes back as a new life
    bool stopping = false;                       // told to shut down; boots again once empty
    absl::Time renewed;                          // when the last answered synchronisation was sent
    std::map<JobKey, Part> parts;
  };

  static constexpr size_t kKeptLines = 60;  // of the trace

  void At(absl::Duration after, std::function<void()> what);
  bool Chance(double p) { return random_.UniformDouble() < p; }
  absl::Duration Between(double low, double high);
  void Trace(const std::string& line);
  void Broken(const std::string& what);
  bool chaos() const { return now_ < chaos_ends_; }
  // Delivers `message` late, never, or more than once.
  void Network(std::function<void()> message);

  // The scheduler's process.
  void StartScheduler();
  void KillScheduler();
  void Submit(Engine::Request request);
  void Turn_();
  void RunEngine(std::vector<Engine::Request> requests);
  void CheckAll();
  void CheckStored();
  bool Passes(const Job& job, Milestone milestone) const;

  // Workers.
  void WorkerBoot(Worker& worker);
  void WorkerRegister(Worker& worker);
  void WorkerSync(Worker& worker);
  // `said_leaving`: the report that is answered said that the worker shuts down.
  void WorkerAnswered(Worker& worker, absl::Time sent, int64_t revision,
                      const std::vector<DesiredPart>& desired, bool said_leaving);
  void WorkerStep(Worker& worker);
  void StepPart(Worker& worker, Part& part);
  void EndPart(Worker& worker, Part& part, AttemptEnd end);
  bool PeersRun(const Part& part);
  void CheckOneAttempt(const JobKey& job);

  // Clients.
  void Describe(int number, JobRequest& request);
  void ClientSubmit(int number);
  void ClientCommand();
  void EndSessions();
  void Fault();
  void ChangeQueue();
  void ChangeInventory(Worker& worker, bool breaks);
  std::vector<Device> Devices() const;  // of a worker that is whole
  void CheckLiveness();
  bool AllAtRest() const;

  const SimulationOptions options_;
  SeededRandom random_;
  absl::Time now_ = absl::FromUnixSeconds(1'700'000'000);
  const absl::Time chaos_ends_;
  const absl::Time ends_;
  std::map<std::pair<absl::Time, int64_t>, std::function<void()>> events_;
  int64_t next_event_ = 0;

  MemDisk disk_;
  std::unique_ptr<MemStore> store_;
  std::unique_ptr<Engine> engine_;
  InvariantChecker invariants_;
  std::vector<Engine::Request> waiting_;
  bool turn_planned_ = false;
  int scheduler_life_ = 0;
  bool dying_ = false;  // nothing of the turn under way leaves the process
  int checks_ = 0;

  std::vector<std::unique_ptr<Worker>> workers_;
  std::map<JobKey, JobRequest> requests_;
  std::set<JobKey> acknowledged_;
  std::map<std::string, int64_t> published_;  // session -> step
  SimulationResult result_;
  std::vector<std::string> lines_;
};

}  // namespace graft::scheduler
