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

std::string TrashKey(int64_t due_s, const ChunkId& id) {
  return Encoder().BigEndian64(static_cast<uint64_t>(due_s)).Digest(id).Take();
}

}  // namespace

absl::StatusOr<Collector::Report> Collector::Run() {
  Report report;
  over_.clear();
  marked_.clear();
  files_.clear();
  candidates_.clear();
  trashed_.clear();
  // What a session held until it was published is in the snapshot; what is published from now on
  // keeps its leases until the next run.
  int64_t epoch = 0;
  Database::Snapshot at;
  GRAFT_RETURN_IF_ERROR(catalog_->WithPublishLock([&](int64_t latest) -> absl::Status {
    GRAFT_RETURN_IF_ERROR(DropEndedLeases());
    epoch = latest;
    at = db_.TakeSnapshot();
    return absl::OkStatus();
  }));
  GRAFT_RETURN_IF_ERROR(Mark(at));
  GRAFT_RETURN_IF_ERROR(FindCandidates(at, report));
  const int64_t all = report.live_bytes + report.trashed_bytes;
  if (static_cast<double>(report.trashed_bytes) > static_cast<double>(all) * options_.max_share) {
    return absl::FailedPreconditionError(absl::StrCat(
        "a collection would take ", report.trashed_bytes, " of ", all,
        " bytes at once: look at it with `graft-fileservice gc --dry-run` and, with the daemon "
        "stopped, run `graft-fileservice gc --max-share 1`"));
  }
  GRAFT_RETURN_IF_ERROR(Trash(report));
  GRAFT_RETURN_IF_ERROR(DropLost());
  GRAFT_RETURN_IF_ERROR(DropFileRows(at, epoch));
  GRAFT_RETURN_IF_ERROR(DropReach(epoch));
  GRAFT_RETURN_IF_ERROR(Reclaim(report));
  return report;
}

absl::StatusOr<Collector::Report> Collector::DryRun(Database& db, Clock& clock,
                                                    const Options& options) {
  Collector collector(db, clock, options);
  Report report;
  const Database::Snapshot at = db.TakeSnapshot();
  GRAFT_RETURN_IF_ERROR(collector.Mark(at));
  GRAFT_RETURN_IF_ERROR(collector.FindCandidates(at, report));
  return report;
}

absl::StatusOr<bool> Collector::IsOver(const std::string& session) {
  const auto known = over_.find(session);
  if (known != over_.end()) return known->second;
  bool over = true;
  const absl::StatusOr<std::string> value = db_.Get(Column::kSession, session);
  if (value.ok()) {
    GRAFT_ASSIGN_OR_RETURN(const SessionRecord record, SessionRecord::Decode(*value));
    over = record.state != SessionState::kOpen ||
           record.expire_time_ms <= absl::ToUnixMillis(clock_.Now());
  } else if (!absl::IsNotFound(value.status())) {
    return value.status();
  }
  over_[session] = over;
  return over;
}

absl::Status Collector::DropEndedLeases() {
  Database::Batch batch(db_);
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kLease, nullptr, [&](absl::string_view key, absl::string_view) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const bool over, IsOver(std::string(key.substr(kIdBytes))));
        if (over) batch.Delete(Column::kLease, key);
        return absl::OkStatus();
      }));
  return db_.Commit(batch);
}

absl::Status Collector::Mark(const Database::Snapshot& at) {
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kEntry, at, [&](absl::string_view, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const Entry entry, Entry::Decode(value));
        files_.insert(entry.sha256);
        return absl::OkStatus();
      }));
  GRAFT_RETURN_IF_ERROR(MarkFiles(at));
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kVersion, at, [&](absl::string_view, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const VersionRecord version, VersionRecord::Decode(value));
        marked_.insert(version.backups.begin(), version.backups.end());
        return absl::OkStatus();
      }));
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kFileset, at, [&](absl::string_view, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const FilesetRecord fileset, FilesetRecord::Decode(value));
        marked_.insert(fileset.state);
        return absl::OkStatus();
      }));
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kLease, at, [&](absl::string_view key, absl::string_view) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const bool over, IsOver(std::string(key.substr(kIdBytes))));
        if (!over) marked_.insert(DigestFromBytes(key));
        return absl::OkStatus();
      }));
  return MarkBases(at);
}

