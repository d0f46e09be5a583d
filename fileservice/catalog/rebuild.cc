#include "fileservice/catalog/rebuild.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/cas/chunk_reader.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/catalog/backup.h"
#include "fileservice/catalog/catalog.h"

namespace graft::fileservice {
namespace {

constexpr size_t kBatchBytes = 4 << 20;
constexpr size_t kOpenPacksInRebuild = 16;
// Every row that is made carries this epoch; publishes go on behind it.
constexpr int64_t kRebuiltEpoch = 1;

class Rebuilder {
 public:
  Rebuilder(Database& db, Files& files, const std::string& directory, Clock& clock)
      : db_(db),
        files_(files),
        directory_(directory),
        clock_(clock),
        batch_(db),
        reader_(db, files, directory, kOpenPacksInRebuild) {}

  absl::StatusOr<RebuildReport> Run() {
    GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names, files_.ListOrCreate(directory_));
    for (const std::string& name : names) {
      const absl::StatusOr<uint32_t> pack = PackFromFileName(name);
      if (pack.ok()) GRAFT_RETURN_IF_ERROR(ReadPack(*pack));
    }
    GRAFT_RETURN_IF_ERROR(PutChunks());
    GRAFT_RETURN_IF_ERROR(ReadCopies());
    GRAFT_RETURN_IF_ERROR(PutFilesets());
    GRAFT_RETURN_IF_ERROR(PutPages());
    batch_.Put(Column::kMeta, kEpochKey, EncodeEpoch(kRebuiltEpoch));
    GRAFT_RETURN_IF_ERROR(db_.Commit(batch_));
    return std::move(report_);
  }

 private:
  struct VersionParts {
    FilesetRecord fileset;
    VersionRecord version;
    std::map<std::string, Entry> entries;
    std::vector<ChunkId> backups;
  };

  absl::Status Flush(size_t above) {
    if (batch_.bytes() <= above) return absl::OkStatus();
    GRAFT_RETURN_IF_ERROR(db_.Commit(batch_));
    batch_.Clear();
    return absl::OkStatus();
  }
  void Lose(std::string what) { report_.losses.push_back(std::move(what)); }

  absl::Status ReadPack(uint32_t pack);
  absl::Status PutChunks();
  absl::Status ReadCopies();
  absl::Status ReadCopy(const ChunkId& id, RecordKind kind);
  absl::Status PutFilesets();
  absl::Status PutFileset(const std::string& uid, FilesetState state, bool has_state);
  const VersionParts* WholeVersion(const std::map<Sha256Digest, VersionParts>& candidates);
  void PutVersion(const VersionParts& parts);
  void LookForFiles(const VersionParts& parts);
  absl::Status PutPages();

  Database& db_;
  Files& files_;
  const std::string directory_;
  Clock& clock_;
  Database::Batch batch_;
  ChunkReader reader_;
  RebuildReport report_;

