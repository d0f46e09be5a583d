// Packs: append-only files of records, each with a header that proves it. FORMAT.md has the bytes.
//
// A pack is written by one PackWriter and never changed after; anyone may read it meanwhile, up to
// what was committed. What a torn write leaves behind the last commit is found by ScanPack.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/digest.h"
#include "fileservice/cas/files.h"

namespace graft::fileservice {

using ChunkId = Sha256Digest;  // of the raw bytes

// What a record is. Written in packs: never renumber.
enum class RecordKind : uint8_t {
  kChunk = 1,
  kVersion = 2,  // a published version with its file list, for fsck --rebuild-index
  kFile = 3,     // chunk lists of files, for the same
  kFileset = 4,  // a fileset with its refs and which versions it has, for the same
};

// How the stored bytes become the raw ones. Written in packs: never renumber.
enum class ChunkEncoding : uint8_t {
  kRaw = 0,
  kZstd = 1,
  // 32 bytes of the base's id, then the difference to the base's raw bytes (codec.h).
  kDeltaPlanesZstd = 2,
};

inline constexpr size_t kPackHeaderBytes = kBlockBytes;
inline constexpr size_t kRecordHeaderBytes = 64;
inline constexpr uint32_t kMaxRawBytes = 4 << 20;
// zstd may grow what does not compress by a little; nothing larger is ever written.
inline constexpr uint32_t kMaxStoredBytes = kMaxRawBytes + (64 << 10);
// Payloads of this size and above begin at a block, for direct reads and sendfile.
inline constexpr size_t kAlignPayloadsFromBytes = 256 << 10;

struct RecordHeader {
  RecordKind kind = RecordKind::kChunk;
  ChunkEncoding encoding = ChunkEncoding::kRaw;
  uint32_t raw_bytes = 0;
  uint32_t stored_bytes = 0;
  uint32_t padding_bytes = 0;  // between header and payload
  uint32_t payload_crc = 0;
  uint32_t pack = 0;
  ChunkId id{};

  std::string Encode() const;
  // INVALID_ARGUMENT for what is no header: a torn tail, or padding.
  static absl::StatusOr<RecordHeader> Decode(absl::string_view bytes, uint32_t pack);
};

// "0000002a.pack" and back; NOT_FOUND for other names.
std::string PackFileName(uint32_t pack);
absl::StatusOr<uint32_t> PackFromFileName(absl::string_view name);

std::string EncodePackHeader(uint32_t pack);
absl::Status CheckPackHeader(absl::string_view block, uint32_t pack);

struct ScannedRecord {
  RecordHeader header;
  int64_t payload_offset;
  int64_t end;
};
// Visits the records of a pack from `offset` on (0: the first), reading headers alone. Stops at the
// first bytes that are neither record nor padding and returns where that is: the pack's sound
// length. DATA_LOSS for a pack whose first block is damaged, UNIMPLEMENTED for one of a later
// version.
absl::StatusOr<int64_t> ScanPack(const ReadableFile& file, uint32_t pack, int64_t offset,
                                 const std::function<absl::Status(const ScannedRecord&)>& visit);

// The same for a pack that may be damaged anywhere: behind what is no record it looks for the next
// header, wherever that is. `visit` gets headers alone and says whether the payload is sound:
// behind an unsound one the search goes on inside of it.
absl::Status SalvagePack(const ReadableFile& file, uint32_t pack,
                         const std::function<absl::StatusOr<bool>(const ScannedRecord&)>& visit);

}  // namespace graft::fileservice
