// The whole core, event by event: what a decision costs on 10,240 nodes of 8 GPUs, what a pass over
// 100,000 waiting jobs costs, how fast a burst starts, and how well a day's trace of 15,000 jobs
// fills 1,024 nodes. CPU time of one thread; no store, no wire.
//
//   scheduler_core_bench [cost|burst|trace SEED]
#include <sys/resource.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <queue>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/check.h"
#include "scheduler/core/core.h"
#include "tests/bench/scheduler/placement_trace.h"
#include "tests/bench/scheduler/report.h"

namespace graft::scheduler {
namespace {

constexpr int kNodesPerLeaf = 32;
constexpr int kLeavesPerSpine = 8;
constexpr absl::Time kStart = absl::FromUnixSeconds(1'700'000'000);

// A core whose workers obey at once and whose fileservice is prompt.
class Bench {
 public:
  // Leases outlive the bench: nobody synchronises without a reason.
  explicit Bench(int nodes) : core_({.lease = absl::Hours(24 * 365)}) {
    core_.Step(QueuePut{{.name = "default"}}, now_);
    for (int n = 0; n < nodes; ++n) {
      Node node{.name = absl::StrFormat("n%05d", n),
                .rack = absl::StrFormat("su%03d", n / kNodesPerLeaf),
                .spine = absl::StrFormat("pod%02d", n / kNodesPerLeaf / kLeavesPerSpine)};
      node.labels["zone"] = absl::StrCat("z", n / 2560);
      for (int d = 0; d < 8; ++d) {
        node.devices.push_back({.index = d, .kind = "h100", .memory_bytes = 80LL << 30});
      }
      core_.Step(NodeRegistered{std::move(node)}, now_);
    }
  }

  Core& core() { return core_; }
  void AdvanceTo(double seconds) { now_ = kStart + absl::Seconds(seconds); }

  void Submit(const JobRequest& request) {
    GRAFT_CHECK_OK(core_.Step(JobSubmitted{request}, now_).status);
  }

  // The jobs that start.
  std::vector<const Job*> Pass() {
    const Effects effects = core_.Step(PassDue{}, now_);
    std::vector<const Job*> started;
    for (const JobKey& key : effects.jobs) {
      const Job* job = core_.FindJob(key);
      if (job->state == JobState::kStarting && job->since == now_) started.push_back(job);
    }
    return started;
  }

  // Every rank runs, or has come to its end and published.
  void Ranks(const JobKey& key, PartState state) {
    const Attempt attempt = core_.FindJob(key)->attempt;
    for (const auto& [node, part] : attempt.parts) {
      PartReport report{.job = key, .attempt = attempt.number, .state = state};
      if (state == PartState::kEnded) report.end = AttemptEnd::kSucceeded;
      if (state == PartState::kEnded) report.result_session = "r";
      // A revision of before says nothing of what is not listed.
      Effects effects = core_.Step(NodeSynced{node, part.epoch, 0, {report}}, now_);
      for (const PublishCall& call : effects.calls) {
        core_.Step(CallAnswered{call.id, absl::OkStatus(), "v"}, now_);
      }
    }
  }

 private:
  Core core_;
  absl::Time now_ = kStart;
};

JobRequest Request(const std::string& key, const TraceJob& job,
                   const std::string& workspace = "w") {
  return {.key = key, .workspace = workspace, .queue = "default", .gang = {.layout = job.layout}};
}

double RssMb() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

// A gang is submitted, placed and started, one pass each, until the cluster is 97 % full.
void Gangs(Bench& bench, TraceSource& trace, Report& report) {
  int64_t free = 10240 * 8;
  const int64_t least = free * 3 / 100;
  double spent = 0;
  int count = 0;
  while (free > least) {
    const TraceJob job = trace.Next(1);
    if (job.devices() > free - least / 2) continue;
    bench.Submit(Request(absl::StrCat("w/fill-", count), job));
    const double begin = CpuSeconds();
    const size_t started = bench.Pass().size();
    spent += CpuSeconds() - begin;
    if (started == 0) break;  // too scattered for this one
    free -= job.devices();
    ++count;
  }
  report.Add({"core_gangs_started", static_cast<double>(count), "", -1, 1000, true});
  report.Add({"core_gang_mean_us", spent / count * 1e6, "us", -1, 50, false});
}

void Cost(Report& report) {
  {
    Bench idle(10240);
    idle.Submit({.key = "w/large",
                 .workspace = "w",
                 .queue = "default",
                 .gang = {.layout = {.tp = 8, .dp = 64, .pp = 4}}});
    const double begin = CpuSeconds();
    GRAFT_CHECK(idle.Pass().size() == 1);
    report.Add({"core_gang_2048_ms", (CpuSeconds() - begin) * 1e3, "ms", -1, 5, false});
  }
  Bench bench(10240);
  TraceSource trace(7);
  Gangs(bench, trace, report);
  for (int i = 0; i < 100'000; ++i) {
    JobRequest request =
        Request(absl::StrCat("w/job-", i), trace.Next(1), absl::StrCat("w", trace.Uniform(64)));
    request.priority = static_cast<int>(trace.Uniform(4));
    request.gang.device_kind = "h100";
    request.preemptible = false;
    if (trace.Uniform(3) == 0) request.gang.labels["zone"] = absl::StrCat("z", trace.Uniform(4));
    bench.Submit(request);
  }
  for (int pass = 0; pass < 3; ++pass) {
    bench.AdvanceTo(60.0 * (pass + 1));
    const double begin = CpuSeconds();
    const size_t started = bench.Pass().size();
    report.Add({absl::StrCat("core_pass_100k_", pass + 1, "_ms"), (CpuSeconds() - begin) * 1e3,
                "ms", -1, 50, false});
    report.Add({absl::StrCat("core_pass_100k_", pass + 1, "_starts"), static_cast<double>(started),
                "", -1, -1, false});
  }
  const Job* last = bench.core().FindJob("w/job-99999");
  const double begin = CpuSeconds();
  if (last->state == JobState::kQueued) (void)bench.core().Explain(*last, kStart + absl::Hours(1));
  report.Add({"core_explain_100k_ms", (CpuSeconds() - begin) * 1e3, "ms", -1, -1, false});
  report.Add({"core_rss_mb", RssMb(), "MB", -1, 500, false});
}

// 1,000 jobs of 8 GPUs on 512 nodes; each leaves as soon as it runs.
void Burst(Report& report) {
  Bench bench(512);
  const double begin = CpuSeconds();
  for (int i = 0; i < 1000; ++i) {
    bench.Submit({.key = absl::StrCat("w/j", i),
                  .workspace = "w",
                  .queue = "default",
                  .gang = {.layout = {.tp = 8}}});
  }
  int started = 0;
  for (int round = 0; started < 1000; ++round) {
    GRAFT_CHECK(round < 1000);
    bench.AdvanceTo(round);
    std::vector<JobKey> keys;
    for (const Job* job : bench.Pass()) keys.push_back(job->request.key);
    for (const JobKey& key : keys) bench.Ranks(key, PartState::kRunning);
    for (const JobKey& key : keys) bench.Ranks(key, PartState::kEnded);
    started += static_cast<int>(keys.size());
  }
  report.Add({"core_burst_1000_last_start_cpu_s", CpuSeconds() - begin, "s", 39.6, 5, false});
}

struct Quality {
  double busy = 0, span = 0, switches = 0, wait = 0, wait_large = 0;
  int multi = 0, started = 0, large = 0;
};

struct Ending {
  double at;
  size_t job;
  bool operator<(const Ending& other) const { return at > other.at; }
};

void NoteStart(const Job& job, const TraceJob& trace, double now, const Core& core,
               Quality& quality) {
  ++quality.started;
  quality.wait += now - trace.submit;
  if (trace.devices() >= 64) {
    ++quality.large;
    quality.wait_large += now - trace.submit;
  }
  if (trace.devices() <= 8) return;
  std::set<std::string> leaves;
  for (const auto& [node, part] : job.attempt.parts) leaves.insert(core.cluster().Find(node)->rack);
  ++quality.multi;
  const int least = (trace.devices() + kNodesPerLeaf * 8 - 1) / (kNodesPerLeaf * 8);
  quality.switches += static_cast<double>(leaves.size()) / least;
}

// The trace of the placement bench, through the core: estimates are wrong by a factor that is
// lognormal around 1.
void Trace(Report& report, uint32_t seed) {
  constexpr size_t kJobs = 15000;
  TraceSource source(seed);
  std::vector<TraceJob> jobs;
  for (size_t i = 0; i < kJobs; ++i) jobs.push_back(source.Next(28.2));
  std::mt19937 noise(seed + 1000);
  std::lognormal_distribution<double> wrong(0, 0.25);
  const double warm = jobs[kJobs / 5].submit, last_submit = jobs.back().submit;
  Bench bench(1024);
  std::priority_queue<Ending> endings;
  Quality quality;
  double held = 0, last = 0, demand = 0;
  for (const TraceJob& job : jobs) demand += job.length * job.devices();
  for (size_t next = 0; next < kJobs || !endings.empty();) {
    double now = next < kJobs ? jobs[next].submit : 1e18;
    if (!endings.empty()) now = std::min(now, endings.top().at);
    if (now > last_submit) break;
    if (now > warm) {
      quality.busy += held * (now - std::max(last, warm));
      quality.span += now - std::max(last, warm);
    }
    last = now;
    bench.AdvanceTo(now);
    for (; !endings.empty() && endings.top().at <= now; endings.pop()) {
      bench.Ranks(absl::StrCat("w/", endings.top().job), PartState::kEnded);
      held -= jobs[endings.top().job].devices();
    }
    for (; next < kJobs && jobs[next].submit <= now; ++next) {
      JobRequest request = Request(absl::StrCat("w/", next), jobs[next]);
      request.expected_run_time = absl::Seconds(jobs[next].length * wrong(noise));
      bench.Submit(request);
    }
    for (const Job* job : bench.Pass()) {
      const size_t which = std::stoul(job->request.key.substr(2));
      held += jobs[which].devices();
      endings.push({now + jobs[which].length, which});
      if (jobs[which].submit > warm) NoteStart(*job, jobs[which], now, bench.core(), quality);
    }
  }
  const std::string name = absl::StrCat("core_trace_", seed);
  report.Add({name + "_load_pct", demand / last_submit / (1024 * 8) * 100, "%", -1, -1, true});
  report.Add({name + "_allocated_pct", quality.busy / quality.span / (1024 * 8) * 100, "%", 94.0,
              94, true});
  report.Add({name + "_spread", quality.switches / quality.multi, "x", 1.65, 1.65, false});
  report.Add({name + "_wait_s", quality.wait / quality.started, "s", 177, 177, false});
  report.Add({name + "_wait_large_s", quality.wait_large / std::max(1, quality.large), "s", 1496,
              1496, false});
}

int Main(int argc, char** argv) {
  Report report("scheduler core");
  const std::string only = argc > 1 ? argv[1] : "";
  if (only.empty() || only == "cost") Cost(report);
  if (only.empty() || only == "burst") Burst(report);
  if (argc > 2) {
    Trace(report, static_cast<uint32_t>(std::atoi(argv[2])));
  } else if (only.empty() || only == "trace") {
    for (uint32_t seed : {42, 43, 44}) Trace(report, seed);
  }
  return report.missed() ? 1 : 0;
}

}  // namespace
}  // namespace graft::scheduler

int main(int argc, char** argv) { return graft::scheduler::Main(argc, argv); }
