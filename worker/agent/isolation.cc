#include "worker/agent/isolation.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace graft::agent {
namespace {

int WriteTo(const char* path, const char* text, size_t size) {
  const int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0) return errno;
  const int error = write(fd, text, size) == static_cast<ssize_t>(size) ? 0 : errno;
  close(fd);
  return error;
}

}  // namespace

Namespaces::Namespaces()
    : uid_map_(absl::StrCat(geteuid(), " ", geteuid(), " 1")),
      gid_map_(absl::StrCat(getegid(), " ", getegid(), " 1")) {}

int Namespaces::Enter() const {
  if (unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return errno;
  // Without it an unprivileged process may not map its group.
  if (const int error = WriteTo("/proc/self/setgroups", "deny", 4); error != 0) return error;
  if (const int error = WriteTo("/proc/self/uid_map", uid_map_.data(), uid_map_.size());
      error != 0) {
    return error;
  }
  return WriteTo("/proc/self/gid_map", gid_map_.data(), gid_map_.size());
}

absl::Status TryIsolation() {
  const Namespaces namespaces;
  // From a thread, as ranks are: a sanitizer gives the child of a process with one thread a second,
  // and who has two may make no namespaces.
  pid_t child = -1;
  int error = 0;
  std::thread([&] {
    child = fork();
    if (child == 0) _exit(namespaces.Enter());
    error = errno;
  }).join();
  if (child < 0) return ErrnoStatus(error, "cannot start a process");
  int status = 0;
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (WIFEXITED(status) && WEXITSTATUS(status) == 0) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "this machine lets no user and network namespaces be made",
      WIFEXITED(status) ? absl::StrCat(" (", strerror(WEXITSTATUS(status)), ")") : ""));
}

}  // namespace graft::agent