  // The best record of each chunk: the latest that is no delta, else the latest.
  absl::flat_hash_map<ChunkId, ChunkRow> chunks_;
  std::map<std::string, FilesetState> states_;  // by uid
  // By uid and number. A publish that the power cut short may have left another of the same number.
  std::map<std::pair<std::string, int64_t>, std::map<Sha256Digest, VersionParts>> versions_;
  std::map<std::pair<Sha256Digest, uint32_t>, FilePage> pages_;
  std::map<std::string, UsageRecord> usage_;
};

absl::Status Rebuilder::ReadPack(uint32_t pack) {
  GRAFT_ASSIGN_OR_RETURN(const auto file, reader_.OpenPack(pack));
  std::string stored(kPackHeaderBytes, '\0');
  if (file->size() < static_cast<int64_t>(kPackHeaderBytes)) return absl::OkStatus();
  GRAFT_RETURN_IF_ERROR(file->ReadAt(0, stored.size(), stored.data()));
  // A damaged header says nothing against the records; a later release's packs are left alone.
  const absl::Status header = CheckPackHeader(stored, pack);
  if (absl::IsUnimplemented(header)) return header;
  int64_t end = kPackHeaderBytes;
  GRAFT_RETURN_IF_ERROR(
      SalvagePack(*file, pack, [&](const ScannedRecord& record) -> absl::StatusOr<bool> {
        const RecordHeader& header = record.header;
        stored.resize(header.stored_bytes);
        const absl::Status read = file->ReadAt(record.payload_offset, stored.size(), stored.data());
        if (!read.ok() || Crc32c(0, stored) != header.payload_crc) {
          Lose(absl::StrCat("a damaged record of chunk ", ToHex(header.id), " in ",
                            PackFileName(pack)));
          return false;
        }
        ChunkRow row = RowOf(record);
        if (row.encoding == ChunkEncoding::kDeltaPlanesZstd) {
          if (stored.size() < sizeof(ChunkId)) return false;
          row.base = DigestFromBytes(stored);
        }
        const auto [at, inserted] = chunks_.try_emplace(header.id, row);
        const bool is_delta = row.encoding == ChunkEncoding::kDeltaPlanesZstd;
        if (!inserted && (!is_delta || at->second.encoding == row.encoding)) at->second = row;
        end = record.end;
        return true;
      }));
  PackRow row;
  row.sealed = true;
  row.committed_bytes = end;
  row.sealed_at_s = absl::ToUnixSeconds(clock_.WallNow());
  batch_.Put(Column::kPack, PackKey(pack), row.Encode());
  ++report_.packs;
  return Flush(kBatchBytes);
}

absl::Status Rebuilder::PutChunks() {
  for (const auto& [id, row] : chunks_) {
    if (row.encoding == ChunkEncoding::kDeltaPlanesZstd) {
      const auto base = chunks_.find(row.base);
      if (base == chunks_.end() || base->second.encoding == ChunkEncoding::kDeltaPlanesZstd) {
        Lose(absl::StrCat("chunk ", ToHex(id), ", whose base ", ToHex(row.base), " is gone"));
        continue;
      }
    }
    batch_.Put(Column::kChunk, BytesOf(id), row.Encode());
    ++report_.chunks;
    report_.chunk_bytes += row.raw_bytes;
    GRAFT_RETURN_IF_ERROR(Flush(kBatchBytes));
  }
  return Flush(0);
}

absl::Status Rebuilder::ReadCopies() {
  for (const auto& [id, row] : chunks_) {
    if (row.kind != RecordKind::kChunk) GRAFT_RETURN_IF_ERROR(ReadCopy(id, row.kind));
  }
  return absl::OkStatus();
}

absl::Status Rebuilder::ReadCopy(const ChunkId& id, RecordKind kind) {
  GRAFT_ASSIGN_OR_RETURN(const std::string bytes, reader_.Read(id));
  if (kind == RecordKind::kFileset) {
    GRAFT_ASSIGN_OR_RETURN(FilesetState state, FilesetState::Decode(bytes));
    state.fileset.state = id;
    FilesetState& known = states_[state.fileset.uid];
    if (state.fileset.sequence > known.fileset.sequence) known = std::move(state);
  } else if (kind == RecordKind::kVersion) {
    GRAFT_ASSIGN_OR_RETURN(const VersionBackup part, VersionBackup::Decode(bytes));
    VersionParts& parts = versions_[{part.fileset.uid, part.version.number}][part.version.digest];
    parts.fileset = part.fileset;
    parts.version = part.version;
    parts.entries.insert(part.entries.begin(), part.entries.end());
    parts.backups.push_back(id);
  } else {
    GRAFT_ASSIGN_OR_RETURN(std::vector<FilePageBackup> pages, DecodeFilePages(bytes));
    for (FilePageBackup& backup : pages) {
      backup.page.backup = id;
      pages_[{backup.file, backup.number}] = std::move(backup.page);
    }
  }
  return absl::OkStatus();
}

// What was published last tells more of a fileset than its state, except of what was deleted.
absl::Status Rebuilder::PutFilesets() {
  std::map<std::string, std::pair<FilesetState, bool>> filesets;  // uid -> state, has one
  for (auto& [uid, state] : states_) filesets[uid] = {state, true};
  for (const auto& [key, candidates] : versions_) {
    FilesetRecord& fileset = filesets[key.first].first.fileset;
    for (const auto& [digest, parts] : candidates) {
      if (parts.fileset.sequence <= fileset.sequence) continue;
      const ChunkId state = fileset.state;
      fileset = parts.fileset;
      fileset.state = state;
    }
  }
  // A name is held by the fileset that was made last: the others were deleted before.
  std::map<std::pair<std::string, std::string>, std::pair<int64_t, std::string>> holders;
  for (const auto& [uid, fileset] : filesets) {
    const FilesetRecord& record = fileset.first.fileset;
    auto& holder = holders[{record.workspace, record.name}];
    if (!fileset.first.deleted) holder = std::max(holder, {record.create_time_ms, uid});
  }
  for (auto& [uid, fileset] : filesets) {
    const FilesetRecord& record = fileset.first.fileset;
    if (fileset.first.deleted || holders[{record.workspace, record.name}].second != uid) continue;
    GRAFT_RETURN_IF_ERROR(PutFileset(uid, std::move(fileset.first), fileset.second));
  }
  for (const auto& [workspace, usage] : usage_) {
    batch_.Put(Column::kUsage, workspace, usage.Encode());
  }
  return absl::OkStatus();
}

absl::Status Rebuilder::PutFileset(const std::string& uid, FilesetState state, bool has_state) {
  FilesetRecord& fileset = state.fileset;
  const int64_t known_up_to = has_state ? states_[uid].fileset.latest_version : 0;
  fileset.version_count = fileset.logical_bytes = 0;
  for (auto at = versions_.lower_bound({uid, 0}); at != versions_.end() && at->first.first == uid;
       ++at) {
    const int64_t number = at->first.second;
    const bool kept =
        number > known_up_to ||
        std::find(state.versions.begin(), state.versions.end(), number) != state.versions.end();
    const VersionParts* version = kept ? WholeVersion(at->second) : nullptr;
    if (version == nullptr) continue;
    PutVersion(*version);
    ++fileset.version_count;
    fileset.logical_bytes += version->version.size_bytes;
    fileset.latest_version = std::max(fileset.latest_version, number);
    GRAFT_RETURN_IF_ERROR(Flush(kBatchBytes));
  }
  for (const auto& [name, value] : state.refs) {
    batch_.Put(Column::kRef, RefKey(uid, name), value);
    ++report_.refs;
  }
  usage_[fileset.workspace].logical_bytes += fileset.logical_bytes;
  batch_.Put(Column::kFileset, FilesetKey(fileset.workspace, fileset.name), fileset.Encode());
  ++report_.filesets;
  return absl::OkStatus();
}

// The latest of which every part is there, or null.
const Rebuilder::VersionParts* Rebuilder::WholeVersion(
    const std::map<Sha256Digest, VersionParts>& candidates) {
  const VersionParts* whole = nullptr;
  for (const auto& [digest, parts] : candidates) {
    if (ManifestDigest(parts.entries) != digest) continue;
    if (whole == nullptr || parts.version.create_time_ms > whole->version.create_time_ms) {
      whole = &parts;
    }
  }
  if (whole == nullptr) {
    const VersionParts& parts = candidates.begin()->second;
    Lose(absl::StrCat(
        VersionName({parts.fileset.workspace, parts.fileset.name}, parts.version.number),
        ": parts of its file list are gone"));
  }
  return whole;
}

void Rebuilder::PutVersion(const VersionParts& parts) {
  VersionRecord version = parts.version;
  version.backups = parts.backups;
  for (const auto& [path, entry] : parts.entries) {
    batch_.Put(Column::kEntry, EntryKey(parts.fileset.uid, version.number, path), entry.Encode());
  }
  batch_.Put(Column::kVersion, VersionKey(parts.fileset.uid, version.number), version.Encode());
  ++report_.versions;
  if (version.in_place_root.empty()) LookForFiles(parts);
}

// Makes the files' chunks visible in the workspace and names what lacks.
void Rebuilder::LookForFiles(const VersionParts& parts) {
  const FilesetRecord& fileset = parts.fileset;
  const std::string epoch = Encoder().Varint(static_cast<uint64_t>(kRebuiltEpoch)).Take();
  for (const auto& [path, entry] : parts.entries) {
    int64_t left = 1;
    int64_t missing = 0;
    for (uint32_t number = 0; left > 0; ++number) {
      const auto page = pages_.find({entry.sha256, number});
      if (page == pages_.end()) break;
      if (number == 0) left = std::max<int64_t>(page->second.chunk_count, 0);
      left -= static_cast<int64_t>(page->second.chunks.size());
      for (const ChunkRef& chunk : page->second.chunks) {
        batch_.Put(Column::kReach, ReachKey(fileset.workspace, chunk.id), epoch);
        if (!chunks_.contains(chunk.id)) ++missing;
      }
      if (page->second.chunks.empty()) break;
    }
    if (left <= 0 && missing == 0) continue;
    Lose(absl::StrCat(
        VersionName({fileset.workspace, fileset.name}, parts.version.number), "/", path, ": ",
        left > 0 ? "its chunk list is gone" : absl::StrCat(missing, " chunks are gone")));
  }
}

absl::Status Rebuilder::PutPages() {
  for (auto& [key, page] : pages_) {
    page.epoch = kRebuiltEpoch;
    batch_.Put(Column::kFile, FilePageKey(key.first, key.second), page.Encode());
    GRAFT_RETURN_IF_ERROR(Flush(kBatchBytes));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RebuildReport> RebuildIndex(Database& db, Files& files,
                                           const std::string& pack_directory, Clock& clock) {
  return Rebuilder(db, files, pack_directory, clock).Run();
}

}  // namespace graft::fileservice
