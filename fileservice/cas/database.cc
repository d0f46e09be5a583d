#include "fileservice/cas/database.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "rocks/status.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/table.h"

namespace graft::fileservice {
namespace {

constexpr const char* kColumnNames[] = {
    "chunk", "pack", "lease", "reach",   "trash",  "lost",    "file",  "fileset", "version",
    "entry", "ref",  "pin",   "session", "staged", "request", "usage", "meta",    "partial"};
static_assert(std::size(kColumnNames) == static_cast<size_t>(Column::kCount));

constexpr size_t kBlockCacheBytes = 64 << 20;
constexpr size_t kWriteBufferBytes = 16 << 20;
constexpr double kMemtableFilterShare = 0.02;
constexpr int64_t kAllWriteBuffersBytes = 64 << 20;
// What a start reads again after a kill: rows are short, 200,000 of them are in it.
constexpr int64_t kLogBytes = 16 << 20;
constexpr int kMaxOpenFiles = 512;

rocksdb::Slice ToSlice(absl::string_view bytes) { return {bytes.data(), bytes.size()}; }
absl::string_view ToView(const rocksdb::Slice& slice) { return {slice.data(), slice.size()}; }

absl::Status Hinted(const absl::Status& status) {
  if (!absl::IsDataLoss(status)) return status;
  return absl::DataLossError(
      absl::StrCat(status.message(),
                   "; `graft-fileservice fsck --rebuild-index` makes the index from the packs"));
}

absl::Status FromRocks(const rocksdb::Status& status, absl::string_view what) {
  return Hinted(rocks::FromRocks(status, absl::StrCat("the index cannot ", what)));
}

// Repeats the changes of a batch in another one.
class Repeat final : public rocksdb::WriteBatch::Handler {
 public:
  Repeat(rocksdb::WriteBatch& to,
         const std::function<rocksdb::ColumnFamilyHandle*(uint32_t)>& handle)
      : to_(to), handle_(handle) {}
  rocksdb::Status PutCF(uint32_t family, const rocksdb::Slice& key,
                        const rocksdb::Slice& value) override {
    return to_.Put(handle_(family), key, value);
  }
  rocksdb::Status DeleteCF(uint32_t family, const rocksdb::Slice& key) override {
    return to_.Delete(handle_(family), key);
  }
  rocksdb::Status DeleteRangeCF(uint32_t family, const rocksdb::Slice& begin,
                                const rocksdb::Slice& end) override {
    return to_.DeleteRange(handle_(family), begin, end);
  }

 private:
  rocksdb::WriteBatch& to_;
  const std::function<rocksdb::ColumnFamilyHandle*(uint32_t)>& handle_;
};

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

// Most of what an upload asks of the newest rows of these columns is not there.
bool IsAskedByUploads(absl::string_view column) {
  return column == "chunk" || column == "lease" || column == "reach";
}

}  // namespace

// A batch that waits to be written, with its thread.
struct Database::Commitment {
  rocksdb::WriteBatch* batch;
  bool done = false;
  absl::Status status;
};

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path,
                                                         const Options& options) {
  auto database = std::unique_ptr<Database>(new Database());
  if (options.read_only) {
    GRAFT_RETURN_IF_ERROR(database->OpenReadOnly(path));
    return database;
  }
  rocks::DurableOptions durable;
  durable.path = path;
  durable.watermark_dir = options.watermark_dir;
  durable.accept_loss = options.accept_loss;
  durable.env = options.env;
  durable.all_write_buffers_bytes = kAllWriteBuffersBytes;
  durable.log_bytes = kLogBytes;
  durable.max_open_files = kMaxOpenFiles;
  const auto cache = rocksdb::NewLRUCache(kBlockCacheBytes);
  for (const char* name : kColumnNames) {
    durable.column_families.push_back({name, [&cache, name](rocksdb::ColumnFamilyOptions& family) {
                                         family = ColumnOptions(cache);
                                         if (!IsAskedByUploads(name)) return;
                                         family.memtable_whole_key_filtering = true;
                                         family.memtable_prefix_bloom_size_ratio =
                                             kMemtableFilterShare;
                                       }});
  }
  absl::StatusOr<std::unique_ptr<rocks::DurableDb>> opened = rocks::OpenDurable(durable);
  GRAFT_RETURN_IF_ERROR(Hinted(opened.status()));
  database->durable_ = *std::move(opened);
  database->db_ = &database->durable_->db();
  for (size_t i = 0; i < database->handles_.size(); ++i) {
    database->handles_[i] = database->durable_->family(kColumnNames[i]);
  }
  return database;
}

