#include "scheduler/store/rocks_store.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "rocks/status.h"
#include "rocksdb/db.h"
#include "rocksdb/utilities/checkpoint.h"
#include "rocksdb/write_batch.h"

namespace graft::scheduler {
namespace {

constexpr const char* kFamilies[] = {"records", "idempotency", "audit", "events"};
constexpr const char* kSeries[] = {"metrics", "logs"};
// A start after a kill reads them again, at some 100 MB/s.
constexpr int64_t kLogBytes = 16 << 20;
constexpr const char* kRevisionKey = "revision";
constexpr const char* kCompactedKey = "compacted";

rocksdb::Slice ToSlice(absl::string_view text) { return {text.data(), text.size()}; }
absl::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

// A consistent view for several reads.
class Snapshot {
 public:
  explicit Snapshot(rocksdb::DB& db) : db_(db), snapshot_(db.GetSnapshot()) {
    options_.snapshot = snapshot_;
  }
  ~Snapshot() { db_.ReleaseSnapshot(snapshot_); }
  Snapshot(const Snapshot&) = delete;
  Snapshot& operator=(const Snapshot&) = delete;
  const rocksdb::ReadOptions& options() const { return options_; }

 private:
  rocksdb::DB& db_;
  const rocksdb::Snapshot* snapshot_;
  rocksdb::ReadOptions options_;
};

int64_t ReadNumber(const rocks::DurableDb& db, const rocksdb::ReadOptions& options,
                   const char* key) {
  std::string value;
  const rocksdb::Status status = db.db().Get(options, db.family("meta"), key, &value);
  return status.ok() ? static_cast<int64_t>(FromBigEndian(value)) : 0;
}

Record ToRecord(Family family, absl::string_view key, absl::string_view value) {
  if (family != Family::kRecords) return {std::string(key), std::string(value), 0};
  return {std::string(key), std::string(value.substr(std::min<size_t>(8, value.size()))),
          static_cast<int64_t>(FromBigEndian(value))};
}

}  // namespace

absl::StatusOr<std::unique_ptr<RocksStore>> RocksStore::Open(RocksStoreOptions options) {
  auto store = std::unique_ptr<RocksStore>(new RocksStore(std::move(options)));
  GRAFT_RETURN_IF_ERROR(MakeDirectories(store->options_.folder, 0700));
  GRAFT_RETURN_IF_ERROR(store->OpenDb());
  return store;
}

absl::Status RocksStore::OpenDb() {
  GRAFT_ASSIGN_OR_RETURN(db_,
                         rocks::OpenDurable({.path = JoinPath(options_.folder, "db"),
                                             .watermark_dir = JoinPath(options_.folder, "acked"),
                                             .column_families = {{"records"},
                                                                 {"changes"},
                                                                 {"idempotency"},
                                                                 {"audit"},
                                                                 {"events"},
                                                                 {"metrics"},
                                                                 {"logs"},
                                                                 {"meta"}},
                                             .accept_loss = options_.accept_loss,
                                             .block_cache_bytes = options_.block_cache_bytes,
                                             .log_bytes = kLogBytes}));
  revision_ = static_cast<int64_t>(db_->revision());
  return absl::OkStatus();
}

absl::Status RocksStore::Recover() {
  const std::unique_lock lock(reopen_);
  db_.reset();
  return OpenDb();
}

absl::Status RocksStore::CheckCompares(const Transaction& transaction) const {
  for (const Compare& compare : transaction.compares) {
    std::string value;
    const rocksdb::Status status = db_->db().Get({}, db_->family("records"), compare.key, &value);
    if (!status.ok() && !status.IsNotFound()) return rocks::FromRocks(status, compare.key);
    const int64_t is = status.ok() ? static_cast<int64_t>(FromBigEndian(value)) : 0;
    if (is != compare.revision) {
      return absl::AbortedError(
          absl::StrCat(compare.key, " is at revision ", is, ", not ", compare.revision));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<int64_t> RocksStore::Commit(const Transaction& transaction) {
  const std::shared_lock lock(reopen_);
  if (db_ == nullptr) return absl::UnavailableError("the store is not open");
  GRAFT_RETURN_IF_ERROR(CheckCompares(transaction));
  const int64_t revision = revision_ + 1;
  const std::string stamp = BigEndian(static_cast<uint64_t>(revision));
  rocksdb::WriteBatch batch;
  uint32_t index = 0;
  for (const Write& write : transaction.writes) {
    rocksdb::ColumnFamilyHandle* family = db_->family(kFamilies[static_cast<int>(write.family)]);
    const bool records = write.family == Family::kRecords;
    if (!write.value.has_value()) {
      batch.Delete(family, write.key);
    } else {
      batch.Put(family, write.key, records ? absl::StrCat(stamp, *write.value) : *write.value);
    }
    if (!records) continue;
    batch.Put(db_->family("changes"), absl::StrCat(stamp, BigEndian(index++).substr(4)),
              absl::StrCat(write.value.has_value() ? "w" : "x", write.key));
  }
  batch.Put(db_->family("meta"), kRevisionKey, stamp);
  GRAFT_RETURN_IF_ERROR(db_->Commit(batch, static_cast<uint64_t>(revision)));
  revision_ = revision;
  return revision;
}

absl::StatusOr<Record> RocksStore::Get(Family family, absl::string_view key) const {
  const std::shared_lock lock(reopen_);
  if (db_ == nullptr) return absl::UnavailableError("the store is not open");
  std::string value;
  const rocksdb::Status status =
      db_->db().Get({}, db_->family(kFamilies[static_cast<int>(family)]), ToSlice(key), &value);
  if (status.IsNotFound()) return absl::NotFoundError(absl::StrCat("there is no ", key));
  if (!status.ok()) return rocks::FromRocks(status, key);
  return ToRecord(family, key, value);
}

absl::StatusOr<ListResult> RocksStore::List(const ListRequest& request) const {
  const std::shared_lock lock(reopen_);
  if (db_ == nullptr) return absl::UnavailableError("the store is not open");
  const Snapshot snapshot(db_->db());
  ListResult result{.revision = ReadNumber(*db_, snapshot.options(), kRevisionKey)};
  const std::string end = AfterPrefix(request.prefix);
  const rocksdb::Slice upper = ToSlice(end);
  rocksdb::ReadOptions options = snapshot.options();
  if (!end.empty()) options.iterate_upper_bound = &upper;
  const std::unique_ptr<rocksdb::Iterator> it(
      db_->db().NewIterator(options, db_->family(kFamilies[static_cast<int>(request.family)])));
  if (request.after < request.prefix) {
    it->Seek(request.prefix);
  } else {
    it->Seek(absl::StrCat(request.after, absl::string_view("\0", 1)));
  }
  for (; it->Valid(); it->Next()) {
    if (static_cast<int>(result.records.size()) == request.limit) {
      result.more = true;
      break;
    }
    result.records.push_back(ToRecord(request.family, ToView(it->key()), ToView(it->value())));
  }
  if (!it->status().ok()) return rocks::FromRocks(it->status(), "a list");
  return result;
}

absl::StatusOr<std::vector<Change>> RocksStore::Changes(int64_t revision, int limit) const {
  const std::shared_lock lock(reopen_);
  if (db_ == nullptr) return absl::UnavailableError("the store is not open");
  const Snapshot snapshot(db_->db());
  const int64_t compacted = ReadNumber(*db_, snapshot.options(), kCompactedKey);
  if (revision < compacted) {
    return absl::OutOfRangeError(absl::StrCat("the changes after revision ", revision,
                                              " are compacted up to ", compacted,
                                              "; list anew and watch from there"));
  }
  std::vector<Change> changes;
  const std::unique_ptr<rocksdb::Iterator> it(
      db_->db().NewIterator(snapshot.options(), db_->family("changes")));
  for (it->Seek(BigEndian(static_cast<uint64_t>(revision) + 1)); it->Valid(); it->Next()) {
    const int64_t at = static_cast<int64_t>(FromBigEndian(ToView(it->key())));
    const bool full = static_cast<int>(changes.size()) >= limit;
    if (full && changes.back().revision != at) break;
    const absl::string_view value = ToView(it->value());
    changes.push_back({at, std::string(value.substr(1)), value[0] == 'x'});
  }
  if (!it->status().ok()) return rocks::FromRocks(it->status(), "the change log");
  return changes;
}

int64_t RocksStore::compacted() const {
  const std::shared_lock lock(reopen_);
  return db_ == nullptr ? 0 : ReadNumber(*db_, {}, kCompactedKey);
}

absl::Status RocksStore::Compact(int64_t revision) {
  const std::shared_lock lock(reopen_);
  if (db_ == nullptr) return absl::UnavailableError("the store is not open");
  const int64_t upto = std::min<int64_t>(revision, revision_);
  if (upto <= ReadNumber(*db_, {}, kCompactedKey)) return absl::OkStatus();
  // Unsynced: when it is lost, log and mark are lost together, and it is done again.
  rocksdb::WriteBatch batch;
  for (const char* family : {"changes", "events"}) {
    batch.DeleteRange(db_->family(family), BigEndian(0),
                      BigEndian(static_cast<uint64_t>(upto) + 1));
  }
  batch.Put(db_->family("meta"), kCompactedKey, BigEndian(static_cast<uint64_t>(upto)));
  return db_->WriteUnsynced(batch);
}

absl::Status RocksStore::Append(Series series, const std::vector<Entry>& entries) {
  const std::shared_lock lock(reopen_);
  if (db_ == nullptr) return absl::UnavailableError("the store is not open");
  rocksdb::WriteBatch batch;
  for (const Entry& entry : entries) {
    batch.Put(db_->family(kSeries[static_cast<int>(series)]), entry.first, entry.second);
  }
  return db_->WriteUnsynced(batch);
}

absl::StatusOr<std::vector<Entry>> RocksStore::Scan(Series series, absl::string_view from,
                                                    absl::string_view to, int limit) const {
  const std::shared_lock lock(reopen_);
  if (db_ == nullptr) return absl::UnavailableError("the store is not open");
  std::vector<Entry> entries;
  const std::unique_ptr<rocksdb::Iterator> it(
      db_->db().NewIterator({}, db_->family(kSeries[static_cast<int>(series)])));
  for (it->Seek(ToSlice(from)); it->Valid() && ToView(it->key()) < to; it->Next()) {
    if (static_cast<int>(entries.size()) == limit) break;
    entries.emplace_back(it->key().ToString(), it->value().ToString());
  }
  if (!it->status().ok()) return rocks::FromRocks(it->status(), "a series");
  return entries;
}

absl::Status RocksStore::Erase(Series series, absl::string_view from, absl::string_view to) {
  const std::shared_lock lock(reopen_);
  if (db_ == nullptr) return absl::UnavailableError("the store is not open");
  rocksdb::WriteBatch batch;
  batch.DeleteRange(db_->family(kSeries[static_cast<int>(series)]), ToSlice(from), ToSlice(to));
  return db_->WriteUnsynced(batch);
}

absl::Status RocksStore::Flush() {
  const std::shared_lock lock(reopen_);
  if (db_ == nullptr) return absl::UnavailableError("the store is not open");
  return db_->Flush();
}

absl::Status RocksStore::Backup(const std::string& folder) const {
  const std::shared_lock lock(reopen_);
  if (db_ == nullptr) return absl::UnavailableError("the store is not open");
  GRAFT_RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  rocksdb::Checkpoint* made = nullptr;
  rocksdb::Status status = rocksdb::Checkpoint::Create(&db_->db(), &made);
  const std::unique_ptr<rocksdb::Checkpoint> checkpoint(made);
  if (status.ok()) status = checkpoint->CreateCheckpoint(JoinPath(folder, "db"));
  if (!status.ok()) return rocks::FromRocks(status, "a backup");
  // The copy gets a watermark of its own with its first commit; until then it lacks one.
  GRAFT_ASSIGN_OR_RETURN(const auto copy, Open({.folder = folder, .accept_loss = true}));
  return copy
      ->Commit({.writes = {{Family::kRecords, "meta/backup", absl::StrCat(revision_.load())}}})
      .status();
}

}  // namespace graft::scheduler
