#include "fileservice/cas/database.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/table.h"

namespace graft::fileservice {
namespace {

constexpr const char* kColumnNames[] = {"chunk",   "pack",    "lease", "reach", "trash", "file",
                                        "fileset", "version", "entry", "ref",   "pin",   "session",
                                        "staged",  "request", "usage", "meta"};
static_assert(std::size(kColumnNames) == static_cast<size_t>(Column::kCount));

constexpr size_t kBlockCacheBytes = 64 << 20;
constexpr size_t kWriteBufferBytes = 16 << 20;
constexpr size_t kAllWriteBuffersBytes = 64 << 20;

rocksdb::Slice ToSlice(absl::string_view bytes) { return {bytes.data(), bytes.size()}; }
absl::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const std::string message = absl::StrCat("the index cannot ", what, ": ", status.ToString());
  if (status.IsNotFound()) return absl::NotFoundError(message);
  if (status.IsCorruption()) {
    return absl::DataLossError(
        absl::StrCat(message, "; run `graft-fileservice fsck --rebuild-index`"));
  }
  if (status.IsNoSpace()) return absl::ResourceExhaustedError(message);
  if (status.IsBusy() || status.IsTimedOut()) return absl::UnavailableError(message);
  return absl::InternalError(message);
}

rocksdb::DBOptions DatabaseOptions(const Database::Options& options) {
  rocksdb::DBOptions result;
  result.create_if_missing = !options.read_only;
  result.create_missing_column_families = !options.read_only;
  // A record that was acknowledged must never be dropped in silence: see the design's section on
  // opening RocksDB safely.
  result.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  result.recycle_log_file_num = 0;
  result.paranoid_checks = true;
  result.track_and_verify_wals_in_manifest = true;
  result.max_open_files = 512;
  result.db_write_buffer_size = kAllWriteBuffersBytes;
  result.max_background_jobs = 2;
  result.keep_log_file_num = 4;
  if (options.env != nullptr) result.env = options.env;
  return result;
}

rocksdb::ColumnFamilyOptions ColumnOptions(const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.cache_index_and_filter_blocks = true;
  table.checksum = rocksdb::kXXH3;
  table.format_version = 5;
  table.filter_policy.reset(rocksdb::NewRibbonFilterPolicy(10));
  rocksdb::ColumnFamilyOptions result;
  result.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  result.write_buffer_size = kWriteBufferBytes;
  result.compression = rocksdb::kNoCompression;  // digests do not compress
  return result;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path, Options options) {
  if (options.env == nullptr && !options.read_only) {
    GRAFT_RETURN_IF_ERROR(MakeDirectories(path, 0750));
  }
  const auto cache = rocksdb::NewLRUCache(kBlockCacheBytes);
  std::vector<rocksdb::ColumnFamilyDescriptor> columns;
  columns.emplace_back(rocksdb::kDefaultColumnFamilyName, ColumnOptions(cache));
  for (const char* name : kColumnNames) columns.emplace_back(name, ColumnOptions(cache));
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::DBOptions db_options = DatabaseOptions(options);
  const rocksdb::Status status =
      options.read_only ? rocksdb::DB::OpenForReadOnly(db_options, path, columns, &handles, &db)
                        : rocksdb::DB::Open(db_options, path, columns, &handles, &db);
  GRAFT_RETURN_IF_ERROR(FromRocks(status, absl::StrCat("be opened at ", path)));

  auto database = std::unique_ptr<Database>(new Database());
  database->db_.reset(db);
  database->db_->DestroyColumnFamilyHandle(handles[0]);
  for (size_t i = 1; i < handles.size(); ++i) database->handles_[i - 1] = handles[i];
  return database;
}

Database::~Database() {
  for (rocksdb::ColumnFamilyHandle* handle : handles_) {
    if (handle != nullptr) db_->DestroyColumnFamilyHandle(handle);
  }
}

void Database::Batch::Put(Column column, absl::string_view key, absl::string_view value) {
  GRAFT_CHECK(batch_.Put(db_.handle(column), ToSlice(key), ToSlice(value)).ok());
}

void Database::Batch::Delete(Column column, absl::string_view key) {
  GRAFT_CHECK(batch_.Delete(db_.handle(column), ToSlice(key)).ok());
}

void Database::Batch::DeletePrefix(Column column, absl::string_view prefix) {
  const std::string end = PrefixEnd(prefix);
  GRAFT_CHECK(!end.empty());
  GRAFT_CHECK(batch_.DeleteRange(db_.handle(column), ToSlice(prefix), ToSlice(end)).ok());
}

absl::Status Database::Commit(Batch& batch, Durability durability) {
  if (batch.empty()) return absl::OkStatus();
  rocksdb::WriteOptions options;
  options.sync = durability == Durability::kSynced;
  return FromRocks(db_->Write(options, &batch.batch_), "be written");
}

Database::Snapshot Database::TakeSnapshot() {
  rocksdb::DB* db = db_.get();
  return Snapshot(db->GetSnapshot(),
                  [db](const rocksdb::Snapshot* snapshot) { db->ReleaseSnapshot(snapshot); });
}

absl::StatusOr<std::string> Database::Get(Column column, absl::string_view key,
                                          const Snapshot& at) const {
  rocksdb::ReadOptions options;
  options.snapshot = at.get();
  std::string value;
  GRAFT_RETURN_IF_ERROR(
      FromRocks(db_->Get(options, handle(column), ToSlice(key), &value), "find a row"));
  return value;
}

absl::StatusOr<bool> Database::Contains(Column column, absl::string_view key) const {
  rocksdb::PinnableSlice value;
  const rocksdb::Status status =
      db_->Get(rocksdb::ReadOptions(), handle(column), ToSlice(key), &value);
  if (status.IsNotFound()) return false;
  GRAFT_RETURN_IF_ERROR(FromRocks(status, "be read"));
  return true;
}

absl::Status Database::ScanFrom(Column column, absl::string_view prefix, absl::string_view start,
                                const Visitor& visit, const Snapshot& at) const {
  rocksdb::ReadOptions options;
  options.snapshot = at.get();
  const std::string end = PrefixEnd(prefix);
  const rocksdb::Slice upper_bound = ToSlice(end);
  if (!end.empty()) options.iterate_upper_bound = &upper_bound;
  std::unique_ptr<rocksdb::Iterator> rows(db_->NewIterator(options, handle(column)));
  for (rows->Seek(ToSlice(start)); rows->Valid(); rows->Next()) {
    if (!visit(ToView(rows->key()), ToView(rows->value()))) break;
  }
  return FromRocks(rows->status(), "be scanned");
}

absl::StatusOr<std::pair<std::string, std::string>> Database::Last(Column column,
                                                                   absl::string_view prefix) const {
  rocksdb::ReadOptions options;
  const std::string end = PrefixEnd(prefix);
  std::unique_ptr<rocksdb::Iterator> rows(db_->NewIterator(options, handle(column)));
  if (end.empty()) {
    rows->SeekToLast();
  } else {
    rows->SeekForPrev(ToSlice(end));
    if (rows->Valid() && ToView(rows->key()) == end) rows->Prev();
  }
  GRAFT_RETURN_IF_ERROR(FromRocks(rows->status(), "be scanned"));
  if (!rows->Valid() || !rows->key().starts_with(ToSlice(prefix))) {
    return absl::NotFoundError("no such row");
  }
  return std::make_pair(rows->key().ToString(), rows->value().ToString());
}

std::string PrefixEnd(absl::string_view prefix) {
  std::string end(prefix);
  while (!end.empty() && static_cast<uint8_t>(end.back()) == 0xff) end.pop_back();
  if (!end.empty()) end.back() = static_cast<char>(end.back() + 1);
  return end;
}

}  // namespace graft::fileservice
