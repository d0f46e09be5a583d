// One file that comes into a session as plain bytes, in order: cut, hashed and stored here, for
// clients that do none of it. What is durable is kept by the catalog, so that the file is taken up
// there after a cut of the client or of the server.
//
// For one thread at a time; one intake of a (session, path) at a time, see IntakeTable.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/digest.h"
#include "base/mutex.h"
#include "fileservice/cas/chunker.h"
#include "fileservice/service/data_plane.h"

namespace graft::fileservice {

class FileIntake {
 public:
  // Takes up what was kept. `declared_bytes`, where they are known, let a safetensors file be cut
  // at its tensors. INVALID_ARGUMENT (PATH_INVALID); ABORTED while somebody else sends it.
  static absl::StatusOr<std::unique_ptr<FileIntake>> Open(const DataPlane& plane,
                                                          const SessionRecord& session,
                                                          const std::string& path,
                                                          std::optional<int64_t> declared_bytes);
  // How far the file got: durable bytes, or all of them once it is staged.
  struct Extent {
    int64_t durable_bytes = 0;
    bool complete = false;
  };
  static absl::StatusOr<Extent> Query(const DataPlane& plane, const SessionRecord& session,
                                      const std::string& path);
  ~FileIntake();

  // Where the next bytes belong.
  int64_t offset() const { return taken_; }
  absl::Status Take(absl::string_view bytes);
  // Makes what was cut durable and keeps it. Returns where to go on.
  absl::StatusOr<int64_t> Pause();
  // Whether all bytes that were declared are there.
  bool full() const { return declared_bytes_.has_value() && taken_ == *declared_bytes_; }
  // Stages the file. INVALID_ARGUMENT unless it has the declared size, or (DIGEST_MISMATCH) not the
  // hash that is expected; the file then starts over.
  absl::StatusOr<Entry> Finish(const std::optional<Sha256Digest>& expected, bool executable);

 private:
  FileIntake(const DataPlane& plane, const SessionRecord& session, std::string path,
             std::optional<int64_t> declared_bytes)
      : plane_(plane), session_(session), path_(std::move(path)), declared_bytes_(declared_bytes) {}
  absl::Status TakeUp();
  absl::Status Cut(bool at_end);
  absl::Status Put(absl::string_view chunk);
  void ChooseChunker();

  const DataPlane& plane_;
  const SessionRecord session_;
  const std::string path_;
  const std::optional<int64_t> declared_bytes_;
  FilePage file_;  // the chunks that were cut
  Sha256 hash_;    // of them
  std::unique_ptr<Chunker> chunker_;
  std::string waiting_;  // not cut yet
  int64_t taken_ = 0;
  int64_t unsaved_bytes_ = 0;
  int64_t stored_bytes_ = 0;
  ChunkStore::Ticket last_ = 0;
};

// Which files are coming in. Thread-safe.
class IntakeTable {
 public:
  bool Begin(const std::string& session, const std::string& path) {
    MutexLock lock(mu_);
    return open_.emplace(session, path).second;
  }
  void End(const std::string& session, const std::string& path) {
    MutexLock lock(mu_);
    open_.erase({session, path});
  }

 private:
  Mutex mu_;
  std::set<std::pair<std::string, std::string>> open_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::fileservice
