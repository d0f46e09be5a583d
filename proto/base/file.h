// Files written so that a crash leaves the old content or the new, never half of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft {

// The status of errno after a failed call: NOT_FOUND, PERMISSION_DENIED, ALREADY_EXISTS,
// RESOURCE_EXHAUSTED (no space, no descriptors) or INTERNAL, with `what` before strerror.
absl::Status ErrnoStatus(int error, absl::string_view what);

// RESOURCE_EXHAUSTED when the file is larger than `max_bytes`.
absl::StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes = 1LL << 30);

struct WriteOptions {
  int mode = 0644;
  // Without it the content may be lost with the power, though never torn by a crash of ours.
  bool sync = true;
};
// Writes beside `path`, syncs, renames over it and syncs the folder.
absl::Status WriteFileAtomically(const std::string& path, absl::string_view content,
                                 WriteOptions options = {});
absl::Status SyncDirectory(const std::string& path);
// Creates the folder and what lacks above it.
absl::Status MakeDirectories(const std::string& path, int mode = 0755);
// Names (not paths) in the folder, sorted, without "." and "..".
absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path);
bool FileExists(const std::string& path);
absl::StatusOr<int64_t> FileSize(const std::string& path);
// Removes the folder and all below it without following links; OK when it is not there.
absl::Status RemoveTree(const std::string& path);
std::string JoinPath(absl::string_view a, absl::string_view b);

// A descriptor that is closed with its owner.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(other.release()) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(other.release());
    return *this;
  }
  ~UniqueFd() { reset(); }
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  int release() {
    const int fd = fd_;
    fd_ = -1;
    return fd;
  }
  void reset(int fd = -1);

 private:
  int fd_ = -1;
};

// A file mapped read-only. A page that cannot be read is SIGBUS: for local files that nobody cuts.
class MappedFile {
 public:
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  MappedFile() = default;
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();
  absl::string_view bytes() const {
    return absl::string_view(static_cast<const char*>(data_), size_);
  }
  // The pages of these bytes no longer count as this process' memory until they are touched again.
  void LetGo(size_t offset, size_t count) const;

 private:
  void* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace graft
