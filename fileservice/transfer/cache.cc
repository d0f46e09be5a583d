#include "fileservice/transfer/cache.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"

namespace graft::fileservice {
namespace {

constexpr const char* kLock = ".lock";
constexpr const char* kSize = ".size";
constexpr const char* kComplete = ".complete";
constexpr size_t kMaxKeyBytes = 200;
// Locks of other processes cannot be waited for and cancelled at the same time.
constexpr absl::Duration kLockPoll = absl::Milliseconds(20);

absl::Status CheckKey(const std::string& key) {
  const bool sound = !key.empty() && key.size() <= kMaxKeyBytes && key[0] != '.' &&
                     std::all_of(key.begin(), key.end(), [](char c) {
                       return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' ||
                              c == '_' || c == '.';
                     });
  if (sound) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("\"", key, "\" is no key of a cache"));
}

FolderCache::Size ReadSize(const std::string& path) {
  FolderCache::Size size;
  const absl::StatusOr<std::string> text = ReadFile(path, 64);
  if (!text.ok()) return size;
  const std::vector<std::string> words =
      absl::StrSplit(*text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  if (words.size() != 2 || !absl::SimpleAtoi(words[0], &size.bytes) ||
      !absl::SimpleAtoi(words[1], &size.files)) {
    return FolderCache::Size();
  }
  return size;
}

absl::Status WriteSize(const std::string& path, FolderCache::Size size) {
  return WriteFileAtomically(path, absl::StrCat(size.bytes, " ", size.files, "\n"));
}

absl::StatusOr<FolderCache::Size> Measure(const std::string& folder) {
  FolderCache::Size size;
  std::error_code error;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder, error)) {
    if (!entry.is_regular_file(error)) continue;
    size.bytes += static_cast<int64_t>(entry.file_size(error));
    ++size.files;
  }
  if (error) return ErrnoStatus(error.value(), absl::StrCat("cannot measure ", folder));
  return size;
}

// To the nanosecond: the kernel's own stamps are as old as its last tick.
void Touch(const std::string& path) {
  timespec now[2];
  clock_gettime(CLOCK_REALTIME, &now[0]);
  now[1] = now[0];
  utimensat(AT_FDCWD, path.c_str(), now, 0);
}

int64_t LastUsedNs(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return 0;
  return info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec;
}

}  // namespace

absl::StatusOr<std::unique_ptr<FolderCache>> FolderCache::Open(Options options) {
  GRAFT_RETURN_IF_ERROR(MakeDirectories(options.folder, 0700));
  return std::unique_ptr<FolderCache>(new FolderCache(std::move(options)));
}

std::string FolderCache::PathOf(const std::string& key, const char* suffix) const {
  return absl::StrCat(JoinPath(options_.folder, key), suffix);
}

absl::StatusOr<UniqueFd> FolderCache::OpenLock(const std::string& key) const {
  const std::string path = PathOf(key, kLock);
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
  return fd;
}

absl::StatusOr<UniqueFd> FolderCache::Lock(const std::string& key, int operation,
                                           const std::function<bool()>& cancelled) const {
  while (true) {
    GRAFT_ASSIGN_OR_RETURN(UniqueFd fd, OpenLock(key));
    if (flock(fd.get(), operation | LOCK_NB) == 0) {
      // An entry that was removed took its lock file with it: then this one locks nothing.
      struct stat held;
      struct stat named;
      if (fstat(fd.get(), &held) == 0 && stat(PathOf(key, kLock).c_str(), &named) == 0 &&
          held.st_ino == named.st_ino) {
        return fd;
      }
      continue;
    }
    if (errno != EWOULDBLOCK && errno != EINTR) {
      return ErrnoStatus(errno, absl::StrCat("cannot lock ", PathOf(key)));
    }
    if (cancelled != nullptr && cancelled()) {
      return absl::CancelledError("cancelled while another fills the cache");
    }
    absl::SleepFor(kLockPoll);
  }
}

