#include "fileservice/cas/files.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace graft::fileservice {
namespace {

class RealReadableFile final : public ReadableFile {
 public:
  RealReadableFile(std::string path, UniqueFd fd, int64_t size)
      : path_(std::move(path)),
        fd_(std::move(fd)),
        direct_(open(path_.c_str(), O_RDONLY | O_DIRECT | O_CLOEXEC)),
        size_(size) {}

  absl::Status ReadAt(int64_t offset, size_t size, char* out) const override {
    return ReadFrom(fd_.get(), offset, size, size, out);
  }
  absl::StatusOr<absl::string_view> ReadOnce(int64_t offset, size_t size,
                                             char* buffer) const override {
    if (!direct_.valid()) return ReadableFile::ReadOnce(offset, size, buffer);
    const size_t before = static_cast<size_t>(offset) % kBlockBytes;
    const size_t blocks = (before + size + kBlockBytes - 1) / kBlockBytes;
    GRAFT_RETURN_IF_ERROR(ReadFrom(direct_.get(), offset - static_cast<int64_t>(before),
                                   blocks * kBlockBytes, before + size, buffer));
    return absl::string_view(buffer + before, size);
  }
  int64_t size() const override { return size_; }
  int fd() const override { return fd_.get(); }

 private:
  // Reads up to `size` bytes, of which `needed` must be there: a file may end inside of a block.
  absl::Status ReadFrom(int fd, int64_t offset, size_t size, size_t needed, char* out) const {
    for (size_t done = 0; done < needed;) {
      const ssize_t got = pread(fd, out + done, size - done, offset + static_cast<int64_t>(done));
      if (got < 0 && errno == EINTR) continue;
      const int64_t at = offset + static_cast<int64_t>(done);
      if (got < 0 && errno == EIO) {
        return absl::DataLossError(absl::StrCat("the disk cannot read ", path_, " at ", at));
      }
      if (got < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", path_));
      if (got == 0) {
        return absl::DataLossError(
            absl::StrCat(path_, " ends at ", at, ", wanted ", needed - done, " bytes more"));
      }
      done += static_cast<size_t>(got);
    }
    return absl::OkStatus();
  }

  const std::string path_;
  const UniqueFd fd_;
  const UniqueFd direct_;  // invalid where the file system refuses O_DIRECT
  const int64_t size_;
};

bool IsAligned(int64_t offset, absl::string_view bytes) {
  return offset % kBlockBytes == 0 && bytes.size() % kBlockBytes == 0 &&
         reinterpret_cast<uintptr_t>(bytes.data()) % kBlockBytes == 0;
}

// Two descriptors of one file: direct for what is aligned, buffered for the rest. Both are covered
// by one fdatasync, which works on the file and not on the descriptor.
class RealWritableFile final : public WritableFile {
 public:
  RealWritableFile(std::string path, UniqueFd buffered, UniqueFd direct)
      : path_(std::move(path)), buffered_(std::move(buffered)), direct_(std::move(direct)) {}

  absl::Status WriteAt(int64_t offset, absl::string_view bytes) override {
    const bool direct = direct_.valid() && IsAligned(offset, bytes);
    const int fd = direct ? direct_.get() : buffered_.get();
    while (!bytes.empty()) {
      const ssize_t written = pwrite(fd, bytes.data(), bytes.size(), offset);
      if (written < 0 && errno == EINTR) continue;
      if (written < 0) return ErrnoStatus(errno, absl::StrCat("cannot write ", path_));
      offset += written;
      bytes.remove_prefix(static_cast<size_t>(written));
    }
    return absl::OkStatus();
  }

  absl::Status Sync() override {
    if (fdatasync(buffered_.get()) == 0) return absl::OkStatus();
    return ErrnoStatus(errno, absl::StrCat("cannot sync ", path_));
  }

 private:
  const std::string path_;
  const UniqueFd buffered_;
  const UniqueFd direct_;
};

class RealFilesImpl final : public Files {
 public:
  absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) override {
    UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat info;
    if (!fd.valid() || fstat(fd.get(), &info) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot open ", path));
    }
    return std::make_unique<RealReadableFile>(path, std::move(fd), info.st_size);
  }

  absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) override {
    UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0640));
    if (!fd.valid()) return ErrnoStatus(errno, absl::StrCat("cannot create ", path));
    // Some file systems refuse O_DIRECT; then everything is buffered.
    UniqueFd direct(open(path.c_str(), O_WRONLY | O_DIRECT | O_CLOEXEC));
    return std::make_unique<RealWritableFile>(path, std::move(fd), std::move(direct));
  }

  absl::Status Truncate(const std::string& path, int64_t size) override {
    UniqueFd fd(open(path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!fd.valid() || ftruncate(fd.get(), size) != 0 || fsync(fd.get()) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot truncate ", path, " to ", size));
    }
    return absl::OkStatus();
  }

  absl::Status Remove(const std::string& path) override {
    if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
    return ErrnoStatus(errno, absl::StrCat("cannot remove ", path));
  }

  absl::StatusOr<std::vector<std::string>> ListOrCreate(const std::string& directory) override {
    GRAFT_RETURN_IF_ERROR(MakeDirectories(directory, 0750));
    return ListDirectory(directory);
  }

  absl::Status SyncDirectory(const std::string& directory) override {
    return graft::SyncDirectory(directory);
  }

  absl::StatusOr<int64_t> AvailableBytes(const std::string& directory) override {
    struct statvfs info;
    if (statvfs(directory.c_str(), &info) != 0) {
      return ErrnoStatus(errno, absl::StrCat("cannot ask the free space of ", directory));
    }
    return static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  }
};

}  // namespace

Files& RealFiles() {
  static RealFilesImpl& files = *new RealFilesImpl();
  return files;
}

}  // namespace graft::fileservice
