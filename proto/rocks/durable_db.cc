#include "rocks/durable_db.h"

#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/log.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "rocks/log_bridge.h"
#include "rocks/status.h"
#include "rocksdb/cache.h"
#include "rocksdb/db.h"
#include "rocksdb/filter_policy.h"
#include "rocksdb/table.h"
#include "rocksdb/write_batch.h"

namespace graft::rocks {
namespace {

// In the default column family.
constexpr char kStoreIdKey[] = "graft.store_id";
constexpr char kRevisionKey[] = "graft.revision";
constexpr char kWatermarkName[] = "acked";
constexpr double kFilterBitsPerKey = 10;

rocksdb::DBOptions MakeDbOptions(const DurableOptions& durable) {
  rocksdb::DBOptions options;
  if (durable.env != nullptr) options.env = durable.env;
  options.db_write_buffer_size = static_cast<size_t>(durable.all_write_buffers_bytes);
  options.max_open_files = durable.max_open_files;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  // A cut tail is what a crash leaves; a damaged record before the tail is refused. The default
  // (kPointInTimeRecovery) drops all that follows a flipped bit, without a word.
  options.wal_recovery_mode = rocksdb::WALRecoveryMode::kTolerateCorruptedTailRecords;
  options.recycle_log_file_num = 0;  // recycled logs cannot be told from damaged ones in this mode
  options.paranoid_checks = true;
  options.track_and_verify_wals_in_manifest = true;
  options.info_log = std::make_shared<LogBridge>();  // shared with the database's threads
  options.max_background_jobs = 2;
  options.max_total_wal_size = static_cast<uint64_t>(durable.log_bytes);
  return options;
}

rocksdb::ColumnFamilyOptions MakeFamilyOptions(const DurableOptions& options,
                                               const std::shared_ptr<rocksdb::Cache>& cache) {
  rocksdb::BlockBasedTableOptions table;
  table.block_cache = cache;
  table.checksum = rocksdb::ChecksumType::kXXH3;
  table.format_version = 5;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(kFilterBitsPerKey));
  rocksdb::ColumnFamilyOptions family;
  family.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  family.write_buffer_size = static_cast<size_t>(options.write_buffer_bytes);
  family.paranoid_file_checks = true;
  return family;
}

// The families asked for and those that the store has besides.
std::vector<rocksdb::ColumnFamilyDescriptor> MakeFamilies(const DurableOptions& options,
                                                          const rocksdb::DBOptions& db_options) {
  const auto cache = rocksdb::NewLRUCache(static_cast<size_t>(options.block_cache_bytes));
  std::map<std::string, rocksdb::ColumnFamilyOptions> families;
  std::vector<std::string> present;
  // An error here means that there is no store yet, or one that Open will say more about.
  rocksdb::DB::ListColumnFamilies(db_options, options.path, &present).PermitUncheckedError();
  for (const std::string& name : present) families[name] = MakeFamilyOptions(options, cache);
  families[rocksdb::kDefaultColumnFamilyName] = MakeFamilyOptions(options, cache);
  for (const ColumnFamily& family : options.column_families) {
    families[family.name] = MakeFamilyOptions(options, cache);
    if (family.tune) family.tune(families[family.name]);
  }
  std::vector<rocksdb::ColumnFamilyDescriptor> descriptors;
  for (auto& [name, family] : families) descriptors.emplace_back(name, family);
  return descriptors;
}

absl::StatusOr<uint64_t> GetNumber(rocksdb::DB& db, const char* key) {
  std::string text;
  const rocksdb::Status status = db.Get(rocksdb::ReadOptions(), key, &text);
  if (status.IsNotFound()) return 0;
  if (!status.ok()) return FromRocks(status, absl::StrCat("read ", key));
  uint64_t value = 0;
  if (!absl::SimpleAtoi(text, &value)) {
    return absl::DataLossError(absl::StrCat("the store's ", key, " is '", text, "', not a number"));
  }
  return value;
}

rocksdb::WriteOptions Synced() {
  rocksdb::WriteOptions options;
  options.sync = true;
  return options;
}

}  // namespace

DurableDb::DurableDb(std::unique_ptr<rocksdb::DB> db) : db_(std::move(db)) {}

DurableDb::~DurableDb() {
  for (const auto& [name, handle] : families_) {
    db_->DestroyColumnFamilyHandle(handle).PermitUncheckedError();
  }
  const rocksdb::Status status = db_->Close();
  if (!status.ok()) LOG_WARNING("store did not close cleanly", {{"error", status.ToString()}});
}

rocksdb::ColumnFamilyHandle* DurableDb::family(absl::string_view name) const {
  const auto it = families_.find(std::string(name));
  GRAFT_CHECK(it != families_.end()) << "no column family " << std::string(name);
  return it->second;
}

absl::Status DurableDb::Fail(absl::Status status) {
  failed_ = absl::Status(status.code(), absl::StrCat(status.message(),
                                                     "; the store takes no more writes until it is "
                                                     "opened again"));
  return failed_;
}

