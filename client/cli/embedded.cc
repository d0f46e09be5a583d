#include "client/cli/embedded.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <functional>
#include <optional>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "client/graft/client.h"
#include "client/graft/context.h"
#include "rpc/tls_material.h"

namespace graft::cli {
namespace {

constexpr const char* kContextName = "local";
constexpr absl::Duration kStartPatience = absl::Seconds(60);
constexpr absl::Duration kPoll = absl::Milliseconds(20);
constexpr absl::Duration kStopPatience = absl::Seconds(20);
// A daemon that ends again and again is started with growing pauses.
constexpr absl::Duration kFirstPause = absl::Milliseconds(200);
constexpr absl::Duration kLongestPause = absl::Seconds(10);
constexpr absl::Duration kCertificateLife = absl::Hours(24 * 3650);

volatile sig_atomic_t stop_requested = 0;

absl::StatusOr<int> FreePort() {
  UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  if (!fd.valid() || bind(fd.get(), reinterpret_cast<sockaddr*>(&address), length) != 0 ||
      getsockname(fd.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) {
    return ErrnoStatus(errno, "cannot find a free port");
  }
  return ntohs(address.sin_port);
}

// One child. Started, watched and started again by the supervisor's one thread.
struct Daemon {
  std::string name;
  std::vector<std::string> command;
  std::vector<std::pair<std::string, std::string>> environment;
  pid_t pid = 0;
  int restarts = 0;
  absl::Duration pause = kFirstPause;
  absl::Time started;
  absl::Time start_at;
};

class Supervisor {
 public:
  explicit Supervisor(EmbeddedOptions options) : options_(std::move(options)) {}

  absl::Status Run() {
    GRAFT_RETURN_IF_ERROR(MakeDirectories(Path("logs"), 0700));
    GRAFT_RETURN_IF_ERROR(Lock());
    state_.supervisor = getpid();
    state_.fake_trainer = options_.fake_trainer;
    const absl::Status started = StartAll();
    if (!started.ok()) {
      state_.error = std::string(started.message());
      StopAll();
      GRAFT_RETURN_IF_ERROR(WriteState());
      return started;
    }
    state_.ready = true;
    GRAFT_RETURN_IF_ERROR(WriteState());
    while (stop_requested == 0) {
      Reap();
      absl::SleepFor(kPoll * 5);
    }
    StopAll();
    state_.ready = false;
    return WriteState();
  }

 private:
  std::string Path(absl::string_view name) const { return JoinPath(options_.home, name); }

  absl::Status Lock() {
    lock_.reset(open(Path("lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    if (!lock_.valid()) return ErrnoStatus(errno, absl::StrCat("cannot open ", Path("lock")));
    if (flock(lock_.get(), LOCK_EX | LOCK_NB) == 0) return absl::OkStatus();
    return absl::FailedPreconditionError("it runs already; `graft status` shows it");
  }

  absl::Status WriteState() {
    Json daemons = Json::MakeObject(), restarts = Json::MakeObject();
    for (const Daemon& daemon : daemons_) {
      daemons.Set(daemon.name, static_cast<int64_t>(daemon.pid));
      restarts.Set(daemon.name, static_cast<int64_t>(daemon.restarts));
    }
    Json json = Json::MakeObject();
    json.Set("supervisor", static_cast<int64_t>(state_.supervisor))
        .Set("scheduler_port", static_cast<int64_t>(state_.scheduler_port))
        .Set("fileservice_port", static_cast<int64_t>(state_.fileservice_port))
        .Set("ready", state_.ready)
        .Set("fake_trainer", state_.fake_trainer)
        .Set("error", state_.error)
        .Set("daemons", std::move(daemons))
        .Set("restarts", std::move(restarts));
    return WriteFileAtomically(Path("state.json"), json.Dump(2) + "\n",
                               {.mode = 0600, .sync = false});
  }

  absl::Status StartAll() {
    GRAFT_RETURN_IF_ERROR(MakeTls());
    GRAFT_RETURN_IF_ERROR(ChoosePorts());
    GRAFT_RETURN_IF_ERROR(WriteState());
    GRAFT_RETURN_IF_ERROR(StartScheduler());
    GRAFT_RETURN_IF_ERROR(StartFileservice());
    GRAFT_RETURN_IF_ERROR(KeepContext());
    return StartWorker();
  }

  absl::Status MakeTls() {
    if (FileExists(Path("tls/server.pem"))) return absl::OkStatus();
    GRAFT_RETURN_IF_ERROR(MakeDirectories(Path("tls"), 0700));
    const absl::Time begin = absl::Now() - absl::Hours(1);
    GRAFT_ASSIGN_OR_RETURN(const rpc::CertificateAndKey authority,
                           rpc::MakeAuthority({.common_name = "Graft on this machine",
                                               .names = {},
                                               .not_before = begin,
                                               .lifetime = kCertificateLife}));
    GRAFT_ASSIGN_OR_RETURN(const rpc::CertificateAndKey server,
                           rpc::MakeCertificate(authority, {.common_name = "localhost",
                                                            .names = {"localhost", "127.0.0.1"},
                                                            .not_before = begin,
                                                            .lifetime = kCertificateLife}));
    GRAFT_RETURN_IF_ERROR(WriteFileAtomically(Path("tls/ca.pem"), authority.certificate));
    GRAFT_RETURN_IF_ERROR(
        WriteFileAtomically(Path("tls/server.key"), server.private_key, {.mode = 0600}));
    return WriteFileAtomically(Path("tls/server.pem"), server.certificate);
  }

  // The ports of the last start where they are free, so that clients keep their address.
  absl::Status ChoosePorts() {
    const absl::StatusOr<EmbeddedState> before = ReadEmbeddedState(options_.home);
    state_.scheduler_port = before.ok() ? before->scheduler_port : 0;
    state_.fileservice_port = before.ok() ? before->fileservice_port : 0;
    if (!PortIsFree(state_.scheduler_port)) {
      GRAFT_ASSIGN_OR_RETURN(state_.scheduler_port, FreePort());
    }
    while (!PortIsFree(state_.fileservice_port) ||
           state_.fileservice_port == state_.scheduler_port) {
      GRAFT_ASSIGN_OR_RETURN(state_.fileservice_port, FreePort());
    }
    return absl::OkStatus();
  }

  static bool PortIsFree(int port) {
    if (port == 0) return false;
    UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const int on = 1;
    setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    address.sin_port = htons(static_cast<uint16_t>(port));
    return bind(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0;
  }

  std::string SchedulerAddress() const { return absl::StrCat("127.0.0.1:", state_.scheduler_port); }
  std::string FileserviceAddress() const {
    return absl::StrCat("127.0.0.1:", state_.fileservice_port);
  }

  absl::Status StartScheduler() {
    const std::string ready = Path("scheduler.port");
    unlink(ready.c_str());
    Daemon daemon{
        .name = "scheduler",
        .command = {BesideThisProgram("graft-scheduler"), "--data", Path("scheduler"), "--listen",
                    SchedulerAddress(), "--fileservice", FileserviceAddress(), "--tls-certificate",
                    Path("tls/server.pem"), "--tls-key", Path("tls/server.key"), "--server-ca",
                    Path("tls/ca.pem"), "--port-file", ready}};
    if (options_.fake_trainer) daemon.command.push_back("--fake-trainer");
    GRAFT_RETURN_IF_ERROR(Start(std::move(daemon)));
    return WaitUntil("scheduler", [&] { return FileExists(ready); });
  }

  absl::Status StartFileservice() {
    const std::string ready = Path("fileservice.port");
    unlink(ready.c_str());
    Json config = Json::MakeObject();
    config.Set("data", Path("fileservice"))
        .Set("listen", FileserviceAddress())
        .Set("tls_certificate", Path("tls/server.pem"))
        .Set("tls_key", Path("tls/server.key"))
        .Set("scheduler", SchedulerAddress())
        .Set("scheduler_ca", Path("tls/ca.pem"));
    GRAFT_RETURN_IF_ERROR(WriteFileAtomically(Path("fileservice.json"), config.Dump(2) + "\n"));
    GRAFT_RETURN_IF_ERROR(Start({.name = "fileservice",
                                 .command = {BesideThisProgram("graft-fileservice"), "--config",
                                             Path("fileservice.json"), "--port-file", ready}}));
    return WaitUntil("fileservice", [&] { return FileExists(ready); });
  }

  absl::Status KeepContext() {
    GRAFT_ASSIGN_OR_RETURN(std::string token, ReadFile(Path("scheduler/admin-token"), 4096));
    context_ = {.name = kContextName,
                .address = SchedulerAddress(),
                .token = std::string(absl::StripAsciiWhitespace(token)),
                .ca_file = Path("tls/ca.pem")};
    GRAFT_ASSIGN_OR_RETURN(client::ContextFile file, client::ReadContexts(client::ContextPath()));
    if (const auto it = file.contexts.find(kContextName); it != file.contexts.end()) {
      context_.workspace = it->second.workspace;
    }
    file.contexts[kContextName] = context_;
    file.current = kContextName;
    return client::WriteContexts(client::ContextPath(), file);
  }

  absl::Status StartWorker() {
    GRAFT_ASSIGN_OR_RETURN(const auto client, client::Client::Connect(context_));
    if (!FileExists(Path("worker/credential"))) {
      v1::CreateJoinTokenRequest request;
      GRAFT_ASSIGN_OR_RETURN(
          const auto response,
          client->Call<v1::CreateJoinTokenResponse>(
              client->nodes(), &v1::NodeService::Stub::CreateJoinToken, request));
      GRAFT_RETURN_IF_ERROR(
          WriteFileAtomically(Path("join-token"), response.token() + "\n", {.mode = 0600}));
    }
    const auto quoted = [](const std::string& text) {
      return absl::StrCat("\"", absl::CEscape(text), "\"\n");
    };
    std::string config = absl::StrCat(
        "node_id: \"local\"\nscheduler_address: ", quoted(SchedulerAddress()),
        "server_ca_file: ", quoted(Path("tls/ca.pem")),
        "join_token_file: ", quoted(Path("join-token")), "state_folder: ", quoted(Path("worker")),
        "private_folders: ", quoted(options_.home), "trainer_program: ",
        quoted(BesideThisProgram(options_.fake_trainer ? "graft-fake-trainer" : "graft-trainer")),
        "validator_program: ",
        quoted(BesideThisProgram(options_.fake_trainer ? "graft-fake-trainer" : "graft-validate")),
        "devices {\n  kind: ", quoted(options_.device_kind),
        "  cpu_devices: ", options_.cpu_devices, "\n");
    if (!options_.declared_devices.empty()) {
      absl::StrAppend(&config, "  declared_file: ", quoted(options_.declared_devices));
    }
    if (!options_.gpus.empty()) absl::StrAppend(&config, "  only: ", quoted(options_.gpus));
    absl::StrAppend(&config, "}\n");
    GRAFT_RETURN_IF_ERROR(WriteFileAtomically(Path("worker.textproto"), config));
    Daemon daemon{
        .name = "worker",
        .command = {BesideThisProgram("graft-worker"), "--config", Path("worker.textproto")}};
    if (options_.fake_trainer) daemon.environment = FakeEnvironment();
    GRAFT_RETURN_IF_ERROR(Start(std::move(daemon)));
    return WaitUntil("worker", [&] {
      const auto nodes = client->Call<v1::ListNodesResponse>(
          client->nodes(), &v1::NodeService::Stub::ListNodes, v1::ListNodesRequest());
      if (!nodes.ok()) return false;
      for (const v1::Node& node : nodes->nodes()) {
        if (node.name() == "nodes/local" && node.state() == v1::Node::STATE_READY) return true;
      }
      return false;
    });
  }

  // How the simulated trainer behaves; what the caller's environment says stands.
  std::vector<std::pair<std::string, std::string>> FakeEnvironment() const {
    std::vector<std::pair<std::string, std::string>> environment;
    if (options_.fake_speed > 0) {
      environment.emplace_back("GRAFT_FAKE_STEP_SECONDS", absl::StrCat(1 / options_.fake_speed));
    }
    if (!options_.fake_fail_at.empty()) {
      environment.emplace_back("GRAFT_FAKE_FAIL_AT", options_.fake_fail_at);
    }
    return environment;
  }

  absl::Status Start(Daemon daemon) {
    daemons_.push_back(std::move(daemon));
    GRAFT_RETURN_IF_ERROR(Spawn(daemons_.back()));
    return WriteState();
  }

  absl::Status Spawn(Daemon& daemon) {
    if (!FileExists(daemon.command[0])) {
      return absl::NotFoundError(
          absl::StrCat("there is no ", daemon.command[0], "; build it, or install its package"));
    }
    const std::string log = Path(absl::StrCat("logs/", daemon.name, ".log"));
    UniqueFd out(open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    if (!out.valid()) return ErrnoStatus(errno, absl::StrCat("cannot open ", log));
    std::vector<char*> argv;
    for (std::string& word : daemon.command) argv.push_back(word.data());
    argv.push_back(nullptr);
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid < 0) return ErrnoStatus(errno, "cannot start a process");
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGTERM);
      if (getppid() != parent) _exit(127);
      setpgid(0, 0);  // Ctrl-C on the supervisor's terminal is the supervisor's business.
      sigset_t none;
      sigemptyset(&none);
      sigprocmask(SIG_SETMASK, &none, nullptr);
      const int null = open("/dev/null", O_RDONLY);
      dup2(null, 0);
      dup2(out.get(), 1);
      dup2(out.get(), 2);
      for (const auto& [key, value] : daemon.environment) setenv(key.c_str(), value.c_str(), 1);
      execv(argv[0], argv.data());
      _exit(127);
    }
    daemon.pid = pid;
    daemon.started = absl::Now();
    return absl::OkStatus();
  }

  absl::Status WaitUntil(const std::string& name, const std::function<bool()>& ready) {
    const absl::Time deadline = absl::Now() + kStartPatience;
    while (absl::Now() < deadline && stop_requested == 0) {
      if (ready()) return absl::OkStatus();
      Reap();
      for (const Daemon& daemon : daemons_) {
        if (daemon.restarts > 2) {
          return absl::UnavailableError(
              absl::StrCat("graft-", daemon.name, " does not stay up: ", LastLine(daemon.name)));
        }
      }
      absl::SleepFor(kPoll);
    }
    return absl::DeadlineExceededError(
        absl::StrCat("graft-", name, " is not ready: ", LastLine(name)));
  }

  std::string LastLine(const std::string& name) const {
    const std::string path = Path(absl::StrCat("logs/", name, ".log"));
    absl::StatusOr<std::string> text = ReadFile(path, 64 << 20);
    if (!text.ok()) return absl::StrCat("see ", path);
    const absl::string_view trimmed = absl::StripTrailingAsciiWhitespace(*text);
    const size_t line = trimmed.rfind('\n');
    return absl::StrCat(trimmed.substr(line == absl::string_view::npos ? 0 : line + 1), " (", path,
                        ")");
  }

  // Notices children that have ended and starts them again.
  void Reap() {
    bool changed = false;
    for (Daemon& daemon : daemons_) {
      int status = 0;
      if (daemon.pid > 0 && waitpid(daemon.pid, &status, WNOHANG) == daemon.pid) {
        LOG_WARNING("a daemon has ended", {{"daemon", daemon.name}, {"status", status}});
        daemon.pid = 0;
        ++daemon.restarts;
        if (absl::Now() - daemon.started > absl::Minutes(1)) daemon.pause = kFirstPause;
        daemon.start_at = absl::Now() + daemon.pause;
        daemon.pause = std::min(daemon.pause * 2, kLongestPause);
        changed = true;
      }
      if (daemon.pid == 0 && absl::Now() >= daemon.start_at && stop_requested == 0) {
        if (const absl::Status spawned = Spawn(daemon); !spawned.ok()) {
          LOG_ERROR("a daemon cannot be started", {{"reason", spawned.message()}});
          daemon.start_at = absl::Now() + kLongestPause;
        }
        changed = true;
      }
    }
    if (!changed) return;
    if (const absl::Status written = WriteState(); !written.ok()) {
      LOG_WARNING("state.json could not be written", {{"reason", written.message()}});
    }
  }

  // The worker first, so that its ranks leave checkpoints while there is somebody to keep them.
  void StopAll() {
    for (auto daemon = daemons_.rbegin(); daemon != daemons_.rend(); ++daemon) {
      if (daemon->pid == 0) continue;
      kill(daemon->pid, SIGTERM);
      const absl::Time deadline = absl::Now() + kStopPatience;
      while (waitpid(daemon->pid, nullptr, WNOHANG) == 0) {
        if (absl::Now() > deadline) kill(daemon->pid, SIGKILL);
        absl::SleepFor(kPoll);
      }
      daemon->pid = 0;
    }
  }

  const EmbeddedOptions options_;
  UniqueFd lock_;
  EmbeddedState state_;
  std::vector<Daemon> daemons_;
  client::Context context_;
};

}  // namespace

std::string BesideThisProgram(const std::string& name) {
  char path[PATH_MAX] = {};
  const ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
  const std::string self(path, length > 0 ? static_cast<size_t>(length) : 0);
  return self.substr(0, self.rfind('/') + 1) + name;
}

std::string EmbeddedHome() {
  if (const char* home = std::getenv("GRAFT_HOME"); home != nullptr && *home != '\0') return home;
  if (const char* data = std::getenv("XDG_DATA_HOME"); data != nullptr && *data != '\0') {
    return JoinPath(data, "graft");
  }
  const char* home = std::getenv("HOME");
  return JoinPath(home == nullptr ? "/var/lib" : home, ".local/share/graft");
}

bool EmbeddedRuns(const std::string& home) {
  UniqueFd fd(open(JoinPath(home, "lock").c_str(), O_RDWR | O_CLOEXEC));
  if (!fd.valid()) return false;
  return flock(fd.get(), LOCK_EX | LOCK_NB) != 0;
}

absl::StatusOr<EmbeddedState> ReadEmbeddedState(const std::string& home) {
  GRAFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(JoinPath(home, "state.json"), 1 << 20));
  GRAFT_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  EmbeddedState state;
  state.supervisor = static_cast<pid_t>(json.GetInt("supervisor"));
  state.scheduler_port = static_cast<int>(json.GetInt("scheduler_port"));
  state.fileservice_port = static_cast<int>(json.GetInt("fileservice_port"));
  state.ready = json.GetBool("ready");
  state.fake_trainer = json.GetBool("fake_trainer");
  state.error = json.GetString("error");
  for (const auto& [key, into] :
       {std::pair<const char*, std::function<void(const std::string&, int64_t)>>{
            "daemons", [&](const std::string&name,
                           int64_t value) { state.daemons[name] = static_cast<pid_t>(value); }},
        {"restarts", [&](const std::string&name, int64_t value) {
           state.restarts[name] = static_cast<int>(value);
         }}}) {
    const Json* object = json.Find(key);
    if (object == nullptr || !object->is_object()) continue;
    for (const auto& [name, value] : object->as_object()) {
      if (value.is_int()) into(name, value.as_int());
    }
  }
  return state;
}

absl::Status Supervise(const EmbeddedOptions& options) {
  stop_requested = 0;
  struct sigaction action = {};
  action.sa_handler = [](int) { stop_requested = 1; };
  sigaction(SIGTERM, &action, nullptr);
  sigaction(SIGINT, &action, nullptr);
  return Supervisor(options).Run();
}

absl::Status StopEmbedded(const std::string& home, absl::Duration patience) {
  if (!EmbeddedRuns(home)) return absl::FailedPreconditionError("nothing runs here");
  GRAFT_ASSIGN_OR_RETURN(const EmbeddedState state, ReadEmbeddedState(home));
  if (state.supervisor <= 1 || kill(state.supervisor, SIGTERM) != 0) {
    return ErrnoStatus(
        errno, absl::StrCat("cannot tell the supervisor (pid ", state.supervisor, ") to stop"));
  }
  const absl::Time deadline = absl::Now() + patience;
  while (EmbeddedRuns(home)) {
    if (absl::Now() > deadline) {
      return absl::DeadlineExceededError(absl::StrCat("the supervisor (pid ", state.supervisor,
                                                      ") has not ended; it waits for its daemons"));
    }
    absl::SleepFor(kPoll);
  }
  return absl::OkStatus();
}

}  // namespace graft::cli
