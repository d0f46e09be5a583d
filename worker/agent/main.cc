// graft-worker: offers this machine's devices and runs what the scheduler places on them.
#include <signal.h>
#include <unistd.h>

#include <climits>
#include <iostream>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "rpc/config.h"
#include "rpc/server.h"
#include "worker/agent/agent.h"
#include "worker/agent/cgroup.h"
#include "worker/agent/file_rules.h"
#include "worker/agent/grpc_links.h"
#include "worker/agent/isolation.h"
#include "worker/agent/worker_config.pb.h"
#include "worker/agent/worker_metrics.h"
#include "worker/device/inventory.h"

namespace graft::agent {
namespace {

constexpr absl::Duration kDefaultLeave = absl::Seconds(240);
constexpr int64_t kDefaultCacheBytes = 100'000'000'000;

std::string BesideThisProgram(const std::string& name) {
  char path[PATH_MAX] = {};
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  if (length <= 0) return name;
  const std::string self(path, static_cast<size_t>(length));
  return self.substr(0, self.rfind('/') + 1) + name;
}

absl::StatusOr<worker::config::WorkerConfig> ReadConfig(int argc, char** argv) {
  if (argc != 3 || absl::string_view(argv[1]) != "--config") {
    return absl::InvalidArgumentError("usage: graft-worker --config FILE");
  }
  worker::config::WorkerConfig config;
  GRAFT_RETURN_IF_ERROR(rpc::ReadConfig(argv[2], config));
  if (config.scheduler_address().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(argv[2], ": scheduler_address is required"));
  }
  if (config.state_folder().empty()) {
    return absl::InvalidArgumentError(absl::StrCat(argv[2], ": state_folder is required"));
  }
  return config;
}

absl::StatusOr<std::unique_ptr<device::DeviceSource>> OpenAllDevices(
    const worker::config::DeviceConfig& config) {
  const std::string& kind = config.kind();
  if (kind.empty() || kind == "auto") return device::DetectDevices();
  if (kind == "cuda") return device::NvmlDevices();
  if (kind == "cpu") return device::CpuDevices(std::max(1, config.cpu_devices()));
  if (kind == "declared") {
    GRAFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(config.declared_file()));
    return device::DeclaredDevices(text);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("devices.kind is \"", kind, "\"; known are auto, cuda, cpu and declared"));
}

absl::StatusOr<std::unique_ptr<device::DeviceSource>> OpenDevices(
    const worker::config::DeviceConfig& config) {
  GRAFT_ASSIGN_OR_RETURN(auto devices, OpenAllDevices(config));
  if (config.only().empty()) return devices;
  GRAFT_ASSIGN_OR_RETURN(const device::Inventory inventory, devices->Read());
  GRAFT_ASSIGN_OR_RETURN(
      std::vector<int> only,
      device::ParseSelection(config.only(), static_cast<int>(inventory.devices.size())));
  return device::SelectDevices(std::move(devices), std::move(only));
}

// Says what the machine allows, and what it does not, once.
bool Allowed(const absl::Status& possible, absl::string_view what) {
  if (possible.ok()) {
    LOG_INFO("isolation of ranks", {{"holds", what}});
  } else {
    LOG_WARNING("isolation of ranks fails", {{"lacks", what}, {"reason", possible.message()}});
  }
  return possible.ok();
}

// Control groups as the configuration wants them: what was asked for by name must be there.
absl::StatusOr<std::optional<CgroupTree>> OpenCgroups(const std::string& wanted) {
  if (wanted == "off") return std::nullopt;
  const bool by_name = !wanted.empty() && wanted != "auto";
  absl::StatusOr<CgroupTree> tree = by_name ? CgroupTree::Take(wanted) : CgroupTree::TakeOwn();
  if (tree.ok()) {
    LOG_INFO("ranks get control groups", {{"memory_bounded", tree->bounds_memory()}});
    return *std::move(tree);
  }
  if (by_name) {
    return absl::Status(tree.status().code(), absl::StrCat("cgroup: ", tree.status().message()));
  }
  LOG_INFO("ranks get no control groups", {{"reason", tree.status().message()}});
  return std::nullopt;
}

absl::StatusOr<AgentOptions> OptionsOf(const worker::config::WorkerConfig& config,
                                       const std::string& join_token) {
  AgentOptions options;
  if (const std::string& until = config.available_until(); !until.empty()) {
    std::string error;
    if (!absl::ParseTime(absl::RFC3339_full, until, &options.available_until, &error)) {
      return absl::InvalidArgumentError(absl::StrCat("available_until is \"", until,
                                                     "\", not a time such as "
                                                     "2026-01-31T18:00:00Z (",
                                                     error, ")"));
    }
  }
  options.node_id = config.node_id();
  if (options.node_id.empty()) {
    char name[256] = {};
    gethostname(name, sizeof(name) - 1);
    options.node_id = name;
  }
  options.join_token = join_token;
  options.state_folder = config.state_folder();
  options.cache_folder = config.cache_folder().empty() ? JoinPath(config.state_folder(), "cache")
                                                       : config.cache_folder();
  options.trainer_program = config.trainer_program().empty() ? BesideThisProgram("graft-trainer")
                                                             : config.trainer_program();
  options.validator_program = config.validator_program().empty()
                                  ? BesideThisProgram("graft-validate")
                                  : config.validator_program();
  if (!config.fabric_address().empty()) options.fabric_address = config.fabric_address();
  options.labels.insert(config.labels().begin(), config.labels().end());
  options.rank_environment.insert(config.rank_environment().begin(),
                                  config.rank_environment().end());
  options.nice = config.nice();
  if (config.isolation() != "off") {
    options.isolate = Allowed(TryIsolation(), "no network without peers");
    if (Allowed(TryFileRules(), "only the attempt's own files")) {
      options.hidden_folders.assign(config.private_folders().begin(),
                                    config.private_folders().end());
      options.hidden_folders.insert(options.hidden_folders.end(),
                                    {options.state_folder, options.cache_folder});
    }
  }
  return options;
}

