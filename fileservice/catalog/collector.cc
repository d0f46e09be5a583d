#include "fileservice/catalog/collector.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"

namespace graft::fileservice {
namespace {

constexpr size_t kSweepSlice = 1000;  // chunks that are swept while uploads wait
constexpr size_t kIdBytes = sizeof(ChunkId);

// A scan whose visitor may fail.
absl::Status ScanAll(
    const Database& db, Column column, absl::string_view prefix, const Database::Snapshot& at,
    const std::function<absl::Status(absl::string_view, absl::string_view)>& visit) {
  absl::Status status;
  GRAFT_RETURN_IF_ERROR(db.Scan(
      column, prefix,
      [&](absl::string_view key, absl::string_view value) {
        status = visit(key, value);
        return status.ok();
      },
      at));
  return status;
}

std::string TrashKey(int64_t due_s, const ChunkId& id) {
  return Encoder().BigEndian64(static_cast<uint64_t>(due_s)).Digest(id).Take();
}

}  // namespace

absl::StatusOr<Collector::Report> Collector::Run() {
  Report report;
  marked_.clear();
  files_.clear();
  candidates_.clear();
  trashed_.clear();
  // What a session held until it was published is in the snapshot that follows; what is published
  // from now on keeps its leases until the next run.
  if (!options_.dry_run) GRAFT_RETURN_IF_ERROR(DropEndedLeases());
  const int64_t epoch = catalog_.epoch();
  const Database::Snapshot at = db_.TakeSnapshot();
  GRAFT_RETURN_IF_ERROR(Mark(at));
  GRAFT_RETURN_IF_ERROR(FindCandidates(at, report));
  const double all = static_cast<double>(report.live_bytes + report.trashed_bytes);
  if (static_cast<double>(report.trashed_bytes) > all * options_.max_share) {
    return absl::FailedPreconditionError(
        absl::StrCat("a collection would take ", report.trashed_bytes, " of ", all,
                     " bytes at once: look at it with --dry-run and repeat it with --max-share 1"));
  }
  if (options_.dry_run) return report;
  GRAFT_RETURN_IF_ERROR(Trash(report));
  GRAFT_RETURN_IF_ERROR(DropFileRows(at, epoch));
  GRAFT_RETURN_IF_ERROR(DropReach(epoch));
  GRAFT_RETURN_IF_ERROR(Reclaim(report));
  return report;
}

absl::Status Collector::DropEndedLeases() {
  absl::flat_hash_map<std::string, bool> ended;
  Database::Batch batch(db_);
  GRAFT_RETURN_IF_ERROR(ScanAll(db_, Column::kLease, "", nullptr,
                                [&](absl::string_view key, absl::string_view) -> absl::Status {
                                  const std::string session(key.substr(kIdBytes));
                                  auto known = ended.find(session);
                                  if (known == ended.end()) {
                                    const absl::StatusOr<SessionRecord> record =
                                        catalog_.GetSession(session);
                                    if (!record.ok() && !absl::IsNotFound(record.status()))
                                      return record.status();
                                    const bool is_over =
                                        !record.ok() || record->state != SessionState::kOpen;
                                    known = ended.emplace(session, is_over).first;
                                  }
                                  if (known->second) batch.Delete(Column::kLease, key);
                                  return absl::OkStatus();
                                }));
  return db_.Commit(batch);
}

absl::Status Collector::Mark(const Database::Snapshot& at) {
  GRAFT_RETURN_IF_ERROR(ScanAll(db_, Column::kEntry, "", at,
                                [&](absl::string_view, absl::string_view value) -> absl::Status {
                                  GRAFT_ASSIGN_OR_RETURN(const Entry entry, Entry::Decode(value));
                                  files_.insert(entry.sha256);
                                  return absl::OkStatus();
                                }));
  GRAFT_RETURN_IF_ERROR(MarkFiles(at));
  GRAFT_RETURN_IF_ERROR(ScanAll(db_, Column::kVersion, "", at,
                                [&](absl::string_view, absl::string_view value) -> absl::Status {
                                  GRAFT_ASSIGN_OR_RETURN(const VersionRecord version,
                                                         VersionRecord::Decode(value));
                                  marked_.insert(version.backups.begin(), version.backups.end());
                                  return absl::OkStatus();
                                }));
  GRAFT_RETURN_IF_ERROR(ScanAll(db_, Column::kLease, "", at,
                                [&](absl::string_view key, absl::string_view) -> absl::Status {
                                  marked_.insert(DigestFromBytes(key));
                                  return absl::OkStatus();
                                }));
  return MarkBases(at);
}

absl::Status Collector::MarkFiles(const Database::Snapshot& at) {
  return ScanAll(db_, Column::kFile, "", at,
                 [&](absl::string_view key, absl::string_view value) -> absl::Status {
                   if (!files_.contains(DigestFromBytes(key))) return absl::OkStatus();
                   GRAFT_ASSIGN_OR_RETURN(const FilePage page, FilePage::Decode(value));
                   marked_.insert(page.backup);
                   for (const ChunkRef& chunk : page.chunks) marked_.insert(chunk.id);
                   return absl::OkStatus();
                 });
}

// The base of a delta is never a delta, so that one round finds them all.
absl::Status Collector::MarkBases(const Database::Snapshot& at) {
  return ScanAll(db_, Column::kChunk, "", at,
                 [&](absl::string_view key, absl::string_view value) -> absl::Status {
                   GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
                   if (row.encoding == ChunkEncoding::kXorPlanesZstd &&
                       marked_.contains(DigestFromBytes(key))) {
                     marked_.insert(row.base);
                   }
                   return absl::OkStatus();
                 });
}

absl::Status Collector::FindCandidates(const Database::Snapshot& at, Report& report) {
  absl::flat_hash_set<uint32_t> old_packs;
  const int64_t before_s = absl::ToUnixSeconds(clock_.WallNow() - options_.grace);
  GRAFT_RETURN_IF_ERROR(
      ScanAll(db_, Column::kPack, "", at,
              [&](absl::string_view key, absl::string_view value) -> absl::Status {
                GRAFT_ASSIGN_OR_RETURN(const PackRow pack, PackRow::Decode(value));
                if (pack.sealed && pack.sealed_at_s <= before_s) {
                  old_packs.insert(Decoder(key).BigEndian32());
                }
                return absl::OkStatus();
              }));
  return ScanAll(db_, Column::kChunk, "", at,
                 [&](absl::string_view key, absl::string_view value) -> absl::Status {
                   const ChunkId id = DigestFromBytes(key);
                   GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
                   if (marked_.contains(id) || !old_packs.contains(row.pack)) {
                     ++report.live_chunks;
                     report.live_bytes += row.stored_bytes;
                   } else {
                     candidates_.push_back({id, row});
                     ++report.trashed_chunks;
                     report.trashed_bytes += row.stored_bytes;
                   }
                   return absl::OkStatus();
                 });
}

absl::Status Collector::Trash(Report& report) {
  const int64_t due_s = absl::ToUnixSeconds(clock_.WallNow() + options_.trash_time);
  report.trashed_chunks = report.trashed_bytes = 0;
  for (size_t begin = 0; begin < candidates_.size(); begin += kSweepSlice) {
    const size_t end = std::min(candidates_.size(), begin + kSweepSlice);
    GRAFT_RETURN_IF_ERROR(store_.WithSweepLock(
        [&](const std::function<bool(const ChunkId&)>& is_pending) -> absl::Status {
          Database::Batch batch(db_);
          for (size_t i = begin; i < end; ++i) {
            const Candidate& candidate = candidates_[i];
            bool held = is_pending(candidate.id);
            GRAFT_RETURN_IF_ERROR(db_.Scan(Column::kLease, BytesOf(candidate.id),
                                           [&held](absl::string_view, absl::string_view) {
                                             held = true;
                                             return false;
                                           }));
            if (held) continue;
            batch.Delete(Column::kChunk, BytesOf(candidate.id));
            batch.Put(Column::kTrash, TrashKey(due_s, candidate.id), candidate.row.Encode());
            trashed_.insert(candidate.id);
            ++report.trashed_chunks;
            report.trashed_bytes += candidate.row.stored_bytes;
          }
          return db_.Commit(batch);
        }));
  }
  return absl::OkStatus();
}

absl::Status Collector::DropFileRows(const Database::Snapshot& at, int64_t epoch) {
  return catalog_.WithPublishLock([&]() -> absl::Status {
    Database::Batch batch(db_);
    // Read as they are now: a list that was published again since has a later epoch.
    GRAFT_RETURN_IF_ERROR(
        ScanAll(db_, Column::kFile, "", nullptr,
                [&](absl::string_view key, absl::string_view value) -> absl::Status {
                  if (files_.contains(DigestFromBytes(key))) return absl::OkStatus();
                  GRAFT_ASSIGN_OR_RETURN(const FilePage page, FilePage::Decode(value));
                  if (page.epoch <= epoch) batch.Delete(Column::kFile, key);
                  return absl::OkStatus();
                }));
    return db_.Commit(batch);
  });
}

absl::Status Collector::DropReach(int64_t epoch) {
  if (trashed_.empty()) return absl::OkStatus();
  return catalog_.WithPublishLock([&]() -> absl::Status {
    Database::Batch batch(db_);
    GRAFT_RETURN_IF_ERROR(
        ScanAll(db_, Column::kReach, "", nullptr,
                [&](absl::string_view key, absl::string_view value) -> absl::Status {
                  const ChunkId id = DigestFromBytes(key.substr(key.size() - kIdBytes));
                  Decoder in(value);
                  if (trashed_.contains(id) && static_cast<int64_t>(in.Varint()) <= epoch) {
                    batch.Delete(Column::kReach, key);
                  }
                  return absl::OkStatus();
                }));
    return db_.Commit(batch);
  });
}

absl::Status Collector::Reclaim(Report& report) {
  const int64_t now_s = absl::ToUnixSeconds(clock_.WallNow());
  // Before the chunks are counted: a sealed pack gains none, one that is sealed meanwhile may have.
  std::vector<std::pair<uint32_t, int64_t>> sealed;
  GRAFT_RETURN_IF_ERROR(
      ScanAll(db_, Column::kPack, "", nullptr,
              [&](absl::string_view key, absl::string_view value) -> absl::Status {
                GRAFT_ASSIGN_OR_RETURN(const PackRow row, PackRow::Decode(value));
                if (row.sealed)
                  sealed.emplace_back(Decoder(key).BigEndian32(), row.committed_bytes);
                return absl::OkStatus();
              }));
  absl::flat_hash_map<uint32_t, int64_t> live;
  absl::flat_hash_set<uint32_t> waiting;  // packs with trash that is not due
  Database::Batch done(db_);
  GRAFT_RETURN_IF_ERROR(ScanAll(db_, Column::kChunk, "", nullptr,
                                [&](absl::string_view, absl::string_view value) -> absl::Status {
                                  GRAFT_ASSIGN_OR_RETURN(const ChunkRow row,
                                                         ChunkRow::Decode(value));
                                  live[row.pack] += row.stored_bytes;
                                  return absl::OkStatus();
                                }));
  GRAFT_RETURN_IF_ERROR(
      ScanAll(db_, Column::kTrash, "", nullptr,
              [&](absl::string_view key, absl::string_view value) -> absl::Status {
                GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
                if (static_cast<int64_t>(Decoder(key).BigEndian64()) > now_s) {
                  waiting.insert(row.pack);
                } else {
                  done.Delete(Column::kTrash, key);
                }
                return absl::OkStatus();
              }));
  for (const auto& [pack, bytes] : sealed) {
    if (waiting.contains(pack)) continue;
    const double share =
        static_cast<double>(live[pack]) / static_cast<double>(std::max<int64_t>(bytes, 1));
    if (live[pack] > 0 && share >= options_.compact_below) continue;
    if (live[pack] > 0) {
      GRAFT_RETURN_IF_ERROR(Compact(pack));
      ++report.compacted_packs;
    }
    // The file goes first: a row without a file that nothing points into does no harm, a file
    // without a row would be indexed again when the store is opened.
    Database::Batch batch(db_);
    batch.Delete(Column::kPack, PackKey(pack));
    GRAFT_RETURN_IF_ERROR(store_.RemovePack(pack));
    GRAFT_RETURN_IF_ERROR(db_.Commit(batch));
    ++report.removed_packs;
  }
  return db_.Commit(done);
}

absl::Status Collector::Compact(uint32_t pack) {
  std::vector<Candidate> rows;
  GRAFT_RETURN_IF_ERROR(
      ScanAll(db_, Column::kChunk, "", nullptr,
              [&](absl::string_view key, absl::string_view value) -> absl::Status {
                GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
                if (row.pack == pack) rows.push_back({DigestFromBytes(key), row});
                return absl::OkStatus();
              }));
  GRAFT_ASSIGN_OR_RETURN(const auto file, store_.OpenPack(pack));
  ChunkStore::Ticket last = 0;
  for (const Candidate& candidate : rows) {
    std::string stored(candidate.row.stored_bytes, '\0');
    GRAFT_RETURN_IF_ERROR(file->ReadAt(candidate.row.offset, stored.size(), stored.data()));
    if (Crc32c(0, stored) != candidate.row.crc) {
      return absl::DataLossError(absl::StrCat("chunk ", ToHex(candidate.id), " in ",
                                              PackFileName(pack),
                                              " is damaged: the pack stays as it is"));
    }
    absl::string_view payload = stored;
    if (candidate.row.encoding == ChunkEncoding::kXorPlanesZstd) payload.remove_prefix(kIdBytes);
    GRAFT_ASSIGN_OR_RETURN(last, store_.Rewrite(candidate.id, payload, candidate.row));
  }
  return store_.WaitDurable(last);
}

}  // namespace graft::fileservice
