// The store as Prometheus sees it. Gauges are set when the upkeep has counted the store; counters
// grow with what it did.
#pragma once

#include <memory>

#include "absl/time/time.h"
#include "fileservice/cas/scrub.h"
#include "fileservice/catalog/collector.h"
#include "fileservice/catalog/reencode.h"
#include "fileservice/catalog/stats.h"

namespace prometheus {
class Registry;
}  // namespace prometheus

namespace graft::fileservice {

class StoreMetrics {
 public:
  explicit StoreMetrics(prometheus::Registry& registry);
  ~StoreMetrics();

  void Show(const StoreStats& stats);
  void Count(const Collector::Report& report, absl::Duration took);
  void Count(const Reencoder::Report& report);
  void Count(const Scrubber::Report& report);
  // A step of the upkeep that ended with an error.
  void CountFailure();

 private:
  struct Families;
  const std::unique_ptr<Families> families_;
};

}  // namespace graft::fileservice
