// The index: one RocksDB with a column family per kind of row. FORMAT.md has keys and values.
//
// Thread-safe. The status of RocksDB becomes absl's here and nowhere else in the fileservice.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "rocksdb/db.h"

namespace graft::fileservice {

enum class Column {
  kChunk,    // chunk -> where it lies
  kPack,     // pack -> its state
  kLease,    // session, chunk -> held for the session
  kReach,    // workspace, chunk -> visible in the workspace
  kTrash,    // time, chunk -> to be reclaimed
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
  kCount,
};

class Database {
 public:
  struct Options {
    // For tests: an in-memory environment. Must outlive the database. Null: the machine's.
    rocksdb::Env* env = nullptr;
    bool read_only = false;
  };

  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path, Options options);
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

  using Snapshot = std::shared_ptr<const rocksdb::Snapshot>;  // shared: released with its last user
  Snapshot TakeSnapshot();

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
  // The greatest key that begins with `prefix`, or NOT_FOUND.
  absl::StatusOr<std::pair<std::string, std::string>> Last(Column column,
                                                           absl::string_view prefix) const;

 private:
  Database() = default;
  rocksdb::ColumnFamilyHandle* handle(Column column) const {
    return handles_[static_cast<size_t>(column)];
  }

  std::unique_ptr<rocksdb::DB> db_;
  std::array<rocksdb::ColumnFamilyHandle*, static_cast<size_t>(Column::kCount)> handles_{};
};

// The least string greater than every string that begins with `prefix`; empty when there is none.
std::string PrefixEnd(absl::string_view prefix);

}  // namespace graft::fileservice
