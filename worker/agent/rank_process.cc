#include "worker/agent/rank_process.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <future>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "worker/agent/isolation.h"

namespace graft::agent {
namespace {

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

absl::StatusOr<Pipe> MakePipe() {
  int fds[2];
  if (pipe2(fds, O_CLOEXEC) != 0) return ErrnoStatus(errno, "cannot make a pipe");
  return Pipe{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// What execve needs, made before the fork: after it nothing may allocate.
class ExecStrings {
 public:
  explicit ExecStrings(const RankCommand& command) {
    argv_storage_.push_back(command.program);
    for (const std::string& argument : command.arguments) argv_storage_.push_back(argument);
    for (const auto& [key, value] : command.environment) {
      env_storage_.push_back(absl::StrCat(key, "=", value));
    }
    for (std::string& text : argv_storage_) argv_.push_back(text.data());
    for (std::string& text : env_storage_) env_.push_back(text.data());
    argv_.push_back(nullptr);
    env_.push_back(nullptr);
  }
  char* const* argv() { return argv_.data(); }
  char* const* env() { return env_.data(); }

 private:
  std::vector<std::string> argv_storage_, env_storage_;
  std::vector<char*> argv_, env_;
};

// Runs in the child: async-signal-safe calls alone. Reports errno through `status_fd` on failure.
[[noreturn]] void ExecInChild(const RankCommand& command, ExecStrings& strings,
                              const Namespaces& namespaces, const Cgroup* group,
                              const FileRules* rules, pid_t agent, const int fds[3],
                              int status_fd) {
  const auto fail = [status_fd](int error) {
    [[maybe_unused]] const ssize_t ignored = write(status_fd, &error, sizeof(error));
    _exit(127);
  };
  setpgid(0, 0);
  if (group != nullptr) {
    if (const int error = group->Enter(); error != 0) fail(error);
  }
  if (command.without_network) {
    if (const int error = namespaces.Enter(); error != 0) fail(error);
  }
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != agent) _exit(127);  // The agent died between fork and prctl.
  for (int i = 0; i < 3; ++i) {
    if (dup2(fds[i], i) < 0) fail(errno);
  }
  if (command.inherited_fd >= 0) {
    // dup2 of a descriptor to itself would leave it close-on-exec.
    if (command.inherited_fd == command.inherited_fd_number) {
      fcntl(command.inherited_fd, F_SETFD, 0);
    } else if (dup2(command.inherited_fd, command.inherited_fd_number) < 0) {
      fail(errno);
    }
  }
  if (!command.working_folder.empty() && chdir(command.working_folder.c_str()) != 0) fail(errno);
#ifndef GRAFT_UNLIMITED_ADDRESSES
  if (command.memory_limit_bytes > 0) {
    const rlimit limit = {static_cast<rlim_t>(command.memory_limit_bytes),
                          static_cast<rlim_t>(command.memory_limit_bytes)};
    setrlimit(RLIMIT_AS, &limit);
  }
#endif
  const rlimit no_core = {0, 0};
  setrlimit(RLIMIT_CORE, &no_core);
  if (rules != nullptr) {
    if (const int error = rules->Enter(); error != 0) fail(error);
  }
  if (command.nice != 0) setpriority(PRIO_PROCESS, 0, command.nice);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  execve(command.program.c_str(), strings.argv(), strings.env());
  fail(errno);
  __builtin_unreachable();
}

}  // namespace

std::string RankExit::Describe() const {
  if (memory_exceeded_bytes > 0) {
    return absl::StrCat("ended because it needed more than its ", memory_exceeded_bytes >> 20,
                        " MiB of this machine's memory");
  }
  if (signal != 0) return absl::StrCat("ended by signal ", signal, " (", strsignal(signal), ")");
  return absl::StrCat("left with exit status ", code);
}

absl::StatusOr<std::unique_ptr<RankProcess>> RankProcess::Start(const RankCommand& command,
                                                                Callbacks callbacks) {
  GRAFT_ASSIGN_OR_RETURN(Pipe in, MakePipe());
  GRAFT_ASSIGN_OR_RETURN(Pipe out, MakePipe());
  GRAFT_ASSIGN_OR_RETURN(Pipe err, MakePipe());
  GRAFT_ASSIGN_OR_RETURN(Pipe status, MakePipe());
  std::unique_ptr<Cgroup> group;
  if (command.cgroups != nullptr) {
    GRAFT_ASSIGN_OR_RETURN(group, command.cgroups->Make(command.group_memory_bytes));
  }
  std::optional<FileRules> rules;
  if (command.files.has_value()) {
    GRAFT_ASSIGN_OR_RETURN(rules, FileRules::Make(*command.files));
  }
  ExecStrings strings(command);
  const Namespaces namespaces;
  const int fds[3] = {in.read.get(), out.write.get(), err.write.get()};

  // PR_SET_PDEATHSIG follows the *thread* that forked: the fork happens on the watcher, which lives
  // until the process has ended.
  std::unique_ptr<RankProcess> process;
  std::promise<pid_t> forked;
  std::promise<RankProcess*> adopted;
  std::future<RankProcess*> owner = adopted.get_future();
  std::thread watcher([&command, &strings, &namespaces, &fds, &forked, &rules, group = group.get(),
                       status_fd = status.write.get(), owner = std::move(owner),
                       out_fd = std::move(out.read), err_fd = std::move(err.read)]() mutable {
    const pid_t agent = getpid();
    const pid_t pid = fork();
    if (pid == 0)
      ExecInChild(command, strings, namespaces, group, rules ? &*rules : nullptr, agent, fds,
                  status_fd);
    if (pid > 0) setpgid(pid, pid);  // As in the child: whichever comes first.
    const int error = errno;
    forked.set_value(pid < 0 ? -error : pid);
    RankProcess* self = owner.get();
    if (self != nullptr) self->Watch(std::move(out_fd), std::move(err_fd));
  });
  const pid_t pid = forked.get_future().get();
  const auto give_up = [&](absl::Status why) {
    if (pid > 0) waitpid(pid, nullptr, 0);
    adopted.set_value(nullptr);
    watcher.join();
    return why;
  };
  if (pid < 0) return give_up(ErrnoStatus(-pid, "cannot start a process"));
  status.write.reset();
  int error = 0;
  if (read(status.read.get(), &error, sizeof(error)) == sizeof(error)) {
    return give_up(ErrnoStatus(error, absl::StrCat("cannot run ", command.program)));
  }
  process.reset(new RankProcess(pid, std::move(in.write), std::move(group), std::move(callbacks)));
  process->watcher_ = std::move(watcher);
  out.write.reset();
  err.write.reset();
  adopted.set_value(process.get());
  return process;
}

RankProcess::RankProcess(pid_t pid, UniqueFd in, std::unique_ptr<Cgroup> group, Callbacks callbacks)
    : pid_(pid), callbacks_(std::move(callbacks)), group_(std::move(group)), in_(std::move(in)) {}

RankProcess::~RankProcess() {
  Signal(SIGKILL);
  if (watcher_.joinable()) watcher_.join();
}

absl::Status RankProcess::Send(absl::string_view line) {
  const std::string text = absl::StrCat(line, "\n");
  MutexLock lock(in_mu_);
  if (!in_.valid()) return absl::UnavailableError("the rank has ended");
  // SIGPIPE is ignored in the daemons: a closed pipe is EPIPE.
  if (write(in_.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) {
    return absl::UnavailableError(absl::StrCat("the rank does not read: ", strerror(errno)));
  }
  return absl::OkStatus();
}

void RankProcess::Signal(int signal) {
  MutexLock lock(mu_);
  if (!exited_) kill(-pid_, signal);
}

void RankProcess::ReadLines(UniqueFd fd, const std::function<void(std::string)>& on_line) {
  std::string pending;
  bool cut = false;  // the rest of an overlong line is dropped
  char buffer[65536];
  for (;;) {
    const ssize_t got = read(fd.get(), buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    absl::string_view rest(buffer, static_cast<size_t>(got));
    while (!rest.empty()) {
      const size_t end = rest.find('\n');
      const absl::string_view piece = rest.substr(0, end);
      if (!cut) pending.append(piece.data(), piece.size());
      if (pending.size() > kMaxLineBytes) {
        pending.resize(kMaxLineBytes);
        cut = true;
      }
      if (end == absl::string_view::npos) break;
      on_line(std::move(pending));
      pending.clear();
      cut = false;
      rest.remove_prefix(end + 1);
    }
  }
  if (!pending.empty()) on_line(std::move(pending));
}

void RankProcess::Watch(UniqueFd out, UniqueFd err) {
  std::thread log_reader(
      [this, fd = std::move(err)]() mutable { ReadLines(std::move(fd), callbacks_.on_log); });
  ReadLines(std::move(out), callbacks_.on_event);
  log_reader.join();
  // The pid stays ours until it is waited for, so no other process can be signalled by mistake.
  siginfo_t info;
  while (waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOWAIT) != 0 && errno == EINTR) {
  }
  int status = 0;
  {
    MutexLock lock(mu_);
    exited_ = true;
    kill(-pid_, SIGKILL);  // What it may have started itself.
    waitpid(pid_, &status, 0);
  }
  {
    MutexLock lock(in_mu_);  // a writer that was blocked has got EPIPE
    in_.reset();
  }
  RankExit exit;
  if (WIFEXITED(status)) exit.code = WEXITSTATUS(status);
  if (WIFSIGNALED(status)) exit.signal = WTERMSIG(status);
  if (group_ != nullptr && exit.signal == SIGKILL && group_->RanOutOfMemory()) {
    exit.memory_exceeded_bytes = group_->memory_bytes();
  }
  group_.reset();
  callbacks_.on_exit(exit);
}

void EndLeftover(pid_t pid, absl::string_view program) {
  if (pid <= 1) return;
  const absl::StatusOr<std::string> command =
      ReadFile(absl::StrCat("/proc/", pid, "/cmdline"), 1 << 16);
  // argv is separated by NUL; another program may have got the number since.
  if (!command.ok() || absl::string_view(command->c_str()) != program) return;
  kill(-pid, SIGKILL);
}

}  // namespace graft::agent
