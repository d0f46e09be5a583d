// A server program of ours that a test runs for real and kills.
//
//   GRAFT_ASSERT_OK_AND_ASSIGN(auto server, Program::Start({path, "--listen", "127.0.0.1:0",
//                                                           "--port-file", file}, file));
//   ... server->port() ...
//   server->Kill();   // SIGKILL, and waits for its end
#pragma once

#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"

extern char** environ;

namespace graft::testing {

class Program {
 public:
  // Runs args[0] and returns when it has written its port to `port_file`. UNAVAILABLE when it ended
  // before.
  static absl::StatusOr<std::unique_ptr<Program>> Start(std::vector<std::string> args,
                                                        const std::string& port_file) {
    (void)unlink(port_file.c_str());
    const Descriptor news(inotify_init1(IN_CLOEXEC));
    const std::string folder = port_file.substr(0, port_file.rfind('/'));
    if (inotify_add_watch(news.fd, folder.c_str(), IN_MOVED_TO | IN_CLOSE_WRITE) < 0) {
      return absl::NotFoundError(absl::StrCat("there is no folder ", folder));
    }
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    pid_t pid = 0;
    if (posix_spawn(&pid, argv[0], nullptr, nullptr, argv.data(), environ) != 0) {
      return absl::NotFoundError(absl::StrCat("cannot run ", args[0]));
    }
    auto program = std::unique_ptr<Program>(new Program(pid));
    // By number: glibc 2.36 declares pidfd_open without C linkage.
    const Descriptor end(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
    while (!FileExists(port_file)) {
      std::array<pollfd, 2> what = {{{news.fd, POLLIN, 0}, {end.fd, POLLIN, 0}}};
      poll(what.data(), what.size(), -1);
      if (what[1].revents != 0 && !FileExists(port_file)) {
        return absl::UnavailableError(absl::StrCat(args[0], " ended by itself"));
      }
      std::array<char, 4096> told;
      if (what[0].revents != 0) (void)!read(news.fd, told.data(), told.size());
    }
    const absl::StatusOr<std::string> text = ReadFile(port_file, 64);
    if (!text.ok()) return text.status();
    program->port_ = std::atoi(text->c_str());
    return program;
  }
  ~Program() { Kill(); }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  int port() const { return port_; }
  pid_t pid() const { return pid_; }
  void Kill() { (void)End(SIGKILL); }
  // Sends the signal and answers the wait status; 0 when it has been ended before.
  int End(int signal) {
    int status = 0;
    if (pid_ == 0) return status;
    kill(pid_, signal);
    waitpid(std::exchange(pid_, 0), &status, 0);
    return status;
  }

 private:
  struct Descriptor {
    explicit Descriptor(int f) : fd(f) {}
    ~Descriptor() { close(fd); }
    const int fd;
  };
  explicit Program(pid_t pid) : pid_(pid) {}

  pid_t pid_;
  int port_ = 0;
};

}  // namespace graft::testing
