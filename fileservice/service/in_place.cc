#include "fileservice/service/in_place.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "fileservice/catalog/names.h"

namespace graft::fileservice {
namespace {

constexpr size_t kReadBytes = 1 << 20;

absl::StatusOr<std::string> RealPath(const std::string& path) {
  const std::unique_ptr<char, decltype(&free)> real(realpath(path.c_str(), nullptr), &free);
  if (real == nullptr) return ErrnoStatus(errno, absl::StrCat("cannot find ", path));
  return std::string(real.get());
}

bool IsBelow(const std::string& path, const std::string& root) {
  return path == root || absl::StartsWith(path, root == "/" ? root : root + "/");
}

absl::StatusOr<Entry> HashFile(const std::string& path) {
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat before;
  if (!fd.valid() || fstat(fd.get(), &before) != 0) {
    return ErrnoStatus(errno, absl::StrCat("cannot read ", path));
  }
  Sha256 hash;
  std::string buffer(kReadBytes, '\0');
  int64_t size = 0;
  while (true) {
    const ssize_t got = read(fd.get(), buffer.data(), buffer.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", path));
    if (got == 0) break;
    hash.Update(absl::string_view(buffer.data(), static_cast<size_t>(got)));
    size += got;
  }
  struct stat after;
  if (fstat(fd.get(), &after) != 0 || after.st_size != size ||
      after.st_mtim.tv_sec != before.st_mtim.tv_sec ||
      after.st_mtim.tv_nsec != before.st_mtim.tv_nsec) {
    return absl::FailedPreconditionError(
        absl::StrCat(path, " was changed while it was being registered: try again"));
  }
  Entry entry;
  entry.size = size;
  entry.sha256 = hash.Finish();
  entry.executable = (after.st_mode & S_IXUSR) != 0;
  entry.in_place_mtime_ns = after.st_mtim.tv_sec * 1'000'000'000 + after.st_mtim.tv_nsec;
  return entry;
}

absl::Status Walk(const std::string& root, const std::string& relative,
                  absl::btree_map<std::string, Entry>& entries) {
  const std::string folder = relative.empty() ? root : JoinPath(root, relative);
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(folder));
  for (const std::string& name : names) {
    if (name == ".git") continue;
    const std::string path = relative.empty() ? name : JoinPath(relative, name);
    const std::string full = JoinPath(root, path);
    struct stat info;
    if (lstat(full.c_str(), &info) != 0)
      return ErrnoStatus(errno, absl::StrCat("cannot read ", full));
    if (S_ISDIR(info.st_mode)) {
      GRAFT_RETURN_IF_ERROR(Walk(root, path, entries));
    } else if (S_ISREG(info.st_mode)) {
      GRAFT_RETURN_IF_ERROR(CheckPath(path));
      GRAFT_ASSIGN_OR_RETURN(entries[path], HashFile(full));
    } else {
      return absl::FailedPreconditionError(
          absl::StrCat(full, " is a link or a device; only files and folders can be registered"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<InPlaceFolder> ScanInPlace(const std::string& path,
                                          const std::vector<std::string>& roots) {
  InPlaceFolder folder;
  // Whether a folder outside of the roots is there is nobody's business.
  const absl::Status denied = absl::PermissionDeniedError(absl::StrCat(
      path, " is below none of the folders that the configuration allows (in_place_roots)"));
  const absl::StatusOr<std::string> real = RealPath(path);
  if (!real.ok()) return denied;
  bool allowed = false;
  for (const std::string& root : roots) {
    const absl::StatusOr<std::string> real_root = RealPath(root);
    allowed = allowed || (real_root.ok() && IsBelow(*real, *real_root));
  }
  if (!allowed) return denied;
  folder.root = *real;
  GRAFT_RETURN_IF_ERROR(Walk(folder.root, "", folder.entries));
  return folder;
}

}  // namespace graft::fileservice
