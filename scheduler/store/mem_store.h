// A store in memory over a disk in memory, which can refuse, tear and be opened again: for tests
// and the simulation.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

// What outlives a MemStore. Not thread-safe; one store at a time stands on it.
struct MemDisk {
  std::vector<std::string> log;  // encoded transactions
  int64_t compacted = 0;
  // The next commit ...
  enum class Fault {
    kNone,
    kRefuse,  // is refused, nothing is written
    kTear,    // is written in part: an error now, and nothing of it after opening again
    kForget,  // is written whole, but the answer is an error
    kLie,     // is answered with OK and lost: what a store must never do
  };
  Fault next_fault = Fault::kNone;
};

class MemStore final : public Store {
 public:
  // Opens what is on the disk, cutting a torn tail.
  explicit MemStore(MemDisk& disk);

  absl::StatusOr<int64_t> Commit(const Transaction& transaction) override;
  int64_t revision() const override;
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

 private:
  void Load() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ForgetCompacted() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Apply(const Transaction& transaction) GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  MemDisk& disk_;
  mutable Mutex mu_;
  bool failed_ GRAFT_GUARDED_BY(mu_) = false;
  int64_t revision_ GRAFT_GUARDED_BY(mu_) = 0;
  std::map<std::string, Record> families_[4] GRAFT_GUARDED_BY(mu_);
  std::vector<Change> changes_ GRAFT_GUARDED_BY(mu_);
  std::map<std::string, std::string> series_[2] GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::scheduler
