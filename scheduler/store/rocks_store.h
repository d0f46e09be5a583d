// The store over RocksDB: column families records, changes, idempotency, audit, events, metrics,
// logs and meta. A commit is one batch with one synced WAL append.
//
// How keys lie: records hold eight bytes of revision before their value; changes are keyed by
// revision and index (big-endian) and hold the key that changed, not its value; meta holds the
// revision as the reader of a snapshot sees it and the revision up to which changes are compacted.
#pragma once

#include <atomic>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "rocks/durable_db.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

struct RocksStoreOptions {
  std::string folder;  // db/ and acked/ are made in it
  bool accept_loss = false;
  int64_t block_cache_bytes = 64 << 20;
};

class RocksStore final : public Store {
 public:
  static absl::StatusOr<std::unique_ptr<RocksStore>> Open(RocksStoreOptions options);

  absl::StatusOr<int64_t> Commit(const Transaction& transaction) override;
  int64_t revision() const override { return revision_; }
  absl::StatusOr<Record> Get(Family family, absl::string_view key) const override;
  absl::StatusOr<ListResult> List(const ListRequest& request) const override;
  absl::StatusOr<std::vector<Change>> Changes(int64_t revision, int limit) const override;
  absl::Status Compact(int64_t revision) override;
  int64_t compacted() const override;
  absl::Status Recover() override;
  absl::Status Append(Series series, const std::vector<Entry>& entries) override;
  absl::StatusOr<std::vector<Entry>> Scan(Series series, absl::string_view from,
                                          absl::string_view to, int limit) const override;
  absl::Status Erase(Series series, absl::string_view from, absl::string_view to) override;

  // A copy of the store as it is now, in `folder`, which must not exist; work goes on meanwhile.
  absl::Status Backup(const std::string& folder) const;
  // Leaves no log for the next start to read: the last call before a clean end.
  absl::Status Flush();

 private:
  explicit RocksStore(RocksStoreOptions options) : options_(std::move(options)) {}
  absl::Status OpenDb();
  absl::Status CheckCompares(const Transaction& transaction) const;

  const RocksStoreOptions options_;
  // Held shared by every call and exclusively while the database is opened again. Not graft::Mutex,
  // which has no shared half.
  mutable std::shared_mutex reopen_;
  std::unique_ptr<rocks::DurableDb> db_;
  std::atomic<int64_t> revision_{0};
};

}  // namespace graft::scheduler
