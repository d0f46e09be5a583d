// Control groups (version 2) of ranks: a group bounds a rank's memory and holds all that the rank
// starts, also what has left its process group.
//
//   worker's own group, delegated to it (systemd: Delegate=yes)
//   ├── agent     the worker itself: a group whose children are bounded has no processes
//   ├── rank-1    memory.max
//   └── rank-2
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/file.h"

namespace graft::agent {

// One group. Its end kills what is in it and removes it.
class Cgroup {
 public:
  ~Cgroup();
  Cgroup(const Cgroup&) = delete;
  Cgroup& operator=(const Cgroup&) = delete;

  // Moves the calling process in; its errno or 0. Async-signal-safe: for a child after fork.
  int Enter() const;
  // Whether the kernel ended a process of it for want of memory.
  bool RanOutOfMemory() const;
  int64_t memory_bytes() const { return memory_bytes_; }

 private:
  friend class CgroupTree;
  Cgroup(std::string folder, UniqueFd processes, int64_t memory_bytes);

  const std::string folder_;
  const UniqueFd processes_;  // its cgroup.procs
  const int64_t memory_bytes_;
};

class CgroupTree {
 public:
  // Below this process' own group, where systemd has delegated it: moves the process into `agent`
  // there. FAILED_PRECONDITION, with the reason, where that is not so.
  static absl::StatusOr<CgroupTree> TakeOwn();
  // Below `folder` of a cgroup2 mount. Ends what an earlier worker left there. FAILED_PRECONDITION
  // where it is no such folder.
  static absl::StatusOr<CgroupTree> Take(absl::string_view folder);

  // Whether groups can have a limit: the memory controller is there.
  bool bounds_memory() const { return bounds_memory_; }
  // A new group, with at most `memory_bytes` where it is above 0 and memory is bounded. From any
  // thread.
  absl::StatusOr<std::unique_ptr<Cgroup>> Make(int64_t memory_bytes) const;

 private:
  CgroupTree(std::string folder, bool bounds_memory)
      : folder_(std::move(folder)), bounds_memory_(bounds_memory) {}

  std::string folder_;
  bool bounds_memory_;
};

}  // namespace graft::agent
