#include "scheduler/service/scheduler_metrics.h"

#include <atomic>

#include "absl/strings/ascii.h"
#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"

namespace graft::scheduler {
namespace {

const prometheus::Histogram::BucketBoundaries kCommitSeconds = {0.0005, 0.001, 0.0025, 0.005, 0.01,
                                                                0.025,  0.05,  0.1,    0.25,  1};

using GaugeFamily = prometheus::Family<prometheus::Gauge>;

struct Families {
  prometheus::Counter* decisions;
  prometheus::Histogram* commits;
  prometheus::Gauge* fragmentation;
  prometheus::Gauge* watch_lag;
  prometheus::Gauge* idle_jobs;
  GaugeFamily* jobs;
  GaugeFamily* queued;
  GaugeFamily* devices;
};

GaugeFamily& AddGauge(prometheus::Registry& registry, const char* name, const char* help) {
  return prometheus::BuildGauge().Name(name).Help(help).Register(registry);
}

// What is no longer counted is 0, and not what it was.
void ShowAll(GaugeFamily& family, const char* label, const std::map<std::string, int64_t>& now,
             std::map<std::string, int64_t>& shown) {
  for (auto& [name, value] : shown) value = 0;
  for (const auto& [name, value] : now) shown[name] = value;
  for (const auto& [name, value] : shown) {
    family.Add({{label, name}}).Set(static_cast<double>(value));
  }
}

}  // namespace

ClusterSample SampleOf(const Core& core) {
  ClusterSample sample;
  for (const auto& [key, job] : core.jobs()) {
    ++sample.jobs[absl::AsciiStrToLower(JobStateName(job.state))];
    if (job.state == JobState::kQueued) ++sample.queued[absl::AsciiStrToLower(job.reason_code)];
  }
  sample.devices = {{"free", 0}, {"used", 0}, {"down", 0}};
  int64_t whole = 0;
  for (const auto& [name, node] : core.cluster().nodes()) {
    int64_t free = 0;
    for (const Device& device : node.devices) {
      const bool used = !device.holder.empty();
      const bool down = !used && (!node.schedulable || !device.healthy);
      ++sample.devices[used ? "used" : (down ? "down" : "free")];
      free += !used && !down ? 1 : 0;
    }
    if (free == static_cast<int64_t>(node.devices.size())) whole += free;
  }
  const int64_t free = sample.devices["free"];
  if (free > 0)
    sample.fragmentation = static_cast<double>(free - whole) / static_cast<double>(free);
  return sample;
}

struct SchedulerMetrics::State {
  Families families{};
  std::atomic<bool> registered{false};
  ClusterSample shown;  // of the one thread that calls Show
};

SchedulerMetrics::SchedulerMetrics() : state_(std::make_unique<State>()) {}
SchedulerMetrics::~SchedulerMetrics() = default;

void SchedulerMetrics::Register(prometheus::Registry& registry) {
  Families& f = state_->families;
  f.decisions = &prometheus::BuildCounter()
                     .Name("graft_scheduler_decisions_total")
                     .Help("Gangs that were given a place")
                     .Register(registry)
                     .Add({});
  f.commits = &prometheus::BuildHistogram()
                   .Name("graft_scheduler_commit_seconds")
                   .Help("Seconds that durable commits took")
                   .Register(registry)
                   .Add({}, kCommitSeconds);
  f.fragmentation = &AddGauge(registry, "graft_scheduler_fragmentation",
                              "Share of free devices that are not on wholly free nodes")
                         .Add({});
  f.watch_lag = &AddGauge(registry, "graft_scheduler_watch_lag_revisions",
                          "Commits that watches have not looked at yet")
                     .Add({});
  f.idle_jobs = &AddGauge(registry, "graft_scheduler_idle_jobs",
                          "Running jobs that do nothing with their devices")
                     .Add({});
  f.jobs = &AddGauge(registry, "graft_scheduler_jobs", "Jobs by state");
  f.queued = &AddGauge(registry, "graft_scheduler_queued_jobs", "Queued jobs by reason");
  f.devices = &AddGauge(registry, "graft_scheduler_devices", "Devices by state");
  state_->registered = true;
}

void SchedulerMetrics::CountDecisions(int count) {
  if (state_->registered && count > 0) state_->families.decisions->Increment(count);
}

void SchedulerMetrics::ObserveCommit(absl::Duration took) {
  if (state_->registered) state_->families.commits->Observe(absl::ToDoubleSeconds(took));
}

void SchedulerMetrics::Show(const ClusterSample& sample, int64_t watch_lag, int64_t idle_jobs) {
  if (!state_->registered) return;
  ShowAll(*state_->families.jobs, "state", sample.jobs, state_->shown.jobs);
  ShowAll(*state_->families.queued, "reason", sample.queued, state_->shown.queued);
  ShowAll(*state_->families.devices, "state", sample.devices, state_->shown.devices);
  state_->families.fragmentation->Set(sample.fragmentation);
  state_->families.watch_lag->Set(static_cast<double>(watch_lag));
  state_->families.idle_jobs->Set(static_cast<double>(idle_jobs));
}

}  // namespace graft::scheduler
