// One trainer process, started and watched by the agent.
//
// The process runs in a process group of its own, with an environment that is built up from
// nothing, and dies with the agent (PR_SET_PDEATHSIG). Its standard output carries events, its
// standard error the log; both arrive line by line through the callbacks. Lines longer than
// kMaxLineBytes are cut.
//
// Owned by the agent's loop. The callbacks run on the process' own reader thread and must not block
// for long: a full pipe stops the trainer's log, not its steps.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/file.h"
#include "base/mutex.h"
#include "worker/agent/cgroup.h"
#include "worker/agent/file_rules.h"

namespace graft::agent {

inline constexpr size_t kMaxLineBytes = 1 << 20;

struct RankCommand {
  std::string program;
  std::vector<std::string> arguments;
  std::vector<std::pair<std::string, std::string>> environment;  // all of it
  std::string working_folder;
  // A descriptor that the child finds under `inherited_fd_number`; -1: none.
  int inherited_fd = -1;
  int inherited_fd_number = 3;
  // Address space limit in bytes; 0: none.
  int64_t memory_limit_bytes = 0;
  // In a user and a network namespace of its own (isolation.h).
  bool without_network = false;
  // What the process may do with files; without it, all that its user may.
  std::optional<FileAccess> files;
  // Where the process gets a control group of its own, of at most so many bytes (0: unbounded),
  // with which all that it has started ends. Null: none.
  const CgroupTree* cgroups = nullptr;
  int64_t group_memory_bytes = 0;
  // Added to the child's niceness.
  int nice = 0;
};

struct RankExit {
  int code = 0;    // exit status, when it left by itself
  int signal = 0;  // the signal that ended it, or 0
  // The memory that its control group was held to, when it ended for want of more; else 0.
  int64_t memory_exceeded_bytes = 0;
  std::string Describe() const;
};

class RankProcess {
 public:
  struct Callbacks {
    std::function<void(std::string line)> on_event;
    std::function<void(std::string line)> on_log;
    // Last, after both streams have ended and the process was waited for.
    std::function<void(RankExit)> on_exit;
  };

  // NOT_FOUND when the program is not there, INTERNAL when the machine refuses a process.
  static absl::StatusOr<std::unique_ptr<RankProcess>> Start(const RankCommand& command,
                                                            Callbacks callbacks);
  // Ends the process group with SIGKILL if it still runs, and waits.
  ~RankProcess();

  pid_t pid() const { return pid_; }
  // Writes one line to the process' standard input; blocks while its pipe is full, until it reads
  // or ends. UNAVAILABLE when it no longer reads. From any thread.
  absl::Status Send(absl::string_view line);
  // Sends a signal to the whole group. No-op after the exit.
  void Signal(int signal);

 private:
  RankProcess(pid_t pid, UniqueFd in, std::unique_ptr<Cgroup> group, Callbacks callbacks);
  void ReadLines(UniqueFd fd, const std::function<void(std::string)>& on_line);
  void Watch(UniqueFd out, UniqueFd err);

  const pid_t pid_;
  const Callbacks callbacks_;
  std::unique_ptr<Cgroup> group_;  // until the process has ended
  Mutex in_mu_;                    // one writer at a time
  UniqueFd in_ GRAFT_GUARDED_BY(in_mu_);
  Mutex mu_;
  bool exited_ GRAFT_GUARDED_BY(mu_) = false;
  std::thread watcher_;
};

// Ends the process group of a pid that an earlier agent left behind, if it is still that program.
void EndLeftover(pid_t pid, absl::string_view program);

}  // namespace graft::agent
