// The index: one RocksDB with a column family per kind of row. FORMAT.md has keys and values.
//
// Batches that several threads commit at a time share one synced write. After a failed one nothing
// is written any more (health() says so) until the index is opened again; reads go on.
//
// Thread-safe.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "rocks/durable_db.h"
#include "rocksdb/db.h"

namespace graft::fileservice {

enum class Column {
  kChunk,    // chunk -> where it lies
  kPack,     // pack -> its state
  kLease,    // session, chunk -> held for the session
  kReach,    // workspace, chunk -> visible in the workspace
  kTrash,    // time, chunk -> to be reclaimed
  kLost,     // chunk -> where its damaged bytes lie
  kFile,     // file, page -> its chunks
  kFileset,  // workspace, name -> fileset
  kVersion,  // fileset uid, number -> version
  kEntry,    // fileset uid, number, path -> file
  kRef,      // fileset uid, ref -> number
  kPin,      // fileset uid, number, holder
  kSession,  // session -> its state
  kStaged,   // session, path, page -> file and chunks
  kRequest,  // workspace, request id -> answer
  kUsage,    // workspace -> bytes
  kMeta,     // name -> value
  kPartial,  // session, path, page -> chunks of a file that is not complete
  kCount,
};

class Database {
 public:
  struct Options {
    // Where the highest acknowledged revision is kept; best on another disk than the index.
    std::string watermark_dir;
    // Goes on with an index that is known to have lost acknowledged writes.
    bool accept_loss = false;
    // Beside a daemon that runs, as it was when it was opened. Commit is a bug.
    bool read_only = false;
    // For tests: an in-memory environment, which needs no watermark. Must outlive the database.
    rocksdb::Env* env = nullptr;
  };

  // DATA_LOSS when it is damaged or behind its watermark; UNAVAILABLE when a daemon holds it.
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path,
                                                        const Options& options);
  // UNAVAILABLE while a daemon holds the index; OK when there is none.
  static absl::Status CheckUnused(const std::string& path);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // Rows to be written together. Not thread-safe.
  class Batch {
   public:
    explicit Batch(Database& db) : db_(db) {}
    void Put(Column column, absl::string_view key, absl::string_view value);
    void Delete(Column column, absl::string_view key);
    // Every key that begins with `prefix`, which must not be empty.
    void DeletePrefix(Column column, absl::string_view prefix);
    void Clear() { batch_.Clear(); }
    bool empty() const { return batch_.Count() == 0; }
    size_t bytes() const { return batch_.GetDataSize(); }

   private:
    friend class Database;
    Database& db_;
    rocksdb::WriteBatch batch_;
  };
  enum class Durability { kSynced, kEventual };
  // All of it or nothing; kSynced: it survives the power once OK.
  absl::Status Commit(Batch& batch, Durability durability = Durability::kSynced);
  // Puts what is in the log into tables, so that the next start need not read it again. For an
  // orderly end.
  absl::Status Flush();
  // The error that ended the writing, if any.
  absl::Status health() const;
  // Estimates of rows and of bytes on the disk.
  uint64_t ApproximateRows(Column column) const;
  uint64_t ApproximateBytes() const;

  using Snapshot = std::shared_ptr<const rocksdb::Snapshot>;  // shared: released with its last user
  Snapshot TakeSnapshot() const;

  // NOT_FOUND when there is none; the message is for logs, callers say it in their own words.
  absl::StatusOr<std::string> Get(Column column, absl::string_view key,
                                  const Snapshot& at = nullptr) const;
  absl::StatusOr<bool> Contains(Column column, absl::string_view key) const;

  // Calls `visit(key, value)` for the keys that begin with `prefix`, from `start` on, in order,
  // until it returns false.
  using Visitor = std::function<bool(absl::string_view key, absl::string_view value)>;
  absl::Status Scan(Column column, absl::string_view prefix, const Visitor& visit,
                    const Snapshot& at = nullptr) const {
    return ScanFrom(column, prefix, prefix, visit, at);
  }
  absl::Status ScanFrom(Column column, absl::string_view prefix, absl::string_view start,
                        const Visitor& visit, const Snapshot& at = nullptr) const;
  // Every row of a column, until `visit` fails.
  absl::Status ScanRows(Column column, const Snapshot& at,
                        const std::function<absl::Status(absl::string_view key,
                                                         absl::string_view value)>& visit) const;
  // The greatest key that begins with `prefix`, or NOT_FOUND.
  absl::StatusOr<std::pair<std::string, std::string>> Last(Column column,
                                                           absl::string_view prefix) const;

 private:
  struct Commitment;

  Database() = default;
  absl::Status OpenReadOnly(const std::string& path);
  rocksdb::ColumnFamilyHandle* handle(Column column) const {
    return handles_[static_cast<size_t>(column)];
  }
  // Writes all of `group` at once.
  absl::Status CommitGroup(const std::vector<Commitment*>& group);

  // One of the two is set: the index, or a read-only view of it.
  std::unique_ptr<rocks::DurableDb> durable_;
  std::unique_ptr<rocksdb::DB> view_;
  rocksdb::DB* db_ = nullptr;  // of either
  std::array<rocksdb::ColumnFamilyHandle*, static_cast<size_t>(Column::kCount)> handles_{};

  mutable Mutex mu_;
  CondVar turn_;
  std::vector<Commitment*> waiting_ GRAFT_GUARDED_BY(mu_);
  bool committing_ GRAFT_GUARDED_BY(mu_) = false;
  absl::Status health_ GRAFT_GUARDED_BY(mu_);
};

// The least string greater than every string that begins with `prefix`; empty when there is none.
std::string PrefixEnd(absl::string_view prefix);

}  // namespace graft::fileservice
