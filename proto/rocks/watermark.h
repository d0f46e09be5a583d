// The highest revision that was ever acknowledged, kept apart from the store that holds it.
//
// A store that lost synced writes (a WAL that is gone, a tail that a disk dropped) opens without an
// error. This file, in another directory and best on another disk, is how that is seen. It has two
// slots with checksums, written in turn, so that a torn write leaves the one before.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"

namespace graft::rocks {

struct Watermark {
  uint64_t store_id = 0;
  uint64_t revision = 0;
};

// Not thread-safe.
class WatermarkFile {
 public:
  // Opens the file, or makes it. DATA_LOSS where it is there and neither slot is whole.
  static absl::StatusOr<WatermarkFile> Open(const std::string& path);

  // What was written last; nothing (revision 0, store 0) in a new file.
  const Watermark& current() const { return current_; }
  // Written and synced on return. After a failure the file must be opened again.
  absl::Status Write(const Watermark& watermark);

 private:
  WatermarkFile(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}
  UniqueFd fd_;
  std::string path_;
  Watermark current_;
  uint64_t sequence_ = 0;
};

}  // namespace graft::rocks
