// The whole core, event by event: what a decision costs on 10,240 nodes of 8 GPUs, what a pass over
// 100,000 waiting jobs costs, how fast a burst starts, and how well a day's trace of 15,000 jobs
// fills 1,024 nodes. CPU time of one thread; no store, no wire.
//
//   scheduler_core_bench [cost | burst | trace [SEED [MINUTES]]]
//
// MINUTES: how long a blocked job waits before room is kept for it; without: for ever, which is the
// rule of the published figures.
#include <sys/resource.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "scheduler/core/core.h"
#include "tests/bench/scheduler/report.h"
#include "tests/bench/scheduler/trace_quality.h"

namespace graft::scheduler {
namespace {

constexpr absl::Duration kNever = absl::InfiniteDuration();
constexpr absl::Time kStart = absl::FromUnixSeconds(1'700'000'000);

// A core whose workers obey at once and whose fileservice is prompt.
class Bench {
 public:
  // Leases outlive the bench: nobody synchronises without a reason.
  explicit Bench(int nodes, absl::Duration keep_room_after = CoreOptions().keep_room_after)
      : core_({.lease = absl::Hours(24 * 365), .keep_room_after = keep_room_after}) {
    core_.Step(QueuePut{{.name = "default"}}, now_);
    for (int n = 0; n < nodes; ++n) {
      core_.Step(NodeRegistered{BenchNode(n)}, now_);
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
  const double outlook = CpuSeconds();
  const size_t places = bench.core().Outlook(kStart + absl::Hours(1), 10'000).size();
  report.Add({"core_outlook_100k_ms", (CpuSeconds() - outlook) * 1e3, "ms", -1, -1, false});
  report.Add({"core_outlook_100k_jobs", static_cast<double>(places), "", -1, -1, true});
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

// The trace of the placement bench, through the core: estimates are wrong by a factor that is
// lognormal around 1.
void Trace(Report& report, uint32_t seed, absl::Duration keep_room_after) {
  const std::vector<TraceJob> jobs = MakeTrace(seed);
  std::mt19937 noise(seed + 1000);
  std::lognormal_distribution<double> wrong(0, 0.25);
  Bench bench(kTraceNodes, keep_room_after);
  TraceRun run(jobs);
  while (run.Advance()) {
    bench.AdvanceTo(run.now());
    size_t which = 0;
    while (run.PopEnding(which)) bench.Ranks(absl::StrCat("w/", which), PartState::kEnded);
    while (run.PopSubmission(which)) {
      JobRequest request = Request(absl::StrCat("w/", which), jobs[which]);
      request.expected_run_time = absl::Seconds(jobs[which].length * wrong(noise));
      bench.Submit(request);
    }
    for (const Job* job : bench.Pass()) {
      std::vector<std::string> nodes;
      for (const auto& [node, part] : job->attempt.parts) nodes.push_back(node);
      run.Start(std::stoul(job->request.key.substr(2)), nodes, bench.core().cluster());
    }
  }
  // The published figures are of a queue that keeps no room, whoever waits however long.
  const bool published = keep_room_after == kNever;
  run.Tell(report, absl::StrCat("core_trace_", seed, published ? "_" : "_room_kept_"),
           seed == kPublishedSeed, published && seed == kPublishedSeed);
  if (!published) return;
  report.Add({absl::StrCat("core_trace_", seed, "_one_pool_allocated_pct"), PooledAllocation(jobs),
              "%", -1, -1, true});
}

int Main(int argc, char** argv) {
  Report report("scheduler core");
  const std::string only = argc > 1 ? argv[1] : "";
  if (only.empty() || only == "cost") Cost(report);
  if (only.empty() || only == "burst") Burst(report);
  if (argc > 2) {
    const bool given = argc > 3;
    Trace(report, static_cast<uint32_t>(std::atoi(argv[2])),
          given ? absl::Minutes(std::atoi(argv[3])) : kNever);
  } else if (only.empty() || only == "trace") {
    for (const absl::Duration after : {kNever, CoreOptions().keep_room_after}) {
      for (uint32_t seed : {kPublishedSeed, 43u, 44u}) Trace(report, seed, after);
    }
  }
  return report.missed() ? 1 : 0;
}

}  // namespace
}  // namespace graft::scheduler

int main(int argc, char** argv) { return graft::scheduler::Main(argc, argv); }
