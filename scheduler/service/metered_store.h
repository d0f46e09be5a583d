// A store that tells how long its commits take, and how often one of them has touched users, tokens
// or roles. Everything else goes through.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "base/clock.h"
#include "scheduler/service/scheduler_metrics.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

class MeteredStore final : public Store {
 public:
  // All must outlive it.
  MeteredStore(Store& store, Clock& clock, SchedulerMetrics& metrics)
      : store_(store), clock_(clock), metrics_(metrics) {}

  absl::StatusOr<int64_t> Commit(const Transaction& transaction) override {
    const absl::Time begin = clock_.Now();
    absl::StatusOr<int64_t> revision = store_.Commit(transaction);
    if (!revision.ok()) return revision;
    metrics_.ObserveCommit(clock_.Now() - begin);
    if (std::any_of(transaction.writes.begin(), transaction.writes.end(), IsOfAccess)) {
      ++access_changes_;
    }
    return revision;
  }
  // Grows after each such commit.
  const std::atomic<uint64_t>& access_changes() const { return access_changes_; }
  int64_t revision() const override { return store_.revision(); }
  absl::StatusOr<Record> Get(Family family, absl::string_view key) const override {
    return store_.Get(family, key);
  }
  absl::StatusOr<ListResult> List(const ListRequest& request) const override {
    return store_.List(request);
  }
  absl::StatusOr<std::vector<Change>> Changes(int64_t revision, int limit) const override {
    return store_.Changes(revision, limit);
  }
  absl::Status Compact(int64_t revision) override { return store_.Compact(revision); }
  int64_t compacted() const override { return store_.compacted(); }
  absl::Status Recover() override { return store_.Recover(); }
  absl::Status Append(Series series, const std::vector<Entry>& entries) override {
    return store_.Append(series, entries);
  }
  absl::StatusOr<std::vector<Entry>> Scan(Series series, absl::string_view from,
                                          absl::string_view to, int limit) const override {
    return store_.Scan(series, from, to, limit);
  }
  absl::Status Erase(Series series, absl::string_view from, absl::string_view to) override {
    return store_.Erase(series, from, to);
  }

 private:
  static bool IsOfAccess(const Write& write) {
    return absl::StartsWith(write.key, "user/") || absl::StartsWith(write.key, "token/") ||
           absl::StartsWith(write.key, "binding/");
  }

  Store& store_;
  Clock& clock_;
  SchedulerMetrics& metrics_;
  std::atomic<uint64_t> access_changes_{0};
};

}  // namespace graft::scheduler
