// Reads one file of a version in order, or from any offset: from the store's chunks, each checked
// against its CRC, or from where it was registered in place.
//
// For one thread at a time.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/file.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/catalog/catalog.h"
#include "fileservice/service/chunk_cache.h"

namespace graft::fileservice {

class FileReader {
 public:
  // NOT_FOUND without the file; FAILED_PRECONDITION (FILE_CHANGED_IN_PLACE) when it was registered
  // in place and is not what it was.
  static absl::StatusOr<std::unique_ptr<FileReader>> Open(const Catalog& catalog,
                                                          const ChunkStore& store,
                                                          const ResolvedVersion& version,
                                                          const std::string& path,
                                                          ChunkCache* cache = nullptr);

  const Entry& entry() const { return entry_; }
  // Bytes of a pack.
  struct Extent {
    std::shared_ptr<const ReadableFile> pack;  // shared: a compaction may remove its name
    int64_t offset;
    size_t size;
  };
  // Reads at least 1 and at most `max` bytes at `offset`, which lies inside of the file. Reading on
  // where the last call ended costs no search. DATA_LOSS (DATA_LOST) for damaged bytes. `extents`,
  // where given, becomes where the same bytes lie, in their order, for sendfile(2); empty where a
  // part of them does not lie as it is.
  absl::StatusOr<size_t> ReadSome(int64_t offset, size_t max, char* out,
                                  std::vector<Extent>* extents = nullptr);
  absl::Status ReadAt(int64_t offset, size_t size, char* out);
  // Of a file registered in place, for sendfile(2); -1 for others, whose bytes are checked on their
  // way.
  int in_place_fd() const { return in_place_.get(); }
  // FAILED_PRECONDITION (FILE_CHANGED_IN_PLACE) when such a file is not what it was.
  absl::Status CheckInPlace() const;

 private:
  FileReader(const Catalog& catalog, const ChunkStore& store, ChunkCache* cache, std::string name,
             Entry entry)
      : catalog_(catalog), store_(store), cache_(cache), name_(std::move(name)), entry_(entry) {}
  absl::Status Seek(int64_t offset);
  // Returns where it lies.
  absl::StatusOr<ChunkRow> ReadChunk(const ChunkRef& chunk, char* out) const;
  // False when it does not lie as it is.
  bool AddExtent(const ChunkRow& row, std::vector<Extent>& extents) const;
  absl::Status ReadPart(const ChunkRef& chunk, size_t skip, size_t size, char* out) const;
  absl::Status OpenInPlace(const std::string& path);

  const Catalog& catalog_;
  const ChunkStore& store_;
  ChunkCache* const cache_;  // null: none
  const std::string name_;   // for messages
  const Entry entry_;
  UniqueFd in_place_;
  // The page that holds the position, and where in the file its first chunk begins.
  uint32_t page_number_ = 0;
  bool page_loaded_ = false;
  FilePage page_;
  int64_t chunk_offset_ = 0;  // where chunks[chunk_] begins in the file
  size_t chunk_ = 0;
};

}  // namespace graft::fileservice
