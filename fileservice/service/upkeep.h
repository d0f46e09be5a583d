// What the service does by itself, every so often: applies retention rules, stores old checkpoints
// as differences, collects garbage, reads what was not read for long, and counts the store for the
// metrics.
//
// One thread, because these steps may not run beside each other; stops between two files or packs
// when it is destroyed.
#pragma once

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "fileservice/cas/scrub.h"
#include "fileservice/catalog/catalog.h"
#include "fileservice/catalog/collector.h"
#include "fileservice/catalog/reencode.h"
#include "fileservice/service/store_metrics.h"

namespace graft::fileservice {

class Upkeep {
 public:
  struct Options {
    absl::Duration interval;  // zero: never
    Collector::Options collecting;
    int64_t versions_per_keyframe = 0;   // 0: old checkpoints stay as they are
    int64_t scrub_bytes_per_second = 0;  // 0: no scrub
    absl::Duration scrub_cycle;          // each pack once in this time
    // Data folders of other stores, asked in their order for what the scrub finds damaged.
    std::vector<std::string> repair_from;
  };

  // Everything must outlive it.
  Upkeep(Catalog& catalog, ChunkStore& store, Clock& clock, StoreMetrics& metrics, Options options);
  ~Upkeep();

 private:
  void Run();
  // Waits; false: the end has come.
  bool Pause(absl::Duration time);
  bool stopping();
  // Says what ended with an error, and that it did.
  void Step(absl::string_view what, const std::function<absl::Status()>& step);
  absl::Status Retain();
  absl::Status Reencode();
  absl::Status Collect();
  absl::Status Scrub();
  absl::Status Show();

  Catalog& catalog_;
  ChunkStore& store_;
  Clock& clock_;
  StoreMetrics& metrics_;
  const Options options_;
  Mutex mu_;
  CondVar wake_;
  bool stopping_ GRAFT_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace graft::fileservice
