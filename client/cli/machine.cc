// graft up, graft down, graft status.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/embedded.h"
#include "worker/device/inventory.h"

namespace graft::cli {
namespace {

constexpr absl::Duration kUpPatience = absl::Seconds(120);
constexpr absl::Duration kDownPatience = absl::Seconds(120);

// Runs the supervisor in a process of its own that outlives this one.
absl::Status Detach(const EmbeddedOptions& options) {
  const pid_t child = fork();
  if (child < 0) return ErrnoStatus(errno, "cannot start the supervisor");
  if (child > 0) {
    waitpid(child, nullptr, 0);
    return absl::OkStatus();
  }
  setsid();
  if (fork() != 0) _exit(0);
  const int null = open("/dev/null", O_RDWR);
  dup2(null, 0);
  dup2(null, 1);
  const std::string log = JoinPath(options.home, "logs/supervisor.log");
  const int out = open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0600);
  dup2(out >= 0 ? out : null, 2);
  const absl::Status status = Supervise(options);
  if (!status.ok()) fprintf(stderr, "%s\n", std::string(status.message()).c_str());
  _exit(status.ok() ? 0 : 1);
}

absl::Status WaitUntilReady(const std::string& home) {
  const absl::Time deadline = absl::Now() + kUpPatience;
  bool seen = false;
  while (absl::Now() < deadline) {
    const bool runs = EmbeddedRuns(home);
    seen = seen || runs;
    const absl::StatusOr<EmbeddedState> state = ReadEmbeddedState(home);
    if (runs && state.ok() && state->ready) return absl::OkStatus();
    if (seen && !runs) {
      return absl::UnavailableError(state.ok() && !state->error.empty()
                                        ? state->error
                                        : absl::StrCat("it did not start; see ", home, "/logs"));
    }
    absl::SleepFor(absl::Milliseconds(20));
  }
  return absl::DeadlineExceededError(absl::StrCat("it is not ready yet; see ", home, "/logs"));
}

// What would only be seen in a daemon's log otherwise.
absl::Status CheckUp(const EmbeddedOptions& options, const FlagSet& flags) {
  for (const char* flag : {"speed", "fail-at"}) {
    if (flags.Given(flag) && !options.fake_trainer) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag, " goes with --fake-trainer"));
    }
  }
  if (flags.Given("speed") && !(options.fake_speed > 0)) {
    return absl::InvalidArgumentError("--speed must be above 0");
  }
  if (options.gpus.empty()) return absl::OkStatus();
  std::unique_ptr<device::DeviceSource> devices;
  if (options.device_kind == "cpu") {
    devices = device::CpuDevices(options.cpu_devices);
  } else if (options.device_kind == "declared") {
    GRAFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(options.declared_devices, 1 << 20));
    GRAFT_ASSIGN_OR_RETURN(devices, device::DeclaredDevices(text));
  } else {
    devices = device::DetectDevices();
  }
  GRAFT_ASSIGN_OR_RETURN(const device::Inventory inventory, devices->Read());
  return device::ParseSelection(options.gpus, static_cast<int>(inventory.devices.size())).status();
}

absl::Status Up(Invocation& invocation) {
  EmbeddedOptions options;
  options.home = EmbeddedHome();
  int64_t cpu_devices = 1;
  bool foreground = false;
  FlagSet& flags = invocation.flags;
  flags.String("home", &options.home, "FOLDER", "where data, logs and keys lie");
  flags.String("devices", &options.device_kind, "KIND", "auto, cuda, cpu or declared");
  flags.Int("cpu-devices", &cpu_devices, "N", "with cpu: devices that share the machine");
  flags.String("declared", &options.declared_devices, "FILE",
               "with declared: JSON that declares them");
  flags.String("gpus", &options.gpus, "0,2", "the devices to use; without it, all");
  flags.Bool("fake-trainer", &options.fake_trainer, "simulate training, for tests of clients");
  flags.Double("speed", &options.fake_speed, "N", "with --fake-trainer: steps a second");
  flags.String("fail-at", &options.fake_fail_at, "STEP=CODE",
               "with --fake-trainer: fail at this step, such as 7=out_of_memory");
  flags.Bool("foreground", &foreground, "stay, and stop with Ctrl-C");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft up [flags]"));
  options.cpu_devices = static_cast<int>(cpu_devices);
  GRAFT_RETURN_IF_ERROR(CheckUp(options, flags));
  if (EmbeddedRuns(options.home)) {
    invocation.Say("it runs already; `graft status` shows it");
    return absl::OkStatus();
  }
  GRAFT_RETURN_IF_ERROR(MakeDirectories(JoinPath(options.home, "logs"), 0700));
  if (foreground) return Supervise(options);
  const absl::Time begin = absl::Now();
  // What an earlier supervisor left says nothing about this start, but for its ports.
  GRAFT_RETURN_IF_ERROR(Detach(options));
  GRAFT_RETURN_IF_ERROR(WaitUntilReady(options.home));
  invocation.Say(absl::StrCat("Graft is up (", HumanDuration(absl::Now() - begin), "), data in ",
                              options.home, options.fake_trainer ? ", with a FAKE trainer" : ""));
  return absl::OkStatus();
}

