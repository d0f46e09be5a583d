#include "fileservice/catalog/stats.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/cas/chunk_row.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/catalog/names.h"
#include "fileservice/catalog/records.h"

namespace graft::fileservice {
namespace {

// Calls `count` with each decoded row of a column.
template <typename Row, typename Count>
absl::Status EachRow(const Database& db, Column column, const Database::Snapshot& at, Count count) {
  return db.ScanRows(column, at,
                     [&](absl::string_view key, absl::string_view value) -> absl::Status {
                       GRAFT_ASSIGN_OR_RETURN(const Row row, Row::Decode(value));
                       count(key, row);
                       return absl::OkStatus();
                     });
}

double Ratio(int64_t a, int64_t b) {
  return b == 0 ? 0 : static_cast<double>(a) / static_cast<double>(b);
}

absl::Status CountChunks(const Database& db, const Database::Snapshot& at, StoreStats& stats) {
  struct Reached {
    uint32_t bytes;
    WorkspaceStats* first = nullptr;  // who reaches it, and whether others do
    bool shared = false;
  };
  absl::flat_hash_map<ChunkId, Reached> chunks;
  GRAFT_RETURN_IF_ERROR(
      EachRow<ChunkRow>(db, Column::kChunk, at, [&](absl::string_view key, const ChunkRow& row) {
        ++stats.chunks;
        stats.raw_bytes += row.raw_bytes;
        stats.stored_bytes += row.stored_bytes;
        stats.stored_bytes_by_encoding[row.encoding] += row.stored_bytes;
        chunks[DigestFromBytes(key)] = {row.stored_bytes};
      }));
  GRAFT_RETURN_IF_ERROR(
      db.ScanRows(Column::kReach, at, [&](absl::string_view key, absl::string_view) {
        Decoder in(key);
        WorkspaceStats& workspace = stats.workspaces[std::string(in.KeyString())];
        const auto chunk = chunks.find(in.Digest());
        if (chunk == chunks.end()) return absl::OkStatus();
        workspace.physical_bytes += chunk->second.bytes;
        chunk->second.shared = chunk->second.first != nullptr;
        chunk->second.first = &workspace;
        return absl::OkStatus();
      }));
  for (const auto& [id, chunk] : chunks) {
    if (chunk.first != nullptr && !chunk.shared) chunk.first->own_bytes += chunk.bytes;
  }
  return absl::OkStatus();
}

absl::Status CountPacks(const Database& db, const Database::Snapshot& at, StoreStats& stats) {
  GRAFT_RETURN_IF_ERROR(
      EachRow<PackRow>(db, Column::kPack, at, [&](absl::string_view, const PackRow& row) {
        ++stats.packs;
        stats.pack_bytes += row.committed_bytes;
      }));
  GRAFT_RETURN_IF_ERROR(EachRow<ChunkRow>(
      db, Column::kTrash, at,
      [&](absl::string_view, const ChunkRow& row) { stats.trash_bytes += row.stored_bytes; }));
  return EachRow<ChunkRow>(db, Column::kLost, at,
                           [&](absl::string_view, const ChunkRow&) { ++stats.lost_chunks; });
}

absl::Status CountCatalog(const Database& db, const Database::Snapshot& at, StoreStats& stats) {
  GRAFT_RETURN_IF_ERROR(EachRow<UsageRecord>(
      db, Column::kUsage, at, [&](absl::string_view key, const UsageRecord& u) {
        WorkspaceStats& workspace = stats.workspaces[std::string(key)];
        workspace.logical_bytes = u.logical_bytes;
        workspace.reserved_bytes = u.reserved_bytes;
      }));
  absl::flat_hash_map<std::string, WorkspaceStats*> owners;  // of filesets, by uid
  GRAFT_RETURN_IF_ERROR(EachRow<FilesetRecord>(
      db, Column::kFileset, at, [&](absl::string_view, const FilesetRecord& fileset) {
        ++stats.filesets;
        WorkspaceStats& workspace = stats.workspaces[fileset.workspace];
        ++workspace.filesets;
        owners[fileset.uid] = &workspace;
      }));
  GRAFT_RETURN_IF_ERROR(EachRow<VersionRecord>(
      db, Column::kVersion, at, [&](absl::string_view key, const VersionRecord& version) {
        ++stats.versions;
        stats.files += version.file_count;
        const auto owner = owners.find(std::string(Decoder(key).KeyString()));
        if (owner != owners.end()) ++owner->second->versions;
      }));
  return EachRow<SessionRecord>(db, Column::kSession, at,
                                [&](absl::string_view, const SessionRecord& session) {
                                  if (session.state == SessionState::kOpen) ++stats.open_sessions;
                                });
}

}  // namespace

int64_t StoreStats::logical_bytes() const {
  int64_t sum = 0;
  for (const auto& [name, workspace] : workspaces) sum += workspace.logical_bytes;
  return sum;
}
double StoreStats::dedup_ratio() const { return Ratio(logical_bytes(), stored_bytes); }
double StoreStats::liveness() const { return Ratio(stored_bytes, pack_bytes); }

absl::StatusOr<StoreStats> CountStore(const Database& db) {
  StoreStats stats;
  const Database::Snapshot at = db.TakeSnapshot();
  GRAFT_RETURN_IF_ERROR(CountChunks(db, at, stats));
  GRAFT_RETURN_IF_ERROR(CountPacks(db, at, stats));
  GRAFT_RETURN_IF_ERROR(CountCatalog(db, at, stats));
  stats.index_bytes = static_cast<int64_t>(db.ApproximateBytes());
  return stats;
}

absl::StatusOr<std::vector<std::string>> FilesWithChunks(const Database& db,
                                                         const absl::flat_hash_set<ChunkId>& chunks,
                                                         size_t limit) {
  const Database::Snapshot at = db.TakeSnapshot();
  absl::flat_hash_set<Sha256Digest> files;
  GRAFT_RETURN_IF_ERROR(
      EachRow<FilePage>(db, Column::kFile, at, [&](absl::string_view key, const FilePage& page) {
        const bool needs = std::any_of(page.chunks.begin(), page.chunks.end(),
                                       [&](const ChunkRef& c) { return chunks.contains(c.id); });
        if (needs) files.insert(DigestFromBytes(key));
      }));
  absl::flat_hash_map<std::string, std::string> filesets;
  GRAFT_RETURN_IF_ERROR(EachRow<FilesetRecord>(
      db, Column::kFileset, at, [&](absl::string_view, const FilesetRecord& fileset) {
        filesets[fileset.uid] = FilesetName{fileset.workspace, fileset.name}.ToString();
      }));
  std::vector<std::string> names;
  GRAFT_RETURN_IF_ERROR(
      EachRow<Entry>(db, Column::kEntry, at, [&](absl::string_view key, const Entry& entry) {
        if (names.size() >= limit || !files.contains(entry.sha256)) return;
        Decoder in(key);
        const std::string uid(in.KeyString());
        const uint64_t number = in.BigEndian64();
        names.push_back(absl::StrCat(filesets[uid], "/versions/", number, "/", in.rest()));
      }));
  return names;
}

}  // namespace graft::fileservice