absl::Status DurableDb::Commit(rocksdb::WriteBatch& batch, uint64_t revision) {
  if (!failed_.ok()) return failed_;
  GRAFT_CHECK(revision > revision_) << "revision " << revision << " after " << revision_;
  batch.Put(kRevisionKey, absl::StrCat(revision));
  const rocksdb::Status written = db_->Write(Synced(), &batch);
  if (!written.ok()) {
    return Fail(FromRocks(written, absl::StrCat("commit revision ", revision)));
  }
  revision_ = revision;
  if (!watermark_.has_value()) return absl::OkStatus();
  if (absl::Status status = watermark_->Write({store_id_, revision}); !status.ok()) {
    return Fail(std::move(status));
  }
  return absl::OkStatus();
}

absl::Status DurableDb::WriteUnsynced(rocksdb::WriteBatch& batch) {
  return FromRocks(db_->Write(rocksdb::WriteOptions(), &batch), "write to the store");
}

absl::Status DurableDb::Flush() {
  if (!failed_.ok()) return failed_;
  std::vector<rocksdb::ColumnFamilyHandle*> families{db_->DefaultColumnFamily()};
  for (const auto& [name, handle] : families_) {
    if (name != rocksdb::kDefaultColumnFamilyName) families.push_back(handle);
  }
  return FromRocks(db_->Flush(rocksdb::FlushOptions(), families), "flush the store");
}

absl::Status DurableDb::SyncWal() { return FromRocks(db_->SyncWAL(), "sync the store's log"); }

absl::Status DurableDb::ReadIdentity() {
  GRAFT_ASSIGN_OR_RETURN(store_id_, GetNumber(*db_, kStoreIdKey));
  GRAFT_ASSIGN_OR_RETURN(revision_, GetNumber(*db_, kRevisionKey));
  return absl::OkStatus();
}

// Leaves a store and a watermark that know each other, or says why they must not meet.
absl::Status DurableDb::CheckWatermark(const DurableOptions& options) {
  const Watermark acked = watermark_->current();
  const bool new_store = store_id_ == 0;
  const bool new_watermark = acked.store_id == 0;
  std::string loss;
  if (new_store && !new_watermark) {
    loss = absl::StrCat("the store is empty, but revision ", acked.revision, " was acknowledged");
  } else if (!new_store && new_watermark && revision_ > 0) {
    loss = absl::StrCat("the store is at revision ", revision_,
                        ", but its watermark is gone, so a loss could not be seen");
  } else if (!new_store && !new_watermark && acked.store_id != store_id_) {
    loss = "the watermark belongs to another store";
  } else if (revision_ < acked.revision) {
    loss = absl::StrCat("the store ends at revision ", revision_, ", but revision ", acked.revision,
                        " was acknowledged");
  }
  if (!loss.empty()) {
    const std::string message =
        absl::StrCat(options.path, ": ", loss, " (watermark in ", options.watermark_dir, ")");
    if (!options.accept_loss) {
      return absl::DataLossError(absl::StrCat(
          message, "; restore a backup, or start with --accept-loss to go on without it"));
    }
    LOG_WARNING("loss accepted", {{"what", message}});
  }
  if (new_store) {
    SecureRandom random;
    while (store_id_ == 0) store_id_ = random.Next();
    const rocksdb::Status status = db_->Put(Synced(), kStoreIdKey, absl::StrCat(store_id_));
    if (!status.ok()) return FromRocks(status, "write the store's id");
  }
  // Also after a crash between the WAL sync and the watermark, which left the latter behind.
  return watermark_->Write({store_id_, revision_});
}

absl::StatusOr<std::unique_ptr<DurableDb>> OpenDurable(const DurableOptions& options) {
  const bool has_watermark = !options.watermark_dir.empty() || options.env == nullptr;
  if (options.path.empty() || (has_watermark && options.watermark_dir.empty()) ||
      options.watermark_dir == options.path ||
      absl::StartsWith(options.watermark_dir, absl::StrCat(options.path, "/"))) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the store '", options.path, "' needs a watermark directory outside of it, not '",
        options.watermark_dir, "'"));
  }
  if (options.env == nullptr) GRAFT_RETURN_IF_ERROR(MakeDirectories(options.path, 0700));
  if (has_watermark) GRAFT_RETURN_IF_ERROR(MakeDirectories(options.watermark_dir, 0700));
  const rocksdb::DBOptions db_options = MakeDbOptions(options);
  const auto families = MakeFamilies(options, db_options);
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* raw = nullptr;
  const rocksdb::Status opened =
      rocksdb::DB::Open(db_options, options.path, families, &handles, &raw);
  if (!opened.ok()) {
    return FromRocks(opened, absl::StrCat("open the store ", options.path));
  }
  std::unique_ptr<DurableDb> db(new DurableDb(std::unique_ptr<rocksdb::DB>(raw)));
  for (auto* handle : handles) db->families_[handle->GetName()] = handle;
  GRAFT_RETURN_IF_ERROR(db->ReadIdentity());
  if (!has_watermark) return db;
  const std::string path = JoinPath(options.watermark_dir, kWatermarkName);
  auto watermark = WatermarkFile::Open(path);
  if (!watermark.ok() && options.accept_loss && absl::IsDataLoss(watermark.status())) {
    GRAFT_RETURN_IF_ERROR(WriteFileAtomically(path, ""));
    watermark = WatermarkFile::Open(path);
  }
  GRAFT_RETURN_IF_ERROR(watermark.status());
  db->watermark_ = *std::move(watermark);
  GRAFT_RETURN_IF_ERROR(db->CheckWatermark(options));
  return db;
}

}  // namespace graft::rocks