absl::Status Down(Invocation& invocation) {
  std::string home = EmbeddedHome();
  invocation.flags.String("home", &home, "FOLDER", "where data, logs and keys lie");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft down"));
  if (!EmbeddedRuns(home)) {
    invocation.Say("nothing runs here");
    return absl::OkStatus();
  }
  GRAFT_RETURN_IF_ERROR(StopEmbedded(home, kDownPatience));
  invocation.Say("Graft is down");
  return absl::OkStatus();
}

absl::Status ShowStatus(Invocation& invocation) {
  std::string home = EmbeddedHome();
  invocation.flags.String("home", &home, "FOLDER", "where data, logs and keys lie");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft status"));
  Table table({"DAEMON", "STATE", "PID", "ADDRESS", "RESTARTS"});
  table.AlignRight(2);
  table.AlignRight(4);
  const absl::StatusOr<EmbeddedState> state = ReadEmbeddedState(home);
  const bool runs = EmbeddedRuns(home) && state.ok();
  if (runs) {
    for (const auto& [name, pid] : state->daemons) {
      const bool lives = pid > 0 && kill(pid, 0) == 0;
      const std::string address =
          name == "scheduler"     ? absl::StrCat("127.0.0.1:", state->scheduler_port)
          : name == "fileservice" ? absl::StrCat("127.0.0.1:", state->fileservice_port)
                                  : "";
      const auto restarts = state->restarts.find(name);
      table.Add({name,
                 lives ? invocation.out.Paint(Style::kGreen, "up")
                       : invocation.out.Paint(Style::kRed, "down"),
                 absl::StrCat(pid), address,
                 absl::StrCat(restarts == state->restarts.end() ? 0 : restarts->second)});
    }
    fputs(table.Render(invocation.out).c_str(), stdout);
  }
  const auto client = invocation.Connect();
  if (!client.ok()) return runs ? absl::OkStatus() : client.status();
  GRAFT_ASSIGN_OR_RETURN(
      const auto info,
      (*client)->Call<v1::ServerInfo>((*client)->server(), &v1::ServerService::Stub::GetServerInfo,
                                      v1::GetServerInfoRequest(), {.deadline = absl::Seconds(3)}));
  GRAFT_ASSIGN_OR_RETURN(const auto nodes,
                         (*client)->Call<v1::ListNodesResponse>(
                             (*client)->nodes(), &v1::NodeService::Stub::ListNodes,
                             v1::ListNodesRequest(), {.deadline = absl::Seconds(3)}));
  int ready = 0, devices = 0;
  for (const v1::Node& node : nodes.nodes()) {
    if (node.state() != v1::Node::STATE_READY) continue;
    ++ready;
    devices += node.devices_size();
  }
  printf("server %s at %s, %d of %d nodes ready with %d devices%s\n",
         Sanitize(info.version()).c_str(), (*client)->context().address.c_str(), ready,
         nodes.nodes_size(), devices,
         info.fake_trainer() || (runs && state->fake_trainer) ? ", FAKE trainer" : "");
  return absl::OkStatus();
}

}  // namespace

const std::vector<Command>& MachineCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"up", "start everything on this machine", Up},
      {"down", "stop what `graft up` started", Down},
      {"status", "what runs, and whether the server answers", ShowStatus},
  };
  return commands;
}

}  // namespace graft::cli