absl::Status Database::OpenReadOnly(const std::string& path) {
  rocksdb::DBOptions options;
  options.max_open_files = kMaxOpenFiles;
  const auto cache = rocksdb::NewLRUCache(kBlockCacheBytes);
  std::vector<rocksdb::ColumnFamilyDescriptor> columns;
  columns.emplace_back(rocksdb::kDefaultColumnFamilyName, ColumnOptions(cache));
  for (const char* name : kColumnNames) columns.emplace_back(name, ColumnOptions(cache));
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  GRAFT_RETURN_IF_ERROR(
      FromRocks(rocksdb::DB::OpenForReadOnly(options, path, columns, &handles, &db),
                absl::StrCat("be opened at ", path)));
  view_.reset(db);
  db_ = db;
  db_->DestroyColumnFamilyHandle(handles[0]);
  for (size_t i = 1; i < handles.size(); ++i) handles_[i - 1] = handles[i];
  return absl::OkStatus();
}

absl::Status Database::CheckUnused(const std::string& path) {
  if (!FileExists(path)) return absl::OkStatus();
  rocksdb::Env* const env = rocksdb::Env::Default();
  rocksdb::FileLock* lock = nullptr;
  const rocksdb::Status locked = env->LockFile(JoinPath(path, "LOCK"), &lock);
  if (!locked.ok()) {
    return absl::UnavailableError(absl::StrCat(
        "the index ", path, " is in use: stop the daemon first (", locked.ToString(), ")"));
  }
  return FromRocks(env->UnlockFile(lock), "be let go");
}

Database::~Database() {
  if (view_ == nullptr) return;
  for (rocksdb::ColumnFamilyHandle* handle : handles_) view_->DestroyColumnFamilyHandle(handle);
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
  GRAFT_CHECK(durable_ != nullptr) << "a read-only index is written";
  if (durability == Durability::kEventual) return durable_->WriteUnsynced(batch.batch_);
  Commitment mine{&batch.batch_};
  std::vector<Commitment*> group;
  {
    MutexLock lock(mu_);
    waiting_.push_back(&mine);
    while (committing_ && !mine.done) turn_.Wait(mu_);
    if (mine.done) return mine.status;
    committing_ = true;
    group.swap(waiting_);
  }
  const absl::Status status = CommitGroup(group);
  MutexLock lock(mu_);
  for (Commitment* commitment : group) {
    commitment->done = true;
    commitment->status = status;
  }
  if (!status.ok() && health_.ok()) health_ = status;
  committing_ = false;
  turn_.SignalAll();
  return status;
}

absl::Status Database::Flush() {
  if (durable_ == nullptr) return absl::OkStatus();
  {
    MutexLock lock(mu_);
    while (committing_) turn_.Wait(mu_);
    committing_ = true;
  }
  const absl::Status status = durable_->Flush();
  MutexLock lock(mu_);
  committing_ = false;
  turn_.SignalAll();
  return status;
}

absl::Status Database::CommitGroup(const std::vector<Commitment*>& group) {
  if (group.size() == 1) return durable_->Commit(*group[0]->batch, durable_->revision() + 1);
  const std::function<rocksdb::ColumnFamilyHandle*(uint32_t)> handle_of = [this](uint32_t id) {
    for (rocksdb::ColumnFamilyHandle* handle : handles_) {
      if (handle->GetID() == id) return handle;
    }
    GRAFT_CHECK(false) << "a batch names the unknown column " << id;
    return handles_[0];
  };
  rocksdb::WriteBatch all;
  Repeat repeat(all, handle_of);
  for (const Commitment* commitment : group) {
    GRAFT_CHECK(commitment->batch->Iterate(&repeat).ok());
  }
  return durable_->Commit(all, durable_->revision() + 1);
}

absl::Status Database::health() const {
  MutexLock lock(mu_);
  return health_;
}

uint64_t Database::ApproximateRows(Column column) const {
  uint64_t rows = 0;
  db_->GetIntProperty(handle(column), rocksdb::DB::Properties::kEstimateNumKeys, &rows);
  return rows;
}

uint64_t Database::ApproximateBytes() const {
  uint64_t bytes = 0;
  for (rocksdb::ColumnFamilyHandle* handle : handles_) {
    uint64_t of_column = 0;
    db_->GetIntProperty(handle, rocksdb::DB::Properties::kLiveSstFilesSize, &of_column);
    bytes += of_column;
  }
  return bytes;
}

Database::Snapshot Database::TakeSnapshot() const {
  rocksdb::DB* db = db_;
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

absl::Status Database::ScanRows(
    Column column, const Snapshot& at,
    const std::function<absl::Status(absl::string_view, absl::string_view)>& visit) const {
  absl::Status status;
  GRAFT_RETURN_IF_ERROR(Scan(
      column, "",
      [&](absl::string_view key, absl::string_view value) {
        status = visit(key, value);
        return status.ok();
      },
      at));
  return status;
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
