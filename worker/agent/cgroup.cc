#include "worker/agent/cgroup.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/log.h"
#include "base/status_macros.h"

namespace graft::agent {
namespace {

constexpr absl::string_view kAgentGroup = "agent";
constexpr absl::string_view kRankPrefix = "rank-";

// The kernel's files take one value a write, and are never created.
absl::Status Write(const std::string& path, absl::string_view value) {
  const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  if (write(fd.get(), value.data(), value.size()) != static_cast<ssize_t>(value.size())) {
    return ErrnoStatus(errno, absl::StrCat("cannot write ", value, " to ", path));
  }
  return absl::OkStatus();
}

// A killed process leaves its group when it is reaped, by its parent or by init.
absl::Status WaitUntilEmpty(const std::string& folder) {
  constexpr int kLongestWaitMs = 5000;
  const std::string path = JoinPath(folder, "cgroup.events");
  const UniqueFd events(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!events.valid()) return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  while (true) {
    char text[256];
    const ssize_t size = pread(events.get(), text, sizeof(text), 0);
    if (size < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", path));
    if (absl::StrContains(absl::string_view(text, static_cast<size_t>(size)), "populated 0")) {
      return absl::OkStatus();
    }
    pollfd changed{.fd = events.get(), .events = POLLPRI, .revents = 0};
    const int ready = poll(&changed, 1, kLongestWaitMs);
    if (ready < 0 && errno != EINTR)
      return ErrnoStatus(errno, absl::StrCat("cannot wait on ", path));
    if (ready == 0) return absl::DeadlineExceededError(absl::StrCat(folder, " does not empty"));
  }
}

// Kills what is in the group and removes it once it is empty.
absl::Status EndGroup(const std::string& folder) {
  GRAFT_RETURN_IF_ERROR(Write(JoinPath(folder, "cgroup.kill"), "1"));
  GRAFT_RETURN_IF_ERROR(WaitUntilEmpty(folder));
  if (rmdir(folder.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return ErrnoStatus(errno, absl::StrCat("cannot remove ", folder));
}

absl::StatusOr<std::string> MountPoint() {
  GRAFT_ASSIGN_OR_RETURN(const std::string mounts, ReadFile("/proc/self/mounts", 1 << 20));
  for (absl::string_view line : absl::StrSplit(mounts, '\n')) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
    if (words.size() > 2 && words[2] == "cgroup2") return std::string(words[1]);
  }
  return absl::FailedPreconditionError("no cgroup2 is mounted");
}

absl::StatusOr<std::string> OwnGroup() {
  GRAFT_ASSIGN_OR_RETURN(const std::string mount, MountPoint());
  GRAFT_ASSIGN_OR_RETURN(const std::string groups, ReadFile("/proc/self/cgroup", 1 << 16));
  for (absl::string_view line : absl::StrSplit(groups, '\n')) {
    if (absl::ConsumePrefix(&line, "0::")) return JoinPath(mount, absl::StripPrefix(line, "/"));
  }
  return absl::FailedPreconditionError("this process is in no group of cgroup2");
}

// systemd marks the groups that it leaves to their service.
bool IsDelegated(const std::string& folder) {
  for (const char* name : {"user.delegate", "trusted.delegate"}) {
    char value = 0;
    if (getxattr(folder.c_str(), name, &value, 1) == 1 && value == '1') return true;
  }
  return false;
}

bool HasMemoryController(const std::string& folder) {
  const absl::StatusOr<std::string> text = ReadFile(JoinPath(folder, "cgroup.controllers"), 4096);
  if (!text.ok()) return false;
  const std::vector<absl::string_view> names =
      absl::StrSplit(*text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  return std::find(names.begin(), names.end(), "memory") != names.end();
}

}  // namespace

Cgroup::Cgroup(std::string folder, UniqueFd processes, int64_t memory_bytes)
    : folder_(std::move(folder)), processes_(std::move(processes)), memory_bytes_(memory_bytes) {}

Cgroup::~Cgroup() {
  if (const absl::Status ended = EndGroup(folder_); !ended.ok()) {
    LOG_WARNING("a rank's control group stays", {{"reason", ended.message()}});
  }
}

int Cgroup::Enter() const { return write(processes_.get(), "0", 1) == 1 ? 0 : errno; }

bool Cgroup::RanOutOfMemory() const {
  const absl::StatusOr<std::string> text = ReadFile(JoinPath(folder_, "memory.events"), 4096);
  if (!text.ok()) return false;
  for (absl::string_view line : absl::StrSplit(*text, '\n')) {
    int64_t count = 0;
    if (absl::ConsumePrefix(&line, "oom_kill ") && absl::SimpleAtoi(line, &count)) return count > 0;
  }
  return false;
}

absl::StatusOr<CgroupTree> CgroupTree::TakeOwn() {
  GRAFT_ASSIGN_OR_RETURN(const std::string own, OwnGroup());
  if (!IsDelegated(own)) {
    return absl::FailedPreconditionError(
        absl::StrCat("the control group ", own, " is not delegated (systemd: Delegate=yes)"));
  }
  const std::string agent = JoinPath(own, kAgentGroup);
  GRAFT_RETURN_IF_ERROR(MakeDirectories(agent));
  GRAFT_RETURN_IF_ERROR(Write(JoinPath(agent, "cgroup.procs"), "0"));
  return Take(own);
}

absl::StatusOr<CgroupTree> CgroupTree::Take(absl::string_view folder) {
  std::string root(folder);
  if (!FileExists(JoinPath(root, "cgroup.kill"))) {  // from Linux 5.14 on
    return absl::FailedPreconditionError(
        absl::StrCat(root, " is no control group of cgroup2 that can be ended as a whole"));
  }
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(root));
  for (const std::string& name : names) {
    if (!absl::StartsWith(name, kRankPrefix)) continue;
    GRAFT_RETURN_IF_ERROR(EndGroup(JoinPath(root, name)));
  }
  const bool bounds_memory = HasMemoryController(root);
  if (bounds_memory) {
    GRAFT_RETURN_IF_ERROR(Write(JoinPath(root, "cgroup.subtree_control"), "+memory"));
  }
  return CgroupTree(std::move(root), bounds_memory);
}

absl::StatusOr<std::unique_ptr<Cgroup>> CgroupTree::Make(int64_t memory_bytes) const {
  static std::atomic<int64_t> next{1};
  const std::string folder = JoinPath(folder_, absl::StrCat(kRankPrefix, next.fetch_add(1)));
  if (mkdir(folder.c_str(), 0755) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot make ", folder));
  }
  const int64_t limit = bounds_memory_ ? memory_bytes : 0;
  const std::string processes = JoinPath(folder, "cgroup.procs");
  // From here on its destruction removes the folder.
  std::unique_ptr<Cgroup> group(
      new Cgroup(folder, UniqueFd(open(processes.c_str(), O_WRONLY | O_CLOEXEC)), limit));
  if (!group->processes_.valid())
    return ErrnoStatus(errno, absl::StrCat("cannot open ", processes));
  if (limit > 0) {
    GRAFT_RETURN_IF_ERROR(Write(JoinPath(folder, "memory.max"), absl::StrCat(limit)));
    // A rank that swaps is slower than one that fails. The file is there where swap is counted.
    const std::string swap = JoinPath(folder, "memory.swap.max");
    if (FileExists(swap)) GRAFT_RETURN_IF_ERROR(Write(swap, "0"));
  }
  return group;
}

}  // namespace graft::agent
