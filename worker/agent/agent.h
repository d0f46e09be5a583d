// The worker's daemon: keeps the node's lease and makes its attempts what the scheduler wishes.
//
//   register -> synchronize, again and again -> (lease lost) end every rank -> register
//
// The rules that it keeps are those of agent/README.md. All state is owned by one loop; the
// scheduler's answers come back to it by posting.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/loop.h"
#include "graft/agent/v1/agent.pb.h"
#include "worker/agent/background.h"
#include "worker/agent/cgroup.h"
#include "worker/agent/event_relay.h"
#include "worker/agent/links.h"
#include "worker/agent/runner.h"
#include "worker/device/inventory.h"

namespace graft::agent {

struct AgentOptions {
  std::string node_id;
  std::string join_token;         // for the first registration
  std::string state_folder;       // credential, attempts, spools
  std::string cache_folder;       // its disk is what is reported as free
  std::string trainer_program;    // absolute path of graft-trainer
  std::string validator_program;  // absolute path of graft-validate
  std::string fabric_address = "127.0.0.1";
  std::map<std::string, std::string> labels;
  std::map<std::string, std::string> rank_environment;  // what this node adds to every rank's
  absl::Time available_until = absl::InfiniteFuture();
  int nice = 0;
  bool isolate = false;                     // ranks without peers get no network
  std::vector<std::string> hidden_folders;  // which ranks do not see (file_rules.h)
  std::optional<CgroupTree> cgroups;        // where ranks get control groups of their own
};

class Agent {
 public:
  // What is handed in must outlive the agent.
  Agent(AgentOptions options, Clock& clock, SchedulerLink& scheduler, FileLink& files,
        device::DeviceSource& devices);
  // Ends every rank.
  ~Agent();

  // Opens the state folder and begins to register. FAILED_PRECONDITION when another agent uses it.
  absl::Status Start();
  // Tells the scheduler that the node leaves and waits until its attempts have left their
  // checkpoints and are noted there as ended, for at most `grace`.
  void Leave(absl::Duration grace);
  // Told the fileservice's address after each registration, on the loop. Set before Start.
  void set_on_fileservice_address(std::function<void(const std::string&)> callback) {
    on_fileservice_address_ = std::move(callback);
  }
  // Told every report before it is sent, on the loop. Set before Start.
  void set_on_report(std::function<void(const v1::SynchronizeRequest&)> callback) {
    on_report_ = std::move(callback);
  }
  // OK while the lease is held.
  absl::Status Health();

 private:
  void ReadCredential();
  void KeepCredential(const std::string& credential);
  void BeginRegister();
  void OnRegistered(absl::StatusOr<v1::RegisterResponse> response);
  void Synchronize();
  void OnSynchronized(uint64_t call, absl::Time sent,
                      absl::StatusOr<v1::SynchronizeResponse> response);
  void Apply(const v1::SynchronizeResponse& response);
  void EndEverything(absl::string_view why);
  // Reports again: at once, or with the next of the reports that progress is worth.
  void StateChanged();
  void ProgressMade();
  void ScheduleReport(absl::Duration delay);
  void CheckLease();
  device::Inventory ReadDevices();
  v1::Inventory InventoryOf(const device::Inventory& devices) const;
  v1::SynchronizeRequest Report();

  const AgentOptions options_;
  Clock& clock_;
  SchedulerLink& scheduler_;
  FileLink& files_;
  device::DeviceSource& devices_;
  std::function<void(const std::string&)> on_fileservice_address_;
  std::function<void(const v1::SynchronizeRequest&)> on_report_;
  UniqueFd lock_;  // held while this agent uses the state folder
  std::unique_ptr<EventRelay> relay_;
  std::unique_ptr<RunnerEnvironment> environment_;

  // Owned by the loop.
  std::map<std::string, std::unique_ptr<Runner>> runners_;
  std::unique_ptr<Background> registering_;
  std::string boot_id_;
  std::string credential_;
  std::string node_;
  int64_t epoch_ = 0;
  int32_t protocol_ = 0;
  int64_t revision_ = 0;
  uint64_t call_ = 0;  // number of the Synchronize that is open
  bool call_open_ = false;
  absl::Time report_at_ = absl::InfiniteFuture();  // of the report that is scheduled
  Loop::TimerId report_timer_ = 0;
  bool inventory_changed_ = true;
  std::string sent_inventory_;
  absl::Time renewed_ = absl::InfinitePast();  // when the last answered call was sent
  absl::Duration stop_after_ = absl::Seconds(12);
  absl::Duration retry_delay_ = absl::Milliseconds(200);
  bool leaving_ = false;
  bool leave_noted_ = false;  // the scheduler has answered a report that said so
  bool stopped_ = false;

  Mutex mu_;
  absl::Status health_ GRAFT_GUARDED_BY(mu_) = absl::UnavailableError("not registered yet");

  // Also of calls that are not answered yet. Last: stops before what its tasks use goes.
  std::shared_ptr<Loop> loop_;
};

}  // namespace graft::agent
