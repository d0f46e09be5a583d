#include "fileservice/catalog/reencode.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fileservice/cas/chunker.h"
#include "fileservice/cas/codec.h"
#include "fileservice/cas/encoding.h"

namespace graft::fileservice {
namespace {

constexpr uint8_t kProgressVersion = 1;
// Below this a record's header and a second read cost more than is saved.
constexpr uint32_t kMinChunkBytes = 4096;

std::string ProgressKey(const FilesetRecord& fileset) {
  return absl::StrCat("reencode/", fileset.uid);
}

int WidthOf(absl::string_view dtype) {
  if (dtype == "BF16" || dtype == "F16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  return 1;
}

}  // namespace

std::string Reencoder::Progress::Encode() const {
  return Encoder()
      .Byte(kProgressVersion)
      .Varint(static_cast<uint64_t>(done))
      .Varint(static_cast<uint64_t>(keyframe))
      .Varint(static_cast<uint64_t>(used))
      .Take();
}

absl::StatusOr<Reencoder::Progress> Reencoder::Progress::Decode(absl::string_view value) {
  Decoder in(value);
  if (in.Byte() != kProgressVersion) {
    return absl::DataLossError("the progress of re-encoding has an unknown version");
  }
  Progress progress;
  progress.done = static_cast<int64_t>(in.Varint());
  progress.keyframe = static_cast<int64_t>(in.Varint());
  progress.used = static_cast<int64_t>(in.Varint());
  GRAFT_RETURN_IF_ERROR(in.Finish("the progress of re-encoding"));
  return progress;
}

absl::StatusOr<Reencoder::Progress> Reencoder::LoadProgress(const FilesetRecord& fileset) const {
  const absl::StatusOr<std::string> value = store_.db().Get(Column::kMeta, ProgressKey(fileset));
  if (absl::IsNotFound(value.status())) return Progress();
  GRAFT_RETURN_IF_ERROR(value.status());
  return Progress::Decode(*value);
}

// What the power takes of it is done again, and finds nothing to do.
absl::Status Reencoder::SaveProgress(const FilesetRecord& fileset, const Progress& progress) {
  Database::Batch batch(store_.db());
  batch.Put(Column::kMeta, ProgressKey(fileset), progress.Encode());
  return store_.db().Commit(batch, Database::Durability::kEventual);
}

absl::StatusOr<Reencoder::Report> Reencoder::Run() {
  Report report;
  GRAFT_ASSIGN_OR_RETURN(
      const std::vector<FilesetRecord> filesets,
      catalog_.ListFilesets(
          "", [](const FilesetRecord& fileset) { return fileset.version_count > 1; }, {},
          SIZE_MAX));
  bool known_what_stays = false;
  for (const FilesetRecord& fileset : filesets) {
    GRAFT_ASSIGN_OR_RETURN(const Progress progress, LoadProgress(fileset));
    if (progress.done + 1 >= fileset.latest_version) continue;
    if (!known_what_stays) GRAFT_RETURN_IF_ERROR(FindWhatStays());
    known_what_stays = true;
    GRAFT_RETURN_IF_ERROR(ReencodeFileset(fileset, report));
    if (options_.stop()) break;
  }
  stays_.clear();
  return report;
}

absl::Status Reencoder::KeepVersion(const ResolvedVersion& version) {
  if (!version.version.in_place_root.empty()) return absl::OkStatus();
  absl::Status status;
  GRAFT_RETURN_IF_ERROR(
      catalog_.VisitEntries(version, "", "", [&](absl::string_view path, const Entry& entry) {
        if (ProfileForName(path) != ChunkProfile::kSafetensors) return true;
        const absl::StatusOr<FilePage> file = catalog_.GetFile(entry.sha256);
        status = file.status();
        if (!status.ok()) return false;
        for (const ChunkRef& chunk : file->chunks) stays_.insert(chunk.id);
        return true;
      }));
  return status;
}

// The bases of deltas, and what is read now.
absl::Status Reencoder::FindWhatStays() {
  GRAFT_RETURN_IF_ERROR(store_.db().ScanRows(
      Column::kChunk, nullptr, [&](absl::string_view, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
        if (row.encoding == ChunkEncoding::kDeltaPlanesZstd) stays_.insert(row.base);
        return absl::OkStatus();
      }));
  GRAFT_ASSIGN_OR_RETURN(
      const std::vector<FilesetRecord> filesets,
      catalog_.ListFilesets(
          "", [](const FilesetRecord& fileset) { return fileset.version_count > 0; }, {},
          SIZE_MAX));
  for (const FilesetRecord& fileset : filesets) {
    const FilesetName name{fileset.workspace, fileset.name};
    std::vector<std::string> numbers = {"latest"};
    GRAFT_ASSIGN_OR_RETURN(const std::vector<Ref> refs, catalog_.ListRefs(name));
    for (const Ref& ref : refs) numbers.push_back(absl::StrCat(ref.version));
    GRAFT_ASSIGN_OR_RETURN(const std::vector<Pin> pins, catalog_.ListPins(fileset, 0));
    for (const Pin& pin : pins) numbers.push_back(absl::StrCat(pin.version));
    std::sort(numbers.begin(), numbers.end());
    numbers.erase(std::unique(numbers.begin(), numbers.end()), numbers.end());
    for (const std::string& number : numbers) {
      const absl::StatusOr<ResolvedVersion> version = catalog_.Resolve(name, number);
      if (absl::IsNotFound(version.status())) continue;  // deleted meanwhile
      GRAFT_RETURN_IF_ERROR(version.status());
      GRAFT_RETURN_IF_ERROR(KeepVersion(*version));
    }
  }
  return absl::OkStatus();
}

absl::Status Reencoder::ReencodeFileset(const FilesetRecord& fileset, Report& report) {
  GRAFT_ASSIGN_OR_RETURN(Progress progress, LoadProgress(fileset));
  GRAFT_ASSIGN_OR_RETURN(std::vector<VersionRecord> versions,
                         catalog_.ListVersions(fileset, INT64_MAX, SIZE_MAX));
  std::reverse(versions.begin(), versions.end());
  std::map<std::string, Piece> keyframe;
  const auto use_keyframe = [&](const std::vector<Piece>& pieces) {
    keyframe.clear();
    for (const Piece& piece : pieces) keyframe[piece.place] = piece;
  };
  for (const VersionRecord& version : versions) {
    if (version.number == progress.keyframe) {
      GRAFT_ASSIGN_OR_RETURN(const std::vector<Piece> pieces, PiecesOf({fileset, version}));
      use_keyframe(pieces);
    }
    if (version.number <= progress.done) continue;
    if (version.number == versions.back().number || options_.stop()) break;
    GRAFT_ASSIGN_OR_RETURN(const std::vector<Piece> pieces, PiecesOf({fileset, version}));
    ++report.versions;
    if (!pieces.empty() && !keyframe.empty() && progress.used < options_.versions_per_keyframe) {
      GRAFT_RETURN_IF_ERROR(ReencodeVersion(pieces, keyframe, report));
      ++progress.used;
    } else if (!pieces.empty()) {
      use_keyframe(pieces);
      progress.keyframe = version.number;
      progress.used = 0;
    }
    progress.done = version.number;
    GRAFT_RETURN_IF_ERROR(SaveProgress(fileset, progress));
  }
  return absl::OkStatus();
}

absl::Status Reencoder::ReencodeVersion(const std::vector<Piece>& pieces,
                                        const std::map<std::string, Piece>& keyframe,
                                        Report& report) {
  last_ = 0;
  ChunkStore::Ticket first = 0;
  for (const Piece& piece : pieces) {
    const auto base = keyframe.find(piece.place);
    if (base == keyframe.end() || base->second.size != piece.size) continue;
    if (base->second.id == piece.id || stays_.contains(piece.id)) continue;
    const absl::Status status = ReencodeChunk(piece, base->second, report);
    if (first == 0) first = last_;
    if (status.ok()) continue;
    // What is damaged is the scrub's to find again and to mend.
    if (!absl::IsDataLoss(status) && !absl::IsNotFound(status)) return status;
    LOG_WARNING("a chunk was not encoded anew",
                {{"chunk", ToHex(piece.id)}, {"status", status.ToString()}});
  }
  return store_.WaitDurable(first, last_);
}

absl::Status Reencoder::ReencodeChunk(const Piece& piece, const Piece& base, Report& report) {
  GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, store_.Find(piece.id));
  GRAFT_ASSIGN_OR_RETURN(const ChunkRow base_row, store_.Find(base.id));
  if (row.encoding == ChunkEncoding::kDeltaPlanesZstd ||
      base_row.encoding == ChunkEncoding::kDeltaPlanesZstd) {
    return absl::OkStatus();
  }
  GRAFT_ASSIGN_OR_RETURN(const std::string raw, store_.Read(piece.id));
  GRAFT_ASSIGN_OR_RETURN(const std::string base_raw, store_.Read(base.id));
  if (Sha256::Of(raw) != piece.id || Sha256::Of(base_raw) != base.id) {
    return absl::DataLossError("a chunk has another SHA-256 than its name");
  }
  const std::string delta = EncodeDelta(raw, base_raw, piece.width);
  if (delta.empty() || delta.size() + sizeof(ChunkId) >= row.stored_bytes) return absl::OkStatus();
  // The old bytes will be given up: the new ones must give them, here and now.
  std::string again(raw.size(), '\0');
  GRAFT_RETURN_IF_ERROR(DecodeDelta(delta, base_raw, raw.size(), again.data()));
  if (again != raw) return absl::InternalError("a delta does not give its bytes");
  ChunkRow encoded;
  encoded.kind = row.kind;
  encoded.encoding = ChunkEncoding::kDeltaPlanesZstd;
  encoded.raw_bytes = row.raw_bytes;
  encoded.base = base.id;
  GRAFT_ASSIGN_OR_RETURN(last_, store_.Rewrite(piece.id, delta, encoded));
  stays_.insert(base.id);
  ++report.chunks;
  report.bytes_before += row.stored_bytes;
  report.bytes_after += static_cast<int64_t>(delta.size() + sizeof(ChunkId));
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Reencoder::Piece>> Reencoder::PiecesOf(
    const ResolvedVersion& version) const {
  std::vector<Piece> pieces;
  if (!version.version.in_place_root.empty()) return pieces;
  absl::Status status;
  GRAFT_RETURN_IF_ERROR(
      catalog_.VisitEntries(version, "", "", [&](absl::string_view path, const Entry& entry) {
        if (ProfileForName(path) == ChunkProfile::kSafetensors) status = AddPieces(entry, pieces);
        return status.ok();
      }));
  // A version that was deleted meanwhile, or a file that cannot be read, has none.
  if (absl::IsDataLoss(status) || absl::IsNotFound(status)) return std::vector<Piece>();
  GRAFT_RETURN_IF_ERROR(status);
  return pieces;
}

// The length of the header and the header itself; chunks end where it ends.
absl::StatusOr<std::string> Reencoder::ReadHead(const FilePage& file) const {
  std::string head;
  for (const ChunkRef& chunk : file.chunks) {
    const uint64_t wanted = SafetensorsHeadBytes(head, file.size);
    if (!head.empty() && head.size() >= wanted) break;
    GRAFT_ASSIGN_OR_RETURN(const std::string bytes, store_.Read(chunk.id));
    head += bytes;
  }
  return head;
}

absl::Status Reencoder::AddPieces(const Entry& entry, std::vector<Piece>& pieces) const {
  GRAFT_ASSIGN_OR_RETURN(const FilePage file, catalog_.GetFile(entry.sha256));
  if (file.profile != ChunkProfile::kSafetensors) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(const std::string head, ReadHead(file));
  const std::vector<TensorExtent> tensors = ParseSafetensorsHead(head, entry.size);
  auto tensor = tensors.begin();
  int64_t at = 0;
  for (const ChunkRef& chunk : file.chunks) {
    while (tensor != tensors.end() && tensor->end <= at) ++tensor;
    if (tensor == tensors.end()) break;
    if (at >= tensor->begin && chunk.size >= kMinChunkBytes) {
      pieces.push_back({absl::StrCat(tensor->name, "|", tensor->dtype, "|", tensor->shape, "|",
                                     at - tensor->begin),
                        chunk.id, chunk.size, WidthOf(tensor->dtype)});
    }
    at += chunk.size;
  }
  return absl::OkStatus();
}

}  // namespace graft::fileservice
