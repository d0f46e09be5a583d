#include "fileservice/cas/chunk_reader.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/status_macros.h"
#include "fileservice/cas/codec.h"
#include "fileservice/cas/encoding.h"

namespace graft::fileservice {

absl::Status CheckStored(const ChunkRow& row, absl::string_view stored) {
  if (Crc32c(0, stored) == row.crc) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("a chunk at ", row.offset, " of ", PackFileName(row.pack),
                                          " is damaged; run `graft-fileservice scrub`"));
}

absl::StatusOr<ChunkRow> ChunkReader::Find(const ChunkId& id) const {
  const absl::StatusOr<std::string> value = db_.Get(Column::kChunk, BytesOf(id));
  if (absl::IsNotFound(value.status())) {
    return absl::NotFoundError(absl::StrCat("chunk ", ToHex(id), " is not in the store"));
  }
  GRAFT_RETURN_IF_ERROR(value.status());
  return ChunkRow::Decode(*value);
}

absl::StatusOr<std::shared_ptr<const ReadableFile>> ChunkReader::OpenPack(uint32_t pack) const {
  return cache_.Open(pack);
}

absl::StatusOr<std::string> ChunkReader::ReadStored(const ChunkRow& row) const {
  GRAFT_ASSIGN_OR_RETURN(const std::shared_ptr<const ReadableFile> file, cache_.Open(row.pack));
  std::string stored(row.stored_bytes, '\0');
  GRAFT_RETURN_IF_ERROR(file->ReadAt(row.offset, stored.size(), stored.data()));
  GRAFT_RETURN_IF_ERROR(CheckStored(row, stored));
  return stored;
}

absl::Status ChunkReader::ReadRow(const ChunkRow& row, char* out) const {
  if (row.encoding == ChunkEncoding::kRaw) {
    GRAFT_ASSIGN_OR_RETURN(const std::shared_ptr<const ReadableFile> file, cache_.Open(row.pack));
    GRAFT_RETURN_IF_ERROR(file->ReadAt(row.offset, row.stored_bytes, out));
    return CheckStored(row, absl::string_view(out, row.stored_bytes));
  }
  GRAFT_ASSIGN_OR_RETURN(const std::string stored, ReadStored(row));
  return Decode(row, stored, out);
}

absl::StatusOr<absl::string_view> ChunkReader::RawOf(const ChunkRow& row, absl::string_view stored,
                                                     std::string& decoded) const {
  if (row.encoding == ChunkEncoding::kRaw) return stored;
  decoded.resize(row.raw_bytes);
  GRAFT_RETURN_IF_ERROR(Decode(row, stored, decoded.data()));
  return decoded;
}

absl::Status ChunkReader::Decode(const ChunkRow& row, absl::string_view stored, char* out) const {
  if (row.encoding == ChunkEncoding::kZstd) return Decompress(stored, row.raw_bytes, out);
  if (stored.size() < row.base.size()) return absl::DataLossError("a delta chunk is too short");
  GRAFT_ASSIGN_OR_RETURN(const ChunkRow base_row, Find(row.base));
  if (base_row.encoding == ChunkEncoding::kDeltaPlanesZstd) {
    return absl::DataLossError(absl::StrCat("the base of a delta is a delta: ", ToHex(row.base)));
  }
  std::string base(base_row.raw_bytes, '\0');
  GRAFT_RETURN_IF_ERROR(ReadRow(base_row, base.data()));
  return DecodeDelta(stored.substr(row.base.size()), base, row.raw_bytes, out);
}

absl::StatusOr<std::string> ChunkReader::Read(const ChunkId& id) const {
  // Once more when a compaction moved it between the look-up and the read.
  for (int attempt = 0;; ++attempt) {
    GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, Find(id));
    std::string out(row.raw_bytes, '\0');
    const absl::Status status = ReadRow(row, out.data());
    if (status.ok()) return out;
    if (!absl::IsNotFound(status) || attempt > 0) return status;
  }
}

absl::Status ChunkReader::Verify(const ChunkId& id) const {
  GRAFT_ASSIGN_OR_RETURN(const std::string raw, Read(id));
  if (Sha256::Of(raw) == id) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat("chunk ", ToHex(id), " has another SHA-256 than its name"));
}

absl::Status ChunkReader::CheckHeader(const ChunkId& id, const ChunkRow& row) const {
  const auto wrong = [&](absl::string_view why) {
    return absl::DataLossError(absl::StrCat("chunk ", ToHex(id), " at ", row.offset, " of ",
                                            PackFileName(row.pack), ": ", why));
  };
  const absl::StatusOr<std::shared_ptr<const ReadableFile>> file = cache_.Open(row.pack);
  if (!file.ok()) return wrong(file.status().message());
  if (row.offset + row.stored_bytes > (*file)->size()) return wrong("the pack ends before");
  // How much padding stands between header and payload is not in the row: it is looked for.
  const int64_t before = static_cast<int64_t>(
      kRecordHeaderBytes + (row.stored_bytes < kAlignPayloadsFromBytes ? 0 : kBlockBytes - 1));
  const int64_t begin = std::max<int64_t>(row.offset - before, kPackHeaderBytes);
  std::string bytes(static_cast<size_t>(std::max<int64_t>(row.offset - begin, 0)), '\0');
  GRAFT_RETURN_IF_ERROR((*file)->ReadAt(begin, bytes.size(), bytes.data()));
  for (size_t at = 0; at + kRecordHeaderBytes <= bytes.size(); ++at) {
    const absl::StatusOr<RecordHeader> header =
        RecordHeader::Decode(absl::string_view(bytes).substr(at), row.pack);
    if (!header.ok() || at + kRecordHeaderBytes + header->padding_bytes != bytes.size()) continue;
    const bool same = header->id == id && header->payload_crc == row.crc &&
                      header->raw_bytes == row.raw_bytes &&
                      header->stored_bytes == row.stored_bytes && header->encoding == row.encoding;
    return same ? absl::OkStatus() : wrong("the record there is another one");
  }
  return wrong("there is no record's header");
}

}  // namespace graft::fileservice
