#include "worker/agent/file_rules.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace graft::agent {
namespace {

// Of Linux 6.2, newer than Debian 12's headers.
constexpr uint64_t kTruncate = uint64_t{1} << 14;
constexpr int kAbiWithRefer = 2, kAbiWithTruncate = 3;

constexpr uint64_t kRead =
    LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR;
constexpr uint64_t kWriteFile = LANDLOCK_ACCESS_FS_WRITE_FILE | kTruncate;
constexpr uint64_t kWrite =
    kWriteFile | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
    LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK |
    LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_REFER;
// What a rule on a file, not a folder, may hold.
constexpr uint64_t kOfFiles =
    LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | kWriteFile;
// Devices and shared memory are used by every GPU program; who may open what there, the modes say.
constexpr absl::string_view kDevices = "/dev";

// The version of Landlock that the kernel has, or -errno.
int Abi() {
  const long abi =
      syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  return abi < 0 ? -errno : static_cast<int>(abi);
}

// The rights that this kernel can hold a process to.
uint64_t HandledBy(int abi) {
  uint64_t rights = kRead | kWrite | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_BLOCK;
  if (abi < kAbiWithRefer) rights &= ~uint64_t{LANDLOCK_ACCESS_FS_REFER};
  if (abi < kAbiWithTruncate) rights &= ~kTruncate;
  return rights;
}

absl::StatusOr<std::string> Canonical(const std::string& path) {
  char buffer[PATH_MAX];
  if (realpath(path.c_str(), buffer) == nullptr) {
    return ErrnoStatus(errno, absl::StrCat("cannot find ", path));
  }
  return std::string(buffer);
}

class Ruleset {
 public:
  Ruleset(UniqueFd fd, uint64_t handled) : fd_(std::move(fd)), handled_(handled) {}

  absl::Status Allow(const std::string& path, uint64_t rights) {
    const UniqueFd at(open(path.c_str(), O_PATH | O_CLOEXEC));
    struct stat facts = {};
    if (!at.valid() || fstat(at.get(), &facts) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
    }
    landlock_path_beneath_attr rule = {};
    rule.allowed_access = rights & handled_ & (S_ISDIR(facts.st_mode) ? ~uint64_t{0} : kOfFiles);
    rule.parent_fd = at.get();
    if (syscall(SYS_landlock_add_rule, fd_.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot make a rule for ", path));
    }
    return absl::OkStatus();
  }

  // Reading of all below `folder` but the hidden folders: rules only allow, so that what lies
  // beside the way to a hidden folder is named entry by entry.
  absl::Status AllowAllBut(const std::string& folder, const std::vector<std::string>& hidden) {
    const absl::StatusOr<std::vector<std::string>> names = ListDirectory(folder);
    if (absl::IsPermissionDenied(names.status())) return absl::OkStatus();  // as for the rank
    if (!names.ok()) return names.status();
    for (const std::string& name : *names) {
      const std::string path = JoinPath(folder, name);
      bool is_hidden = false, leads_there = false;
      for (const std::string& one : hidden) {
        is_hidden |= path == one;
        leads_there |= absl::StartsWith(one, absl::StrCat(path, "/"));
      }
      if (is_hidden) continue;
      struct stat facts = {};
      // What a link leads to has its own rule; what has gone since needs none.
      if (lstat(path.c_str(), &facts) != 0 || S_ISLNK(facts.st_mode)) continue;
      if (leads_there) {
        GRAFT_RETURN_IF_ERROR(AllowAllBut(path, hidden));
      } else if (const absl::Status allowed = Allow(path, kRead);
                 !allowed.ok() && !absl::IsNotFound(allowed)) {
        return allowed;
      }
    }
    return absl::OkStatus();
  }

  UniqueFd Take() && { return std::move(fd_); }

 private:
  UniqueFd fd_;
  const uint64_t handled_;
};

}  // namespace

absl::Status TryFileRules() {
  const int abi = Abi();
  if (abi >= 1) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("this kernel has no Landlock (", strerror(-abi), ")"));
}

absl::StatusOr<FileRules> FileRules::Make(const FileAccess& access) {
  GRAFT_RETURN_IF_ERROR(TryFileRules());
  landlock_ruleset_attr attributes = {};
  attributes.handled_access_fs = HandledBy(Abi());
  UniqueFd fd(
      static_cast<int>(syscall(SYS_landlock_create_ruleset, &attributes, sizeof(attributes), 0)));
  if (!fd.valid()) return ErrnoStatus(errno, "cannot make file rules");
  Ruleset ruleset(std::move(fd), attributes.handled_access_fs);
  std::vector<std::string> hidden;
  for (const std::string& folder : access.hidden) {
    GRAFT_ASSIGN_OR_RETURN(hidden.emplace_back(), Canonical(folder));
  }
  GRAFT_RETURN_IF_ERROR(ruleset.AllowAllBut("/", hidden));
  GRAFT_RETURN_IF_ERROR(ruleset.Allow(std::string(kDevices), kRead | kWrite));
  for (const std::string& folder : access.readable) {
    GRAFT_RETURN_IF_ERROR(ruleset.Allow(folder, kRead));
  }
  for (const std::string& folder : access.writable) {
    GRAFT_RETURN_IF_ERROR(ruleset.Allow(folder, kRead | kWrite));
  }
  return FileRules(std::move(ruleset).Take());
}

int FileRules::Enter() const {
  if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return errno;
  return syscall(SYS_landlock_restrict_self, ruleset_.get(), 0) == 0 ? 0 : errno;
}

}  // namespace graft::agent
