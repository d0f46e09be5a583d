#include "fileservice/cas/pack.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"

namespace graft::fileservice {
namespace {

constexpr uint32_t kRecordMagic = 0x31434752;  // "RGC1"
constexpr absl::string_view kPackMagic = "GRAFTPAK";
constexpr uint32_t kPackVersion = 1;
constexpr size_t kHeaderCrcOffset = kRecordHeaderBytes - 4;

bool IsKnown(RecordKind kind) { return kind >= RecordKind::kChunk && kind <= RecordKind::kFileset; }
bool IsKnown(ChunkEncoding encoding) { return encoding <= ChunkEncoding::kDeltaPlanesZstd; }

int64_t NextBlock(int64_t offset) {
  return (offset + static_cast<int64_t>(kBlockBytes)) / static_cast<int64_t>(kBlockBytes) *
         static_cast<int64_t>(kBlockBytes);
}

}  // namespace

std::string RecordHeader::Encode() const {
  Encoder out;
  out.Fixed32(kRecordMagic).Byte(1).Byte(static_cast<uint8_t>(kind));
  out.Byte(static_cast<uint8_t>(encoding)).Byte(0);
  out.Fixed32(raw_bytes).Fixed32(stored_bytes).Fixed32(padding_bytes).Fixed32(payload_crc);
  out.Fixed32(pack).Digest(id);
  const uint32_t crc = Crc32c(0, out.bytes());
  return out.Fixed32(crc).Take();
}

absl::StatusOr<RecordHeader> RecordHeader::Decode(absl::string_view bytes, uint32_t pack) {
  if (bytes.size() < kRecordHeaderBytes) return absl::InvalidArgumentError("too short");
  bytes = bytes.substr(0, kRecordHeaderBytes);
  Decoder in(bytes);
  if (in.Fixed32() != kRecordMagic) return absl::InvalidArgumentError("not a record");
  Decoder crc(bytes.substr(kHeaderCrcOffset));
  if (crc.Fixed32() != Crc32c(0, bytes.substr(0, kHeaderCrcOffset))) {
    return absl::InvalidArgumentError("the record's header is damaged");
  }
  if (in.Byte() != 1) return absl::InvalidArgumentError("a record of a later version");
  RecordHeader header;
  header.kind = static_cast<RecordKind>(in.Byte());
  header.encoding = static_cast<ChunkEncoding>(in.Byte());
  in.Byte();
  header.raw_bytes = in.Fixed32();
  header.stored_bytes = in.Fixed32();
  header.padding_bytes = in.Fixed32();
  header.payload_crc = in.Fixed32();
  header.pack = in.Fixed32();
  header.id = in.Digest();
  const bool sound = IsKnown(header.kind) && IsKnown(header.encoding) &&
                     header.raw_bytes <= kMaxRawBytes && header.stored_bytes <= kMaxStoredBytes &&
                     header.padding_bytes < kBlockBytes && header.pack == pack;
  if (!sound) return absl::InvalidArgumentError("the record's header is impossible");
  return header;
}

std::string PackFileName(uint32_t pack) { return absl::StrFormat("%08x.pack", pack); }

absl::StatusOr<uint32_t> PackFromFileName(absl::string_view name) {
  uint32_t pack = 0;
  if (name.size() != 13 || !absl::EndsWith(name, ".pack") ||
      !absl::SimpleHexAtoi(name.substr(0, 8), &pack)) {
    return absl::NotFoundError(absl::StrCat(name, " is not the name of a pack"));
  }
  return pack;
}

std::string EncodePackHeader(uint32_t pack) {
  Encoder out;
  out.Raw(kPackMagic).Fixed32(kPackVersion).Fixed32(pack);
  const uint32_t crc = Crc32c(0, out.bytes());
  std::string block = out.Fixed32(crc).Take();
  block.resize(kPackHeaderBytes, '\0');
  return block;
}

absl::Status CheckPackHeader(absl::string_view block, uint32_t pack) {
  Decoder in(block);
  const bool magic = in.Raw(kPackMagic.size()) == kPackMagic;
  const uint32_t version = in.Fixed32();
  const uint32_t number = in.Fixed32();
  const uint32_t crc = in.Fixed32();
  if (!magic || !in.ok() || crc != Crc32c(0, block.substr(0, kPackMagic.size() + 8))) {
    return absl::DataLossError(absl::StrCat("the header of ", PackFileName(pack), " is damaged"));
  }
  if (version != kPackVersion) {
    return absl::UnimplementedError(
        absl::StrCat(PackFileName(pack), " was written by a later release (pack version ", version,
                     "); this one reads ", kPackVersion, ": install the release that wrote it"));
  }
  if (number != pack) {
    return absl::DataLossError(
        absl::StrCat(PackFileName(pack), " says that it is pack ", number, ": it was renamed"));
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ScanPack(const ReadableFile& file, uint32_t pack, int64_t offset,
                                 const std::function<absl::Status(const ScannedRecord&)>& visit) {
  std::string bytes(kPackHeaderBytes, '\0');
  if (file.size() < static_cast<int64_t>(kPackHeaderBytes)) return 0;
  GRAFT_RETURN_IF_ERROR(file.ReadAt(0, bytes.size(), bytes.data()));
  GRAFT_RETURN_IF_ERROR(CheckPackHeader(bytes, pack));
  int64_t at = std::max<int64_t>(offset, kPackHeaderBytes);
  int64_t sound_end = at;
  while (at + static_cast<int64_t>(kRecordHeaderBytes) <= file.size()) {
    GRAFT_RETURN_IF_ERROR(file.ReadAt(at, kRecordHeaderBytes, bytes.data()));
    const absl::StatusOr<RecordHeader> header =
        RecordHeader::Decode(absl::string_view(bytes).substr(0, kRecordHeaderBytes), pack);
    if (!header.ok()) {
      // Behind a commit the rest of the block is empty; a record may begin at the next one.
      if (at % static_cast<int64_t>(kBlockBytes) == 0) break;
      at = NextBlock(at);
      continue;
    }
    ScannedRecord record{*header, 0, 0};
    record.payload_offset = at + static_cast<int64_t>(kRecordHeaderBytes + header->padding_bytes);
    record.end = record.payload_offset + header->stored_bytes;
    if (record.end > file.size()) break;
    GRAFT_RETURN_IF_ERROR(visit(record));
    at = sound_end = record.end;
  }
  return sound_end;
}

namespace {

constexpr int64_t kSearchWindowBytes = 1 << 20;

// The first place at or behind `at` where the bytes of a header's magic lie, or the file's size.
absl::StatusOr<int64_t> FindMagic(const ReadableFile& file, int64_t at) {
  const std::string magic = Encoder().Fixed32(kRecordMagic).Take();
  std::string window;
  while (at + static_cast<int64_t>(kRecordHeaderBytes) <= file.size()) {
    window.resize(static_cast<size_t>(std::min(kSearchWindowBytes, file.size() - at)));
    GRAFT_RETURN_IF_ERROR(file.ReadAt(at, window.size(), window.data()));
    const size_t found = window.find(magic);
    if (found != std::string::npos) return at + static_cast<int64_t>(found);
    at += static_cast<int64_t>(window.size() - (magic.size() - 1));
  }
  return file.size();
}

}  // namespace

absl::Status SalvagePack(const ReadableFile& file, uint32_t pack,
                         const std::function<absl::StatusOr<bool>(const ScannedRecord&)>& visit) {
  std::string bytes(kRecordHeaderBytes, '\0');
  int64_t at = kPackHeaderBytes;
  while (true) {
    GRAFT_ASSIGN_OR_RETURN(at, FindMagic(file, at));
    if (at + static_cast<int64_t>(kRecordHeaderBytes) > file.size()) return absl::OkStatus();
    GRAFT_RETURN_IF_ERROR(file.ReadAt(at, bytes.size(), bytes.data()));
    const absl::StatusOr<RecordHeader> header = RecordHeader::Decode(bytes, pack);
    if (header.ok()) {
      ScannedRecord record{*header, 0, 0};
      record.payload_offset = at + static_cast<int64_t>(kRecordHeaderBytes + header->padding_bytes);
      record.end = record.payload_offset + header->stored_bytes;
      bool sound = false;
      if (record.end <= file.size()) {
        GRAFT_ASSIGN_OR_RETURN(sound, visit(record));
      }
      if (sound) {
        at = record.end;
        continue;
      }
    }
    ++at;
  }
}

}  // namespace graft::fileservice