absl::StatusOr<FolderCache::Pin> FolderCache::Get(
    const std::string& key, Size expected,
    const std::function<absl::Status(const std::string& path)>& fill,
    const std::function<bool()>& cancelled) {
  GRAFT_RETURN_IF_ERROR(CheckKey(key));
  const std::string complete = PathOf(key, kComplete);
  while (true) {
    {
      GRAFT_ASSIGN_OR_RETURN(UniqueFd shared, Lock(key, LOCK_SH, cancelled));
      if (FileExists(complete)) {
        Touch(complete);
        return Pin(PathOf(key), std::move(shared));
      }
    }
    GRAFT_ASSIGN_OR_RETURN(const UniqueFd exclusive, Lock(key, LOCK_EX, cancelled));
    if (FileExists(complete)) continue;
    GRAFT_RETURN_IF_ERROR(Reserve(key, expected));
    GRAFT_RETURN_IF_ERROR(MakeDirectories(PathOf(key), 0700));
    GRAFT_RETURN_IF_ERROR(fill(PathOf(key)));
    GRAFT_ASSIGN_OR_RETURN(const Size actual, Measure(PathOf(key)));
    GRAFT_RETURN_IF_ERROR(WriteSize(PathOf(key, kSize), actual));
    GRAFT_RETURN_IF_ERROR(WriteFileAtomically(complete, ""));
    Touch(complete);
  }
}

absl::Status FolderCache::Reserve(const std::string& key, Size expected) const {
  GRAFT_ASSIGN_OR_RETURN(const UniqueFd one_at_a_time, OpenLock(""));
  while (flock(one_at_a_time.get(), LOCK_EX) != 0) {
    if (errno != EINTR) return ErrnoStatus(errno, "cannot lock the cache");
  }
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(options_.folder));
  std::multimap<int64_t, std::pair<std::string, Size>> others;  // the least recently used first
  Size used = expected;
  for (const std::string& name : names) {
    absl::string_view other = name;
    if (!absl::ConsumeSuffix(&other, kSize) || other == key) continue;
    const std::string other_key(other);
    const Size size = ReadSize(PathOf(other_key, kSize));
    used.bytes += size.bytes;
    used.files += size.files;
    const bool whole = FileExists(PathOf(other_key, kComplete));
    const int64_t last = LastUsedNs(PathOf(other_key, whole ? kComplete : kSize));
    others.emplace(last, std::make_pair(other_key, size));
  }
  for (auto& [last, other] : others) {
    if (used.bytes <= options_.max_bytes && used.files <= options_.max_files) break;
    GRAFT_ASSIGN_OR_RETURN(const bool removed, Remove(other.first));
    if (!removed) continue;
    used.bytes -= other.second.bytes;
    used.files -= other.second.files;
  }
  if (used.bytes > options_.max_bytes || used.files > options_.max_files) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the cache ", options_.folder, " has a limit of ", options_.max_bytes, " bytes and ",
        options_.max_files, " files, and with what is in use it would hold ", used.bytes, " in ",
        used.files, ": raise the limit or end what uses it"));
  }
  return WriteSize(PathOf(key, kSize), expected);
}

// False while somebody uses or fills it.
absl::StatusOr<bool> FolderCache::Remove(const std::string& key) const {
  GRAFT_ASSIGN_OR_RETURN(const UniqueFd fd, OpenLock(key));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) return false;
  GRAFT_RETURN_IF_ERROR(RemoveTree(PathOf(key, kComplete)));
  GRAFT_RETURN_IF_ERROR(RemoveTree(PathOf(key)));
  GRAFT_RETURN_IF_ERROR(RemoveTree(PathOf(key, kSize)));
  GRAFT_RETURN_IF_ERROR(RemoveTree(PathOf(key, kLock)));
  return true;
}

absl::StatusOr<FolderCache::Size> FolderCache::Used() const {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names, ListDirectory(options_.folder));
  Size used;
  for (const std::string& name : names) {
    if (!absl::EndsWith(name, kSize)) continue;
    const Size size = ReadSize(JoinPath(options_.folder, name));
    used.bytes += size.bytes;
    used.files += size.files;
  }
  return used;
}

}  // namespace graft::fileservice
