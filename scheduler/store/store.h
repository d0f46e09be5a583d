// The scheduler's durable state: ordered keys with one revision for the whole store, as etcd has
// it.
//
//   store.Commit({.compares = {{"jobs/w/a", 0}}, .writes = {{Family::kRecords, "jobs/w/a",
//   body}}});
//
// A commit is whole or absent, and when it has returned OK it survives any crash. Each advances the
// revision by one. What a commit changed among the records stands in the change log, from which a
// watcher goes on after any revision that is not compacted yet.
//
// Commit is called by one thread, the reads by any, at the same time: they see whole commits only.
// After a commit failed for another reason than its comparisons the store takes no more until
// Recover.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "scheduler/store/transaction.h"

namespace graft::scheduler {

struct Record {
  std::string key;
  std::string value;
  int64_t revision = 0;  // of the commit that wrote it last; 0 outside of Family::kRecords
};

struct ListRequest {
  Family family = Family::kRecords;
  std::string prefix;
  std::string after;  // only keys greater than this one
  int limit = 1000;
};
struct ListResult {
  std::vector<Record> records;  // by key
  bool more = false;
  int64_t revision = 0;  // of the store when it was read
};

// A record that a commit wrote or removed.
struct Change {
  int64_t revision = 0;
  std::string key;
  bool removed = false;
};

// Measurements and log lines: not records, without revision, not synced. What a crash takes is sent
// again by those who sent it; the same key twice is one entry.
enum class Series { kMetrics, kLogs };
using Entry = std::pair<std::string, std::string>;

class Store {
 public:
  virtual ~Store() = default;

  // Returns the new revision. ABORTED when a comparison does not hold, with nothing changed.
  // RESOURCE_EXHAUSTED when the disk is full, UNAVAILABLE after an earlier failure.
  virtual absl::StatusOr<int64_t> Commit(const Transaction& transaction) = 0;
  virtual int64_t revision() const = 0;
  // NOT_FOUND when there is none.
  virtual absl::StatusOr<Record> Get(Family family, absl::string_view key) const = 0;
  virtual absl::StatusOr<ListResult> List(const ListRequest& request) const = 0;
  // The changes after `revision`, oldest first, whole commits only, about `limit` of them.
  // OUT_OF_RANGE when they are compacted away: list anew and go on from that revision.
  virtual absl::StatusOr<std::vector<Change>> Changes(int64_t revision, int limit) const = 0;
  // Forgets the changes and events up to and with `revision`.
  virtual absl::Status Compact(int64_t revision) = 0;
  // The last revision whose changes are forgotten.
  virtual int64_t compacted() const = 0;
  // After a failed commit: opens again what is on the disk. Readers wait meanwhile.
  virtual absl::Status Recover() = 0;

  virtual absl::Status Append(Series series, const std::vector<Entry>& entries) = 0;
  // The entries with from <= key < to.
  virtual absl::StatusOr<std::vector<Entry>> Scan(Series series, absl::string_view from,
                                                  absl::string_view to, int limit) const = 0;
  virtual absl::Status Erase(Series series, absl::string_view from, absl::string_view to) = 0;
};

// Every record of the list from the first page to the last; ends with the first error of `each`,
// which is also told the revision of its page. Commits may come between two pages.
absl::Status ForEachRecord(const Store& store, ListRequest list,
                           const std::function<absl::Status(Record& record, int64_t)>& each);
// The least key that is greater than every key with this prefix; empty when there is none.
std::string AfterPrefix(absl::string_view prefix);
// Eight bytes, in the order of the numbers.
std::string BigEndian(uint64_t value);
uint64_t FromBigEndian(absl::string_view bytes);

}  // namespace graft::scheduler
