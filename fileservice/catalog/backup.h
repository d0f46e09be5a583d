// Copies of the catalog's rows in the packs, from which the index is made again when it is lost
// (rebuild.h). Written before the rows themselves; FORMAT.md in fileservice/cas has their bytes.
//
// A fileset comes back as its latest state says; what was published after that state is in the
// versions' own copies. Pins, sessions and answers to request ids are not copied.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/catalog/records.h"

namespace graft::fileservice {

// A fileset and what can change without a publish.
struct FilesetState {
  FilesetRecord fileset;
  bool deleted = false;
  std::vector<int64_t> versions;            // that were not deleted
  std::map<std::string, std::string> refs;  // name -> value of the row

  std::string Encode() const;
  static absl::StatusOr<FilesetState> Decode(absl::string_view bytes);
};

// A version, or the part of it that fits into a record.
struct VersionBackup {
  FilesetRecord fileset;
  VersionRecord version;
  std::vector<std::pair<std::string, Entry>> entries;

  static absl::StatusOr<VersionBackup> Decode(absl::string_view bytes);
};

// A row of a file's chunk list.
struct FilePageBackup {
  Sha256Digest file;
  uint32_t number = 0;
  FilePage page;
};
absl::StatusOr<std::vector<FilePageBackup>> DecodeFilePages(absl::string_view bytes);

// Puts such records. What it puts is held for `lease` until a collection begins after the rows
// that name it were committed. For one thread.
class BackupWriter {
 public:
  BackupWriter(ChunkStore& store, std::string lease) : store_(store), lease_(std::move(lease)) {}

  // Both set the page's or the version's `backup`; the page must live until Finish.
  absl::Status AddFilePage(const Sha256Digest& file, uint32_t number, FilePage& page);
  absl::Status AddVersion(const FilesetRecord& fileset, VersionRecord& version,
                          const std::vector<std::pair<std::string, Entry>>& entries);
  absl::StatusOr<ChunkId> AddState(const FilesetState& state);
  // Returns once all of it is durable.
  absl::Status Finish();

 private:
  absl::StatusOr<ChunkId> Put(RecordKind kind, const std::string& bytes);
  absl::Status EndPages();

  ChunkStore& store_;
  const std::string lease_;
  std::string pages_;               // encoded, on their way into one record
  std::vector<FilePage*> waiting_;  // those in pages_
  // Of what was put; none: 0.
  ChunkStore::Ticket first_ = 0;
  ChunkStore::Ticket last_ = 0;
};

}  // namespace graft::fileservice