// Blocks until SIGTERM or SIGINT, which every thread has blocked.
void WaitForSignal(const sigset_t& signals) {
  int signal = 0;
  sigwait(&signals, &signal);
  LOG_INFO("leaving", {{"signal", signal}});
}

absl::Status Run(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);

  ConfigureLog(LogLevel::kInfo, LogFormat::kAuto, "graft-worker");
  GRAFT_ASSIGN_OR_RETURN(const worker::config::WorkerConfig config, ReadConfig(argc, argv));
  std::string join_token, server_ca, client_certificate, client_key;
  if (!config.join_token_file().empty()) {
    GRAFT_ASSIGN_OR_RETURN(join_token, ReadFile(config.join_token_file(), 4096));
    join_token = std::string(absl::StripAsciiWhitespace(join_token));
  }
  if (!config.server_ca_file().empty()) {
    GRAFT_ASSIGN_OR_RETURN(server_ca, ReadFile(config.server_ca_file(), 1 << 20));
  }
  if (!config.client_certificate_file().empty()) {
    GRAFT_ASSIGN_OR_RETURN(client_certificate, ReadFile(config.client_certificate_file(), 1 << 20));
    GRAFT_ASSIGN_OR_RETURN(client_key, ReadFile(config.client_key_file(), 1 << 20));
  }
  if (const std::string& isolation = config.isolation();
      !isolation.empty() && isolation != "auto" && isolation != "off") {
    return absl::InvalidArgumentError(
        absl::StrCat("isolation is \"", isolation, "\"; known are auto and off"));
  }
  GRAFT_ASSIGN_OR_RETURN(const auto devices, OpenDevices(config.devices()));
  GRAFT_ASSIGN_OR_RETURN(AgentOptions options, OptionsOf(config, join_token));
  if (!FileExists(options.trainer_program)) {
    return absl::NotFoundError(
        absl::StrCat("there is no trainer at ", options.trainer_program, "; set trainer_program"));
  }
  GRAFT_ASSIGN_OR_RETURN(options.cgroups, OpenCgroups(config.cgroup()));
  GRAFT_RETURN_IF_ERROR(MakeDirectories(options.cache_folder, 0700));

  RealClock clock;
  const bool fan_out = config.has_fan_out() ? config.fan_out() : !config.fabric_address().empty();
  GRAFT_ASSIGN_OR_RETURN(
      const auto files,
      TransferFileLink::Open(
          {.insecure = config.insecure(),
           .server_ca = server_ca,
           .client_certificate = client_certificate,
           .client_key = client_key,
           .cache_folder = options.cache_folder,
           .cache_bytes = config.cache_bytes() > 0 ? config.cache_bytes() : kDefaultCacheBytes,
           .swarm_host = fan_out ? options.fabric_address : ""}));
  GRAFT_ASSIGN_OR_RETURN(const auto scheduler,
                         GrpcSchedulerLink::Connect({.address = config.scheduler_address(),
                                                     .insecure = config.insecure(),
                                                     .server_ca = server_ca,
                                                     .client_certificate = client_certificate,
                                                     .client_key = client_key}));
  Agent agent(options, clock, *scheduler, *files, *devices);
  agent.set_on_fileservice_address(
      [&files](const std::string& address) { files->SetAddress(address); });
  if (!config.metrics_address().empty()) {
    // Owned by the callback, which the agent drops while its health can still be asked for.
    GRAFT_ASSIGN_OR_RETURN(
        std::shared_ptr<WorkerMetrics> metrics,
        WorkerMetrics::Start(config.metrics_address(), [&agent] { return agent.Health(); }));
    agent.set_on_report([metrics](const v1::SynchronizeRequest& report) { metrics->Note(report); });
  }
  GRAFT_RETURN_IF_ERROR(agent.Start());
  WaitForSignal(signals);
  agent.Leave(config.leave_seconds() > 0 ? absl::Seconds(config.leave_seconds()) : kDefaultLeave);
  return absl::OkStatus();
}

}  // namespace
}  // namespace graft::agent

int main(int argc, char** argv) {
  const absl::Status status = graft::agent::Run(argc, argv);
  if (!status.ok()) {
    LOG_ERROR(status.message());
    return status.code() == absl::StatusCode::kInvalidArgument ? 2 : 1;
  }
  return 0;
}
