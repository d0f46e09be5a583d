#include "fileservice/service/file_reader.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "rpc/status.h"

namespace graft::fileservice {

absl::StatusOr<std::unique_ptr<FileReader>> FileReader::Open(const Catalog& catalog,
                                                             const ChunkStore& store,
                                                             const ResolvedVersion& version,
                                                             const std::string& path,
                                                             ChunkCache* cache) {
  GRAFT_ASSIGN_OR_RETURN(const Entry entry, catalog.GetEntry(version, path));
  auto reader = std::unique_ptr<FileReader>(
      new FileReader(catalog, store, cache, absl::StrCat(version.name(), "/", path), entry));
  const std::string& root = version.version.in_place_root;
  if (!root.empty()) GRAFT_RETURN_IF_ERROR(reader->OpenInPlace(JoinPath(root, path)));
  return reader;
}

absl::Status FileReader::OpenInPlace(const std::string& path) {
  in_place_.reset(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW));
  return CheckInPlace();
}

absl::Status FileReader::CheckInPlace() const {
  struct stat info;
  const bool same =
      in_place_.valid() && fstat(in_place_.get(), &info) == 0 && info.st_size == entry_.size &&
      info.st_mtim.tv_sec * 1'000'000'000 + info.st_mtim.tv_nsec == entry_.in_place_mtime_ns;
  if (same) return absl::OkStatus();
  return rpc::ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                           absl::StrCat(name_,
                                        " was registered in place and was changed or removed "
                                        "since: register its folder again"))
      .Reason("FILE_CHANGED_IN_PLACE")
      .Metadata("path", name_)
      .Build();
}

absl::Status FileReader::Seek(int64_t offset) {
  if (!page_loaded_ || offset < chunk_offset_) {
    GRAFT_ASSIGN_OR_RETURN(page_, catalog_.GetFilePage(entry_.sha256, 0));
    page_loaded_ = true;
    page_number_ = 0;
    chunk_offset_ = 0;
    chunk_ = 0;
  }
  while (true) {
    if (chunk_ == page_.chunks.size()) {
      GRAFT_ASSIGN_OR_RETURN(page_, catalog_.GetFilePage(entry_.sha256, page_number_ + 1));
      ++page_number_;
      chunk_ = 0;
      if (page_.chunks.empty()) return absl::DataLossError(absl::StrCat(name_, " ends too early"));
    }
    const int64_t end = chunk_offset_ + page_.chunks[chunk_].size;
    if (offset < end) return absl::OkStatus();
    chunk_offset_ = end;
    ++chunk_;
  }
}

absl::StatusOr<ChunkRow> FileReader::ReadChunk(const ChunkRef& chunk, char* out) const {
  absl::Status status;
  for (int attempt = 0; attempt < 2; ++attempt) {
    const absl::StatusOr<ChunkRow> row = store_.Find(chunk.id);
    status = row.status();
    if (status.ok() && row->raw_bytes != chunk.size) {
      status = absl::DataLossError(absl::StrCat("chunk ", ToHex(chunk.id), " has another size"));
    }
    if (status.ok()) status = store_.ReadRow(*row, out);
    if (status.ok()) return *row;
    // A compaction may have moved it between the two.
    if (!absl::IsNotFound(status)) break;
  }
  if (!absl::IsDataLoss(status) && !absl::IsNotFound(status)) return status;
  return rpc::ErrorBuilder(absl::StatusCode::kDataLoss,
                           absl::StrCat(name_, " cannot be read: ", status.message()))
      .Reason("DATA_LOST")
      .Metadata("path", name_)
      .Build();
}

bool FileReader::AddExtent(const ChunkRow& row, std::vector<Extent>& extents) const {
  if (row.encoding != ChunkEncoding::kRaw) return false;
  auto pack = store_.OpenPack(row.pack);
  if (!pack.ok() || (*pack)->fd() < 0) return false;
  extents.push_back({*std::move(pack), row.offset, row.stored_bytes});
  return true;
}

absl::Status FileReader::ReadPart(const ChunkRef& chunk, size_t skip, size_t size,
                                  char* out) const {
  ChunkCache::Bytes whole = cache_ == nullptr ? nullptr : cache_->Find(chunk.id);
  if (whole == nullptr) {
    auto bytes = std::make_shared<std::string>(chunk.size, '\0');
    GRAFT_RETURN_IF_ERROR(ReadChunk(chunk, bytes->data()).status());
    whole = std::move(bytes);
    if (cache_ != nullptr) cache_->Put(chunk.id, whole);
  }
  std::memcpy(out, whole->data() + skip, size);
  return absl::OkStatus();
}

absl::StatusOr<size_t> FileReader::ReadSome(int64_t offset, size_t max, char* out,
                                            std::vector<Extent>* extents) {
  if (extents != nullptr) extents->clear();
  max = static_cast<size_t>(std::min<int64_t>(static_cast<int64_t>(max), entry_.size - offset));
  if (in_place_.valid()) {
    GRAFT_RETURN_IF_ERROR(CheckInPlace());
    const ssize_t got = pread(in_place_.get(), out, max, offset);
    if (got < 0) return ErrnoStatus(errno, absl::StrCat("cannot read ", name_));
    if (got == 0) return CheckInPlace();
    return static_cast<size_t>(got);
  }
  size_t done = 0;
  bool as_it_is = extents != nullptr;
  while (done < max) {
    GRAFT_RETURN_IF_ERROR(Seek(offset + static_cast<int64_t>(done)));
    const ChunkRef& chunk = page_.chunks[chunk_];
    const size_t skip = static_cast<size_t>(offset + static_cast<int64_t>(done) - chunk_offset_);
    const size_t wanted = std::min<size_t>(chunk.size - skip, max - done);
    if (skip == 0 && wanted == chunk.size) {
      GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ReadChunk(chunk, out + done));
      as_it_is = as_it_is && AddExtent(row, *extents);
    } else {
      // A part of the next chunk comes with the next call: whole chunks are read once.
      if (done > 0) break;
      as_it_is = false;
      GRAFT_RETURN_IF_ERROR(ReadPart(chunk, skip, wanted, out));
    }
    done += wanted;
  }
  if (extents != nullptr && !as_it_is) extents->clear();
  return done;
}

absl::Status FileReader::ReadAt(int64_t offset, size_t size, char* out) {
  while (size > 0) {
    GRAFT_ASSIGN_OR_RETURN(const size_t got, ReadSome(offset, size, out));
    offset += static_cast<int64_t>(got);
    out += got;
    size -= got;
  }
  return absl::OkStatus();
}

}  // namespace graft::fileservice
