// What a placement decision costs and how good the decisions are: 10,240 nodes of 8 GPUs for cost,
// a trace of 15,000 jobs on 1,024 nodes for quality. CPU time of one thread.
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <queue>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "scheduler/placement/queue_pass.h"
#include "scheduler/placement/victims.h"
#include "tests/bench/scheduler/report.h"
#include "tests/bench/scheduler/trace_quality.h"

namespace graft::scheduler {
namespace {

ClusterView MakeCluster(int nodes) {
  ClusterView cluster;
  for (int n = 0; n < nodes; ++n) cluster.PutNode(BenchNode(n));
  return cluster;
}

// A cluster that jobs fill and leave.
struct Load {
  Topology topology;
  std::vector<std::vector<DeviceRef>> running;
  int64_t free = 0;

  void Start(std::vector<DeviceRef> ranks) {
    topology.Take(ranks);
    free -= static_cast<int64_t>(ranks.size());
    running.push_back(std::move(ranks));
  }
  void End(size_t which) {
    topology.Release(running[which]);
    free += static_cast<int64_t>(running[which].size());
    running[which] = std::move(running.back());
    running.pop_back();
  }
};

double FillTo(Load& load, TraceSource& trace, double share_free, int64_t all) {
  double spent = 0;
  int count = 0;
  while (static_cast<double>(load.free) > static_cast<double>(all) * share_free) {
    const TraceJob job = trace.Next(1);
    const double begin = CpuSeconds();
    std::optional<Placement> placement = TryPlace(load.topology, {.layout = job.layout});
    spent += CpuSeconds() - begin;
    ++count;
    if (placement.has_value()) load.Start(std::move(placement->ranks));
  }
  return spent / count * 1e6;
}

void Cost(Report& report) {
  const double building = CpuSeconds();
  ClusterView cluster = MakeCluster(10240);
  report.Add({"cluster_build_ms", (CpuSeconds() - building) * 1e3, "ms", -1, -1, false});
  const int64_t all = 10240 * 8;
  TraceSource trace(7);
  Load load{cluster.topology(), {}, all};
  report.Add({"placement_mean_us", FillTo(load, trace, 0.03, all), "us", 3.8, 50, false});
  struct Gang {
    const char* metric;
    Layout layout;
    double peer;
    double bar;
  };
  const Gang gangs[] = {
      {"place_1_p50_us", {}, 6.4, -1},
      {"place_8_p50_us", {.tp = 8}, 2.8, -1},
      {"place_32_p50_us", {.tp = 8, .dp = 4}, 2.7, -1},
      {"place_512_p50_us", {.tp = 8, .dp = 64}, 3.7, -1},
      {"place_2048_p50_us", {.tp = 8, .dp = 64, .pp = 4}, 13.4, 5000},
  };
  for (const Gang& gang : gangs) {
    std::vector<double> times;
    for (int round = 0; round < 200; ++round) {
      for (int i = 0; i < 40; ++i) load.End(trace.Uniform(load.running.size()));
      const double begin = CpuSeconds();
      (void)TryPlace(load.topology, {.layout = gang.layout});
      times.push_back((CpuSeconds() - begin) * 1e6);
      FillTo(load, trace, 0.05, all);
    }
    std::sort(times.begin(), times.end());
    report.Add({gang.metric, times[times.size() / 2], "us", gang.peer, gang.bar, false});
  }
  // The large one where it fits: on an idle cluster.
  const double begin = CpuSeconds();
  GRAFT_CHECK(TryPlace(cluster.topology(), {.layout = gangs[4].layout}).has_value());
  report.Add({"place_2048_idle_ms", (CpuSeconds() - begin) * 1e3, "ms", -1, 5, false});
  const double copy = CpuSeconds();
  size_t copied = 0;
  for (int i = 0; i < 100; ++i) {
    Topology what_if = load.topology;
    what_if.Release(load.running[static_cast<size_t>(i)]);
    copied += what_if.growth() > load.topology.growth();
  }
  GRAFT_CHECK(copied == 100);
  report.Add({"what_if_copy_us", (CpuSeconds() - copy) * 1e4, "us", -1, -1, false});
}

// Room for 64 nodes is made on a full cluster.
void PreemptionCost(Report& report, const Load& load, TraceSource& trace) {
  std::vector<VictimCandidate> candidates;
  for (size_t i = 0; i < load.running.size(); ++i) {
    candidates.push_back({.id = absl::StrCat("r", i),
                          .ranks = &load.running[i],
                          .seconds_since_checkpoint = static_cast<double>(trace.Uniform(1800))});
  }
  const PreemptionRequest request{.gang = {.layout = {.tp = 8, .dp = 64}}, .priority = 1};
  Victims victims;
  const double begin = CpuSeconds();
  GRAFT_CHECK(ChooseVictims(load.topology, request, candidates, victims));
  report.Add({"preempt_512_ms", (CpuSeconds() - begin) * 1e3, "ms", -1, -1, false});
}

// 100,000 jobs of thousands of classes wait for a full cluster.
void QueueCost(Report& report) {
  ClusterView cluster = MakeCluster(10240);
  const int64_t all = 10240 * 8;
  TraceSource trace(11);
  Load load{cluster.topology(), {}, all};
  FillTo(load, trace, 0.03, all);
  WaitingQueue queue;
  for (int i = 0; i < 100000; ++i) {
    const TraceJob job = trace.Next(1);
    WaitingJob waiting{.id = absl::StrCat("job-", i),
                       .account = absl::StrCat("w", trace.Uniform(64)),
                       .priority = static_cast<int>(trace.Uniform(4)),
                       .sequence = i,
                       .gang = {.layout = job.layout, .device_kind = "h100"}};
    if (trace.Uniform(3) == 0) {
      waiting.gang.labels["zone"] = absl::StrCat("z", trace.Uniform(4));
    }
    queue.Add(std::move(waiting));
  }
  report.Add({"queue_classes", static_cast<double>(queue.classes().size()), "", 12, 2000, true});
  FairShare shares;
  std::vector<RunningGang> running;
  PassInput input{
      .topology = &load.topology, .running = [&] { return running; }, .shares = &shares};
  for (const std::vector<DeviceRef>& ranks : load.running) {
    running.push_back(
        {"r", &ranks, absl::FromUnixSeconds(static_cast<int64_t>(trace.Uniform(100000)))});
  }
  const double begin = CpuSeconds();
  const PassResult first = RunPass(queue, input);
  report.Add({"queue_pass_ms", (CpuSeconds() - begin) * 1e3, "ms", 1.15, 50, false});
  report.Add({"queue_pass_starts", static_cast<double>(first.starts.size()), "", -1, -1, false});
  report.Add({"queue_pass_reservations", static_cast<double>(first.reservations.size()), "", -1, -1,
              false});
  for (const PassStart& start : first.starts) {
    load.topology.Take(start.placement.ranks);
    queue.Remove(start.id);
  }
  const double again = CpuSeconds();
  (void)RunPass(queue, input);
  report.Add({"queue_pass_idle_ms", (CpuSeconds() - again) * 1e3, "ms", -1, 50, false});
  PreemptionCost(report, load, trace);
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  report.Add({"rss_mb", static_cast<double>(usage.ru_maxrss) / 1024, "MB", -1, 500, false});
}

// Starts what fits among the first 200 blocked of the queue; sizes that did not fit are not tried
// again in the same round.
void StartWaiting(const std::vector<TraceJob>& jobs, std::vector<size_t>& waiting, double now,
                  const std::function<bool(size_t)>& start) {
  std::set<int> no_fit;
  std::vector<size_t> rest;
  int blocked = 0;
  for (size_t job : waiting) {
    const int size = jobs[job].devices();
    if (blocked <= 200 && jobs[job].submit <= now && !no_fit.contains(size) && start(job)) continue;
    no_fit.insert(size);
    rest.push_back(job);
    ++blocked;
  }
  waiting.swap(rest);
}

void Trace(Report& report, uint32_t seed) {
  const ClusterView cluster = MakeCluster(kTraceNodes);
  const std::vector<TraceJob> jobs = MakeTrace(seed);
  TraceRun run(jobs);
  Topology topology = cluster.topology();
  std::vector<std::vector<DeviceRef>> ranks(jobs.size());
  std::vector<size_t> waiting;
  while (run.Advance()) {
    size_t which = 0;
    while (run.PopEnding(which)) topology.Release(ranks[which]);
    while (run.PopSubmission(which)) waiting.push_back(which);
    StartWaiting(jobs, waiting, run.now(), [&](size_t job) {
      std::optional<Placement> placement = TryPlace(topology, {.layout = jobs[job].layout});
      if (!placement.has_value()) return false;
      topology.Take(placement->ranks);
      run.Start(job, placement->Nodes(), cluster);
      ranks[job] = std::move(placement->ranks);
      return true;
    });
  }
  run.Tell(report, absl::StrCat("trace_", seed, "_"), seed == kPublishedSeed,
           seed == kPublishedSeed);
}

// The same without a network: any free devices will do. What no placement can do better than.
void TraceOfCounts(Report& report, uint32_t seed) {
  const ClusterView cluster = MakeCluster(kTraceNodes);
  const std::vector<TraceJob> jobs = MakeTrace(seed);
  TraceRun run(jobs);
  int free = kTraceNodes * 8;
  std::vector<size_t> waiting;
  while (run.Advance()) {
    size_t which = 0;
    while (run.PopEnding(which)) free += jobs[which].devices();
    while (run.PopSubmission(which)) waiting.push_back(which);
    StartWaiting(jobs, waiting, run.now(), [&](size_t job) {
      if (jobs[job].devices() > free) return false;
      free -= jobs[job].devices();
      run.Start(job, {cluster.nodes().begin()->first}, cluster);
      return true;
    });
  }
  report.Add({absl::StrCat("trace_", seed, "_counts_alone_allocated_pct"), run.allocated_pct(), "%",
              -1, -1, true});
}

int Main() {
  Report report("scheduler placement");
  Cost(report);
  QueueCost(report);
  for (uint32_t seed : {kPublishedSeed, 43u, 44u}) {
    Trace(report, seed);
    TraceOfCounts(report, seed);
  }
  return report.missed() ? 1 : 0;
}

}  // namespace
}  // namespace graft::scheduler

int main() { return graft::scheduler::Main(); }
