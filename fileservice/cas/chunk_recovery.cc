// Opening the store: what lies in the packs but not in the index is indexed or cut off.
#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fileservice/cas/chunk_batch.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/cas/encoding.h"

namespace graft::fileservice {

absl::StatusOr<std::unique_ptr<ChunkStore>> ChunkStore::Open(Database& db, Files& files,
                                                             Clock& clock, Options options) {
  auto store = std::unique_ptr<ChunkStore>(new ChunkStore(db, files, clock, std::move(options)));
  GRAFT_RETURN_IF_ERROR(store->Recover());
  {
    MutexLock lock(store->mu_);
    store->open_ = store->NewBatch();
  }
  store->writer_ = std::thread([raw = store.get()] { raw->RunWriter(); });
  store->committer_ = std::thread([raw = store.get()] { raw->RunCommitter(); });
  return store;
}

absl::Status ChunkStore::Recover() {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> names,
                         files_.ListOrCreate(options_.directory));
  std::map<uint32_t, PackRow> rows;
  absl::Status malformed;
  GRAFT_RETURN_IF_ERROR(
      db_.Scan(Column::kPack, "", [&](absl::string_view key, absl::string_view value) {
        absl::StatusOr<PackRow> row = PackRow::Decode(value);
        if (!row.ok()) {
          malformed = row.status();
          return false;
        }
        rows[Decoder(key).BigEndian32()] = *row;
        return true;
      }));
  GRAFT_RETURN_IF_ERROR(malformed);
  // A crash leaves one pack at most that no row knows.
  if (rows.empty() && std::count_if(names.begin(), names.end(), [](const std::string& name) {
                        return PackFromFileName(name).ok();
                      }) > 1) {
    return absl::DataLossError(
        absl::StrCat("the index is empty, but ", options_.directory,
                     " holds packs; `graft-fileservice fsck --rebuild-index` makes the index from "
                     "them"));
  }
  uint32_t highest = rows.empty() ? 0 : rows.rbegin()->first;
  for (const std::string& name : names) {
    const absl::StatusOr<uint32_t> pack = PackFromFileName(name);
    if (!pack.ok()) continue;
    highest = std::max(highest, *pack);
    const PackRow row = rows.contains(*pack) ? rows[*pack] : PackRow();
    if (!row.sealed) GRAFT_RETURN_IF_ERROR(RecoverPack(*pack, row));
  }
  MutexLock lock(mu_);
  next_pack_ = highest + 1;
  return absl::OkStatus();
}

// Records behind the last commit were never acknowledged, but their hash proves them: a client that
// resumes need not send them again.
absl::Status ChunkStore::RecoverPack(uint32_t pack, PackRow row) {
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<ReadableFile> file,
                         files_.OpenForRead(PackPath(pack)));
  Database::Batch batch(db_);
  int64_t sound_end = std::max<int64_t>(row.committed_bytes, 0);
  int64_t found = 0;
  const auto visit = [&](const ScannedRecord& record) -> absl::Status {
    const ChunkRow chunk = RowOf(record);
    GRAFT_ASSIGN_OR_RETURN(const bool known,
                           db_.Contains(Column::kChunk, BytesOf(record.header.id)));
    // A delta proves itself only with its base; the chunk that it was to replace is still there.
    if (known || chunk.encoding == ChunkEncoding::kDeltaPlanesZstd) return absl::OkStatus();
    std::string raw(chunk.raw_bytes, '\0');
    const absl::Status read = reader_.ReadRow(chunk, raw.data());
    if (!read.ok() || Sha256::Of(raw) != record.header.id) return absl::AbortedError("torn");
    batch.Put(Column::kChunk, BytesOf(record.header.id), chunk.Encode());
    sound_end = record.end;
    ++found;
    return absl::OkStatus();
  };
  const absl::StatusOr<int64_t> end = ScanPack(*file, pack, row.committed_bytes, visit);
  if (!end.ok() && !absl::IsAborted(end.status())) {
    // A pack of a crash may lack its first block; one with committed records may not.
    if (row.committed_bytes > 0 || absl::IsUnimplemented(end.status())) return end.status();
  }
  reader_.Forget(pack);
  if (found == 0 && row.committed_bytes == 0) {
    LOG_INFO("removed a pack without a sound record", {{"pack", PackFileName(pack)}});
    return files_.Remove(PackPath(pack));
  }
  LOG_INFO(
      "recovered a pack",
      {{"pack", PackFileName(pack)}, {"records", found}, {"dropped", file->size() - sound_end}});
  if (file->size() > sound_end) GRAFT_RETURN_IF_ERROR(files_.Truncate(PackPath(pack), sound_end));
  row.sealed = true;
  row.committed_bytes = sound_end;
  row.sealed_at_s = absl::ToUnixSeconds(clock_.WallNow());
  batch.Put(Column::kPack, PackKey(pack), row.Encode());
  return db_.Commit(batch);
}

}  // namespace graft::fileservice