absl::Status Collector::MarkFiles(const Database::Snapshot& at) {
  return db_.ScanRows(Column::kFile, at,
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
  return db_.ScanRows(Column::kChunk, at,
                      [&](absl::string_view key, absl::string_view value) -> absl::Status {
                        GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
                        if (row.encoding == ChunkEncoding::kDeltaPlanesZstd &&
                            marked_.contains(DigestFromBytes(key))) {
                          marked_.insert(row.base);
                        }
                        return absl::OkStatus();
                      });
}

absl::Status Collector::FindCandidates(const Database::Snapshot& at, Report& report) {
  absl::flat_hash_set<uint32_t> old_packs;
  const int64_t before_s = absl::ToUnixSeconds(clock_.WallNow() - options_.grace);
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kPack, at, [&](absl::string_view key, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const PackRow pack, PackRow::Decode(value));
        if (pack.sealed && pack.sealed_at_s <= before_s) {
          old_packs.insert(Decoder(key).BigEndian32());
        }
        return absl::OkStatus();
      }));
  return db_.ScanRows(Column::kChunk, at,
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
    GRAFT_RETURN_IF_ERROR(store_->WithSweepLock(
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

// What is lost and named by nothing is not missed.
absl::Status Collector::DropLost() {
  Database::Batch batch(db_);
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(Column::kLost, nullptr,
                                     [&](absl::string_view key, absl::string_view) -> absl::Status {
                                       if (!marked_.contains(DigestFromBytes(key)))
                                         batch.Delete(Column::kLost, key);
                                       return absl::OkStatus();
                                     }));
  return db_.Commit(batch);
}

absl::Status Collector::DropFileRows(const Database::Snapshot& at, int64_t epoch) {
  return catalog_->WithPublishLock([&](int64_t) -> absl::Status {
    Database::Batch batch(db_);
    // Read as they are now: a list that was published again since has a later epoch.
    GRAFT_RETURN_IF_ERROR(
        db_.ScanRows(Column::kFile, nullptr,
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
  return catalog_->WithPublishLock([&](int64_t) -> absl::Status {
    Database::Batch batch(db_);
    GRAFT_RETURN_IF_ERROR(
        db_.ScanRows(Column::kReach, nullptr,
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
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kPack, nullptr, [&](absl::string_view key, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const PackRow row, PackRow::Decode(value));
        if (row.sealed) sealed.emplace_back(Decoder(key).BigEndian32(), row.committed_bytes);
        return absl::OkStatus();
      }));
  absl::flat_hash_map<uint32_t, int64_t> live;
  absl::flat_hash_set<uint32_t> waiting;  // packs that stay as they are
  Database::Batch done(db_);
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kChunk, nullptr, [&](absl::string_view, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
        live[row.pack] += row.stored_bytes;
        return absl::OkStatus();
      }));
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kTrash, nullptr, [&](absl::string_view key, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
        if (static_cast<int64_t>(Decoder(key).BigEndian64()) > now_s) {
          waiting.insert(row.pack);
        } else {
          done.Delete(Column::kTrash, key);
        }
        return absl::OkStatus();
      }));
  // The bytes of a lost delta are sound: they serve again once its base is found.
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kLost, nullptr, [&](absl::string_view, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
        waiting.insert(row.pack);
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
    GRAFT_RETURN_IF_ERROR(store_->RemovePack(pack));
    GRAFT_RETURN_IF_ERROR(db_.Commit(batch));
    ++report.removed_packs;
  }
  return db_.Commit(done);
}

absl::Status Collector::Compact(uint32_t pack) {
  std::vector<Candidate> rows;
  GRAFT_RETURN_IF_ERROR(db_.ScanRows(
      Column::kChunk, nullptr, [&](absl::string_view key, absl::string_view value) -> absl::Status {
        GRAFT_ASSIGN_OR_RETURN(const ChunkRow row, ChunkRow::Decode(value));
        if (row.pack == pack) rows.push_back({DigestFromBytes(key), row});
        return absl::OkStatus();
      }));
  GRAFT_ASSIGN_OR_RETURN(const auto file, store_->OpenPack(pack));
  ChunkStore::Ticket first = 0;
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
    if (candidate.row.encoding == ChunkEncoding::kDeltaPlanesZstd) payload.remove_prefix(kIdBytes);
    GRAFT_ASSIGN_OR_RETURN(last, store_->Rewrite(candidate.id, payload, candidate.row));
    if (first == 0) first = last;
  }
  // Every one of them: the pack goes.
  return store_->WaitDurable(first, last);
}

}  // namespace graft::fileservice
