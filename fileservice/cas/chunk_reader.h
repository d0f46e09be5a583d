// Reads chunks: from the index to the pack to the raw bytes, checked on the way.
//
// Needs the index and the packs alone, so that it also works beside a daemon that writes both, with
// an index opened read-only. Thread-safe.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "fileservice/cas/chunk_row.h"
#include "fileservice/cas/database.h"
#include "fileservice/cas/files.h"
#include "fileservice/cas/pack_cache.h"

namespace graft::fileservice {

// DATA_LOSS unless `stored` are the bytes that were written.
absl::Status CheckStored(const ChunkRow& row, absl::string_view stored);

class ChunkReader {
 public:
  // `db` and `files` must outlive the reader. `directory` is that of the packs.
  ChunkReader(const Database& db, Files& files, const std::string& directory, size_t max_open_packs)
      : db_(db), cache_(files, directory, max_open_packs) {}

  // NOT_FOUND when it is not durable (yet).
  absl::StatusOr<ChunkRow> Find(const ChunkId& id) const;
  absl::StatusOr<std::string> Read(const ChunkId& id) const;
  // Reads the raw bytes of a chunk that was found. DATA_LOSS when they are damaged; NOT_FOUND when
  // a compaction has moved them (Find again).
  absl::Status ReadRow(const ChunkRow& row, char* out) const;
  // Reads the bytes as they lie, with the base's id of a delta; errors as ReadRow.
  absl::StatusOr<std::string> ReadStored(const ChunkRow& row) const;
  // The raw bytes that `stored`, as they lie and seen to be sound, stand for: a part of it, or
  // `decoded`.
  absl::StatusOr<absl::string_view> RawOf(const ChunkRow& row, absl::string_view stored,
                                          std::string& decoded) const;
  // The same as Read with SHA-256 besides CRC32C.
  absl::Status Verify(const ChunkId& id) const;

  // DATA_LOSS unless the row points behind a record's header that says the same.
  absl::Status CheckHeader(const ChunkId& id, const ChunkRow& row) const;

  // The pack's file for reads of stored bytes.
  absl::StatusOr<std::shared_ptr<const ReadableFile>> OpenPack(uint32_t pack) const;
  // Lets go of a pack that is removed or was changed.
  void Forget(uint32_t pack) const { cache_.Forget(pack); }

 private:
  // `stored`: sound, and of a chunk that is not kRaw.
  absl::Status Decode(const ChunkRow& row, absl::string_view stored, char* out) const;

  const Database& db_;
  mutable PackCache cache_;
};

}  // namespace graft::fileservice
