#include "fileservice/transfer/target.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/digest.h"
#include "base/status_macros.h"

namespace graft::fileservice {
namespace {

// Opens what lies beneath `root` and nowhere else: no link is followed, no `..` leaves it.
UniqueFd OpenBeneath(int root, const std::string& path, int flags, int mode) {
  struct open_how how {};
  how.flags = static_cast<uint64_t>(flags | O_CLOEXEC);
  how.mode = static_cast<uint64_t>(mode);
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  return UniqueFd(static_cast<int>(syscall(SYS_openat2, root, path.c_str(), &how, sizeof(how))));
}

absl::Status RefusedPath(absl::string_view path) {
  return absl::InvalidArgumentError(
      absl::StrCat("the server sent the path \"", path, "\", which cannot be written: refused"));
}

}  // namespace

absl::Status CheckRelative(absl::string_view path) {
  if (path.empty() || path[0] == '/' || path.find('\0') != absl::string_view::npos) {
    return RefusedPath(path);
  }
  for (absl::string_view part : absl::StrSplit(path, '/')) {
    if (part.empty() || part == "." || part == ".." || part == kPartialFolder) {
      return RefusedPath(path);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Target> Target::Open(const std::string& path) {
  GRAFT_RETURN_IF_ERROR(MakeDirectories(path));
  Target target;
  target.path_ = path;
  target.root_.reset(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!target.root_.valid()) return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  GRAFT_ASSIGN_OR_RETURN(target.partial_, target.OpenFolder(kPartialFolder));
  return target;
}

absl::StatusOr<UniqueFd> Target::OpenFolder(const std::string& path) const {
  if (path.empty()) return UniqueFd(dup(root_.get()));
  UniqueFd folder = OpenBeneath(root_.get(), path, O_RDONLY | O_DIRECTORY, 0);
  if (folder.valid()) return folder;
  if (errno != ENOENT) return ErrnoStatus(errno, absl::StrCat("cannot use ", path_, "/", path));
  const size_t slash = path.rfind('/');
  GRAFT_ASSIGN_OR_RETURN(
      const UniqueFd parent,
      OpenFolder(slash == std::string::npos ? std::string() : path.substr(0, slash)));
  const std::string name = path.substr(slash == std::string::npos ? 0 : slash + 1);
  if (mkdirat(parent.get(), name.c_str(), 0755) != 0 && errno != EEXIST) {
    return ErrnoStatus(errno, absl::StrCat("cannot make ", path_, "/", path));
  }
  folder = OpenBeneath(root_.get(), path, O_RDONLY | O_DIRECTORY, 0);
  if (!folder.valid()) return ErrnoStatus(errno, absl::StrCat("cannot use ", path_, "/", path));
  return folder;
}

UniqueFd OpenFileBeneath(int root, const std::string& path) {
  return OpenBeneath(root, path, O_RDONLY | O_NOFOLLOW, 0);
}

UniqueFd Target::OpenExisting(const std::string& path) const {
  return OpenFileBeneath(root_.get(), path);
}

bool Target::LinkPartial(int file, const std::string& name) const {
  unlinkat(partial_.get(), name.c_str(), 0);
  // The file that was looked at, whatever its name stands for by now.
  const std::string opened = absl::StrCat("/proc/self/fd/", file);
  return linkat(AT_FDCWD, opened.c_str(), partial_.get(), name.c_str(), AT_SYMLINK_FOLLOW) == 0;
}

absl::StatusOr<UniqueFd> Target::OpenPartial(const std::string& name) const {
  UniqueFd file = OpenBeneath(partial_.get(), name, O_RDWR | O_CREAT | O_NOFOLLOW, 0600);
  if (!file.valid()) return ErrnoStatus(errno, absl::StrCat("cannot write in ", path_));
  return file;
}

absl::Status Target::Complete(const std::string& partial, const std::string& path) const {
  const size_t slash = path.rfind('/');
  GRAFT_ASSIGN_OR_RETURN(
      const UniqueFd folder,
      OpenFolder(slash == std::string::npos ? std::string() : path.substr(0, slash)));
  const std::string name = path.substr(slash == std::string::npos ? 0 : slash + 1);
  if (renameat(partial_.get(), partial.c_str(), folder.get(), name.c_str()) != 0 ||
      fsync(folder.get()) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot put ", path, " in its place"));
  }
  return absl::OkStatus();
}

void Target::RemovePartialFolder() const { unlinkat(root_.get(), kPartialFolder, AT_REMOVEDIR); }

std::string PartialName(absl::string_view sha256_hex, absl::string_view path) {
  return absl::StrCat(sha256_hex, "-", Sha256::HexOf(path).substr(0, 16));
}

}  // namespace graft::fileservice
