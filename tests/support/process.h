// A program that a test starts, mostly a daemon on a free port that tells it in a file.
//
//   Process daemon({binary, "--listen", "127.0.0.1:0", "--port-file", port_file});
//   ASSERT_TRUE(daemon.WaitForFile(port_file));
//
// Killed and waited for when it is destroyed. For one thread.
#pragma once

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/file.h"

extern char** environ;

namespace graft::testing {

class Process {
 public:
  explicit Process(std::vector<std::string> command) {
    std::vector<char*> argv;
    for (std::string& word : command) argv.push_back(word.data());
    argv.push_back(nullptr);
    GRAFT_CHECK(posix_spawn(&pid_, argv[0], nullptr, nullptr, argv.data(), environ) == 0)
        << command[0];
  }
  ~Process() { Stop(SIGKILL); }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  pid_t pid() const { return pid_; }

  // Returns true once `path` is there, false when the program has ended before. The file must come
  // by a rename, as the programs write what others wait for.
  bool WaitForFile(const std::string& path) const {
    const UniqueFd changes(inotify_init1(IN_CLOEXEC));
    const std::string folder = path.substr(0, path.rfind('/'));
    GRAFT_CHECK(inotify_add_watch(changes.get(), folder.c_str(), IN_MOVED_TO) >= 0) << folder;
    const UniqueFd end(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
    GRAFT_CHECK(end.valid());
    while (!FileExists(path)) {
      pollfd waited[] = {{changes.get(), POLLIN, 0}, {end.get(), POLLIN, 0}};
      if (poll(waited, 2, -1) < 0) {
        GRAFT_CHECK(errno == EINTR);
        continue;
      }
      if (waited[1].revents != 0) return FileExists(path);
      char events[4096];
      GRAFT_CHECK(read(changes.get(), events, sizeof(events)) > 0);
    }
    return true;
  }

  // Its status as waitpid(2) tells it; 0 once it was stopped.
  int Stop(int signal) {
    if (pid_ == 0) return 0;
    kill(pid_, signal);
    int status = 0;
    waitpid(std::exchange(pid_, 0), &status, 0);
    return status;
  }

 private:
  pid_t pid_ = 0;
};

}  // namespace graft::testing
