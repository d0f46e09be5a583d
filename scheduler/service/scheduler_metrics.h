// What the scheduler tells Prometheus of itself, beside what every server tells of its calls:
//
//   graft_scheduler_decisions_total         gangs that were given a place
//   graft_scheduler_jobs{state}
//   graft_scheduler_queued_jobs{reason}     by the code of the reason that stands in their status
//   graft_scheduler_devices{state}          free, used, down
//   graft_scheduler_fragmentation           share of free devices that are not on wholly free nodes
//   graft_scheduler_commit_seconds          of commits that were durable
//   graft_scheduler_watch_lag_revisions     commits that watches have not looked at yet
//   graft_scheduler_idle_jobs               that do nothing with their devices, by their queue's
//   policy
//
// Gauges are as of the last Sample. Thread-safe.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "scheduler/core/core.h"

namespace prometheus {
class Registry;
}  // namespace prometheus

namespace graft::scheduler {

// What the gauges show.
struct ClusterSample {
  std::map<std::string, int64_t> jobs;    // by state
  std::map<std::string, int64_t> queued;  // by reason
  std::map<std::string, int64_t> devices;
  double fragmentation = 0;
};
// On the loop; some milliseconds with 100,000 jobs.
ClusterSample SampleOf(const Core& core);

class SchedulerMetrics {
 public:
  SchedulerMetrics();
  ~SchedulerMetrics();
  // Once; counts before it are lost.
  void Register(prometheus::Registry& registry);

  void CountDecisions(int count);
  void ObserveCommit(absl::Duration took);
  void Show(const ClusterSample& sample, int64_t watch_lag, int64_t idle_jobs);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace graft::scheduler
