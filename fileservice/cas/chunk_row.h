// What the index knows of a chunk.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fileservice/cas/pack.h"

namespace graft::fileservice {

struct ChunkRow {
  uint32_t pack = 0;
  int64_t offset = 0;  // of the payload
  uint32_t stored_bytes = 0;
  uint32_t raw_bytes = 0;
  uint32_t crc = 0;  // CRC32C of the stored bytes
  ChunkEncoding encoding = ChunkEncoding::kRaw;
  RecordKind kind = RecordKind::kChunk;
  ChunkId base{};  // of kDeltaPlanesZstd

  std::string Encode() const;
  static absl::StatusOr<ChunkRow> Decode(absl::string_view value);
};

// The row of a record as its header tells it; a delta's base stands in its payload.
ChunkRow RowOf(const ScannedRecord& record);

// What the index knows of a pack.
struct PackRow {
  // Once sealed a pack never grows.
  bool sealed = false;
  // The length up to which every record is indexed.
  int64_t committed_bytes = 0;
  // When it was sealed, in seconds since 1970; garbage collection counts the grace from here.
  int64_t sealed_at_s = 0;
  int64_t scrubbed_at_s = 0;

  std::string Encode() const;
  static absl::StatusOr<PackRow> Decode(absl::string_view value);
};

}  // namespace graft::fileservice
