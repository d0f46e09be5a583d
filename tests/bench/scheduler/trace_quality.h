// What the two trace benchmarks share: the cluster, the order of events, and the quality of what
// was decided.
#pragma once

#include <algorithm>
#include <list>
#include <queue>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "scheduler/placement/cluster.h"
#include "tests/bench/scheduler/placement_trace.h"
#include "tests/bench/scheduler/report.h"

namespace graft::scheduler {

inline constexpr int kNodesPerLeaf = 32;
inline constexpr int kLeavesPerSpine = 8;
inline constexpr int kTraceNodes = 1024;
inline constexpr size_t kTraceJobs = 15000;
inline constexpr double kTraceGap = 28.2;  // seconds between submissions, on average
inline constexpr uint32_t kPublishedSeed = 42;

// Node `n` of a cluster of nodes with 8 GPUs.
inline Node BenchNode(int n) {
  Node node{.name = absl::StrFormat("n%05d", n),
            .rack = absl::StrFormat("su%03d", n / kNodesPerLeaf),
            .spine = absl::StrFormat("pod%02d", n / kNodesPerLeaf / kLeavesPerSpine)};
  node.labels["zone"] = absl::StrCat("z", n / 2560);
  for (int d = 0; d < 8; ++d) {
    node.devices.push_back({.index = d, .kind = "h100", .memory_bytes = 80LL << 30});
  }
  return node;
}

inline std::vector<TraceJob> MakeTrace(uint32_t seed) {
  TraceSource source(seed);
  std::vector<TraceJob> jobs;
  for (size_t i = 0; i < kTraceJobs; ++i) jobs.push_back(source.Next(kTraceGap));
  return jobs;
}

// Walks the trace. Figures begin when a fifth of the jobs has been submitted and end with the last
// submission.
class TraceRun {
 public:
  explicit TraceRun(const std::vector<TraceJob>& jobs)
      : jobs_(jobs), warm_(jobs[jobs.size() / 5].submit), last_submit_(jobs.back().submit) {}

  // Moves to the next moment at which something is submitted or ends; false at the end.
  bool Advance() {
    double now = next_ < jobs_.size() ? jobs_[next_].submit : 1e18;
    if (!endings_.empty()) now = std::min(now, endings_.top().at);
    if (now > last_submit_) return false;
    if (now > warm_) {
      busy_ += held_ * (now - std::max(now_, warm_));
      span_ += now - std::max(now_, warm_);
    }
    now_ = now;
    return true;
  }
  double now() const { return now_; }
  // Jobs that end now, one a call; false when there is no more.
  bool PopEnding(size_t& job) {
    if (endings_.empty() || endings_.top().at > now_) return false;
    job = endings_.top().job;
    endings_.pop();
    held_ -= jobs_[job].devices();
    return true;
  }
  // Jobs that are submitted now.
  bool PopSubmission(size_t& job) {
    if (next_ == jobs_.size() || jobs_[next_].submit > now_) return false;
    job = next_++;
    return true;
  }
  void Start(size_t which, const std::vector<std::string>& nodes, const ClusterView& cluster) {
    const TraceJob& job = jobs_[which];
    held_ += job.devices();
    endings_.push({now_ + job.length, which});
    if (job.submit <= warm_) return;
    ++started_;
    wait_ += now_ - job.submit;
    longest_wait_ = std::max(longest_wait_, now_ - job.submit);
    if (job.devices() >= 64) {
      ++large_;
      wait_large_ += now_ - job.submit;
    }
    if (job.devices() > 8) NoteSpread(job, nodes, cluster);
  }

  double allocated_pct() const { return busy_ / span_ / (kTraceNodes * 8) * 100; }
  // Bars are for the trace that figures were published of; other seeds are told beside it. They are
  // what the prototype reaches when it is run again and prints four digits: published were 94.0 and
  // 1.65.
  void Tell(Report& report, const std::string& name, bool spread_bar, bool bars) const {
    double demand = 0;
    for (const TraceJob& job : jobs_) demand += job.length * job.devices();
    const auto bar = [&](double value) { return bars ? value : -1; };
    report.Add(
        {name + "load_pct", demand / last_submit_ / (kTraceNodes * 8) * 100, "%", -1, -1, true});
    report.Add({name + "allocated_pct", allocated_pct(), "%", 93.9581, bar(93.9581), true});
    report.Add({name + "spread", switches_ / multi_, "x", 1.6474, spread_bar ? 1.6474 : -1, false});
    report.Add({name + "cross_core_pct", 100.0 * crossed_ / multi_, "%", 16.6, -1, false});
    report.Add({name + "wait_s", wait_ / started_, "s", 177, bar(177), false});
    report.Add(
        {name + "wait_large_s", wait_large_ / std::max(1, large_), "s", 1496, bar(1496), false});
    report.Add({name + "wait_longest_s", longest_wait_, "s", -1, -1, false});
  }

 private:
  struct Ending {
    double at;
    size_t job;
    bool operator<(const Ending& other) const { return at > other.at; }
  };

  void NoteSpread(const TraceJob& job, const std::vector<std::string>& nodes,
                  const ClusterView& cluster) {
    std::set<std::string> leaves, spines;
    for (const std::string& name : nodes) {
      leaves.insert(cluster.Find(name)->rack);
      spines.insert(cluster.Find(name)->spine);
    }
    ++multi_;
    const int least = (job.devices() + kNodesPerLeaf * 8 - 1) / (kNodesPerLeaf * 8);
    switches_ += static_cast<double>(leaves.size()) / least;
    crossed_ += spines.size() > 1;
  }

  const std::vector<TraceJob>& jobs_;
  const double warm_, last_submit_;
  double now_ = 0, held_ = 0, busy_ = 0, span_ = 0, wait_ = 0, wait_large_ = 0, switches_ = 0;
  double longest_wait_ = 0;
  int started_ = 0, large_ = 0, multi_ = 0, crossed_ = 0;
  size_t next_ = 0;
  std::priority_queue<Ending> endings_;
};

// What the trace would allocate if its devices were one pool without nodes or network, jobs started
// by age wherever they fit: no placement can do much better.
inline double PooledAllocation(const std::vector<TraceJob>& jobs) {
  TraceRun run(jobs);
  const ClusterView no_nodes;
  std::list<size_t> waiting;
  int free = kTraceNodes * 8;
  while (run.Advance()) {
    size_t job = 0;
    while (run.PopEnding(job)) free += jobs[job].devices();
    while (run.PopSubmission(job)) waiting.push_back(job);
    for (auto it = waiting.begin(); it != waiting.end();) {
      if (jobs[*it].devices() > free) {
        ++it;
        continue;
      }
      free -= jobs[*it].devices();
      run.Start(*it, {}, no_nodes);
      it = waiting.erase(it);
    }
  }
  return run.allocated_pct();
}

}  // namespace graft::scheduler
