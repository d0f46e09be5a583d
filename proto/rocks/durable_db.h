// RocksDB opened so that nothing acknowledged is lost without notice. Both daemons open their store
// through OpenDurable and commit through Commit.
//
//   GRAFT_ASSIGN_OR_RETURN(auto db, rocks::OpenDurable({.path = data + "/db",
//       .watermark_dir = data + "/watermark", .column_families = {{"records"}, {"log"}}}));
//   rocksdb::WriteBatch batch;
//   batch.Put(db->family("records"), key, value);
//   GRAFT_RETURN_IF_ERROR(db->Commit(batch, db->revision() + 1));   // durable now: answer
//
// Life cycle: an error of Commit ends the writing for good, since what a failed sync left behind is
// unknown; the owner ends and opens the store again. Commit is for one thread at a time (the loop);
// reads through db() are thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "rocks/watermark.h"

namespace rocksdb {
struct ColumnFamilyOptions;
class ColumnFamilyHandle;
class DB;
class Env;
class WriteBatch;
}  // namespace rocksdb

namespace graft::rocks {

struct ColumnFamily {
  std::string name;
  // Changes what OpenDurable sets, such as a merge operator or a time to live.
  std::function<void(rocksdb::ColumnFamilyOptions&)> tune;
};

struct DurableOptions {
  std::string path;
  // Holds the watermark; must not be below `path`, and best stands on another disk. May be empty
  // (no watermark) where `env` is given, and nowhere else.
  std::string watermark_dir;
  // Besides "default", which OpenDurable keeps for itself. Those that the store has and the list
  // lacks are opened and left alone.
  std::vector<ColumnFamily> column_families;
  // Goes on with a store that is known to have lost acknowledged writes.
  bool accept_loss = false;
  int64_t block_cache_bytes = 64 << 20;
  int64_t write_buffer_bytes = 32 << 20;  // of each column family
  int64_t all_write_buffers_bytes = 0;    // of all together; 0: no common limit
  // Of all logs together. A start reads them whole, and without a bound the one family that is
  // seldom written keeps the logs of all the others.
  int64_t log_bytes = 64 << 20;
  int max_open_files = -1;  // table files held open; -1: all
  // For tests: the files of RocksDB, in memory or failing on demand. Must outlive the store.
  rocksdb::Env* env = nullptr;
};

class DurableDb {
 public:
  ~DurableDb();
  DurableDb(const DurableDb&) = delete;
  DurableDb& operator=(const DurableDb&) = delete;

  rocksdb::DB& db() const { return *db_; }
  // The handle of a family that was asked for; a bug to ask for another.
  rocksdb::ColumnFamilyHandle* family(absl::string_view name) const;
  // The highest revision committed; 0 in a new store.
  uint64_t revision() const { return revision_; }

  // Applies the batch with a synced WAL append, then writes the watermark: on OK all of it is
  // durable. `revision` must be higher than any before. The batch is changed.
  absl::Status Commit(rocksdb::WriteBatch& batch, uint64_t revision);
  // For metrics, logs and other data that may be lost with the power: no sync, no revision.
  absl::Status WriteUnsynced(rocksdb::WriteBatch& batch);
  // Makes what WriteUnsynced wrote durable.
  absl::Status SyncWal();
  // Moves what the logs hold into tables, so that the next start has no logs to read.
  absl::Status Flush();

 private:
  friend absl::StatusOr<std::unique_ptr<DurableDb>> OpenDurable(const DurableOptions& options);
  explicit DurableDb(std::unique_ptr<rocksdb::DB> db);
  absl::Status ReadIdentity();
  absl::Status CheckWatermark(const DurableOptions& options);
  absl::Status Fail(absl::Status status);

  std::unique_ptr<rocksdb::DB> db_;
  std::optional<WatermarkFile> watermark_;                        // none: a test's store in memory
  std::map<std::string, rocksdb::ColumnFamilyHandle*> families_;  // owned, freed before db_
  uint64_t store_id_ = 0;
  uint64_t revision_ = 0;
  absl::Status failed_;  // the first error of a write; none is tried after it
};

// DATA_LOSS when RocksDB finds damage, or when the store is behind its watermark (unless
// accept_loss); UNAVAILABLE when another process holds the store.
absl::StatusOr<std::unique_ptr<DurableDb>> OpenDurable(const DurableOptions& options);

}  // namespace graft::rocks
