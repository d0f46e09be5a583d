#include "fileservice/cas/chunk_row.h"

#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"

namespace graft::fileservice {

constexpr uint8_t kRowVersion = 1;

std::string ChunkRow::Encode() const {
  Encoder out;
  out.Byte(kRowVersion).Byte(static_cast<uint8_t>(kind)).Byte(static_cast<uint8_t>(encoding));
  out.Varint(pack).Varint(static_cast<uint64_t>(offset)).Varint(stored_bytes).Varint(raw_bytes);
  out.Fixed32(crc);
  if (encoding == ChunkEncoding::kDeltaPlanesZstd) out.Digest(base);
  return out.Take();
}

absl::StatusOr<ChunkRow> ChunkRow::Decode(absl::string_view value) {
  Decoder in(value);
  ChunkRow row;
  if (in.Byte() != kRowVersion) return absl::DataLossError("a chunk row of an unknown version");
  row.kind = static_cast<RecordKind>(in.Byte());
  row.encoding = static_cast<ChunkEncoding>(in.Byte());
  row.pack = static_cast<uint32_t>(in.Varint());
  row.offset = static_cast<int64_t>(in.Varint());
  row.stored_bytes = static_cast<uint32_t>(in.Varint());
  row.raw_bytes = static_cast<uint32_t>(in.Varint());
  row.crc = in.Fixed32();
  if (row.encoding == ChunkEncoding::kDeltaPlanesZstd) row.base = in.Digest();
  GRAFT_RETURN_IF_ERROR(in.Finish("a chunk row"));
  if (row.stored_bytes > kMaxStoredBytes || row.raw_bytes > kMaxRawBytes) {
    return absl::DataLossError("a chunk row names an impossible size");
  }
  return row;
}

ChunkRow RowOf(const ScannedRecord& record) {
  ChunkRow row;
  row.pack = record.header.pack;
  row.offset = record.payload_offset;
  row.stored_bytes = record.header.stored_bytes;
  row.raw_bytes = record.header.raw_bytes;
  row.crc = record.header.payload_crc;
  row.encoding = record.header.encoding;
  row.kind = record.header.kind;
  return row;
}

std::string PackRow::Encode() const {
  Encoder out;
  out.Byte(kRowVersion).Byte(sealed ? 1 : 0).Varint(static_cast<uint64_t>(committed_bytes));
  out.Varint(static_cast<uint64_t>(sealed_at_s)).Varint(static_cast<uint64_t>(scrubbed_at_s));
  return out.Take();
}

absl::StatusOr<PackRow> PackRow::Decode(absl::string_view value) {
  Decoder in(value);
  PackRow row;
  if (in.Byte() != kRowVersion) return absl::DataLossError("a pack row of an unknown version");
  row.sealed = in.Byte() != 0;
  row.committed_bytes = static_cast<int64_t>(in.Varint());
  row.sealed_at_s = static_cast<int64_t>(in.Varint());
  row.scrubbed_at_s = static_cast<int64_t>(in.Varint());
  GRAFT_RETURN_IF_ERROR(in.Finish("a pack row"));
  return row;
}

}  // namespace graft::fileservice
