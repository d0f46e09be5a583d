// The disk as the packs see it: a capability that is handed in, so that tests can drop what was not
// synced, fill the disk or fail a write, and production code never asks whether it is tested.
//
// RealFiles() is the machine's. FaultyFiles (faulty_files.h) keeps everything in memory and fails
// on demand. Both pass the suite in files_test.cc.
//
// Thread-safe, except that one WritableFile has one writer at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::fileservice {

// Offsets, lengths and addresses of direct writes are multiples of this.
inline constexpr size_t kBlockBytes = 4096;

class ReadableFile {
 public:
  virtual ~ReadableFile() = default;
  // Reads exactly `size` bytes. DATA_LOSS when the file ends before, or the disk cannot read them.
  virtual absl::Status ReadAt(int64_t offset, size_t size, char* out) const = 0;
  // The same for a pass that comes by once: past the page cache where the file system allows it.
  // `buffer` begins at a block and has room for two blocks more than `size`; the bytes are returned
  // as the part of it where they came to lie.
  virtual absl::StatusOr<absl::string_view> ReadOnce(int64_t offset, size_t size,
                                                     char* buffer) const {
    const absl::Status status = ReadAt(offset, size, buffer);
    if (!status.ok()) return status;
    return absl::string_view(buffer, size);
  }
  virtual int64_t size() const = 0;
  // The descriptor for sendfile(2), or -1 where there is none.
  virtual int fd() const = 0;
};

class WritableFile {
 public:
  virtual ~WritableFile() = default;
  // Writes all of `bytes` or fails; after a failure any part may have been written. Aligned
  // addresses, offsets and lengths pass by the page cache where the file system allows it.
  virtual absl::Status WriteAt(int64_t offset, absl::string_view bytes) = 0;
  // Once OK, what was written survives the power. After a failure nothing that was written since
  // the last success may be trusted, and a second call must not be believed.
  virtual absl::Status Sync() = 0;
};

class Files {
 public:
  virtual ~Files() = default;
  virtual absl::StatusOr<std::unique_ptr<ReadableFile>> OpenForRead(const std::string& path) = 0;
  // ALREADY_EXISTS when it does. Its name is durable only after SyncDirectory.
  virtual absl::StatusOr<std::unique_ptr<WritableFile>> Create(const std::string& path) = 0;
  virtual absl::Status Truncate(const std::string& path, int64_t size) = 0;
  // OK when it is not there.
  virtual absl::Status Remove(const std::string& path) = 0;
  // Sorted names; creates the folder when it is not there.
  virtual absl::StatusOr<std::vector<std::string>> ListOrCreate(const std::string& directory) = 0;
  virtual absl::Status SyncDirectory(const std::string& directory) = 0;
  virtual absl::StatusOr<int64_t> AvailableBytes(const std::string& directory) = 0;
};

// The machine's files. Never destroyed.
Files& RealFiles();

}  // namespace graft::fileservice
