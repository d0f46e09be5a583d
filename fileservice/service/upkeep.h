// What the service does by itself: applies retention rules and collects garbage, every so often.
//
// One thread; stops, between two steps, when it is destroyed.
#pragma once

#include <thread>

#include "base/log.h"
#include "base/mutex.h"
#include "fileservice/catalog/catalog.h"
#include "fileservice/catalog/collector.h"

namespace graft::fileservice {

class Upkeep {
 public:
  // An interval of zero: never.
  Upkeep(Catalog& catalog, ChunkStore& store, Clock& clock, Collector::Options options,
         absl::Duration interval)
      : catalog_(catalog), collector_(catalog, store, clock, options), interval_(interval) {
    if (interval > absl::ZeroDuration()) thread_ = std::thread([this] { Run(); });
  }
  ~Upkeep() {
    {
      MutexLock lock(mu_);
      stopping_ = true;
      wake_.SignalAll();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  void Run() {
    while (true) {
      {
        MutexLock lock(mu_);
        if (!stopping_) wake_.WaitFor(mu_, interval_);
        if (stopping_) return;
      }
      const absl::StatusOr<int64_t> removed = catalog_.ApplyRetention();
      if (!removed.ok()) {
        LOG_ERROR("retention rules could not be applied",
                  {{"status", removed.status().ToString()}});
      }
      const absl::StatusOr<Collector::Report> report = collector_.Run();
      if (!report.ok()) {
        LOG_ERROR("the garbage collection stopped", {{"status", report.status().ToString()}});
        continue;
      }
      LOG_INFO("collected garbage", {{"versions_expired", removed.ok() ? *removed : 0},
                                     {"live_bytes", report->live_bytes},
                                     {"trashed_bytes", report->trashed_bytes},
                                     {"removed_packs", report->removed_packs},
                                     {"compacted_packs", report->compacted_packs}});
    }
  }

  Catalog& catalog_;
  Collector collector_;
  const absl::Duration interval_;
  Mutex mu_;
  CondVar wake_;
  bool stopping_ GRAFT_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace graft::fileservice
