// Finds jobs that hold devices and do nothing with them, in queues that have a policy for it.
//
//   std::vector<IdleWatch::Finding> found = watch.Look(core, policies, now);   // every few seconds
//
// A job is idle when its devices were less busy than its queue asks, or it has made no step, for as
// long as the queue waits. What is not known (a worker that tells no use, a device whose use cannot
// be read) counts as busy. Kept in memory alone: a restart begins to count anew.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"
#include "graft/v1/queue.pb.h"
#include "scheduler/core/core.h"
#include "scheduler/service/mutate.h"
#include "scheduler/service/node_use.h"
#include "scheduler/service/progress.h"

namespace graft::scheduler {

class IdleWatch {
 public:
  struct Policy {
    double min_utilisation = 0.05;
    absl::Duration after = absl::Minutes(30);
    bool stop = false;
  };
  using Policies = absl::flat_hash_map<std::string, Policy>;  // by queue
  struct Finding {
    JobKey job;
    std::string why;
    bool stop = false;
  };

  IdleWatch(const ProgressBoard& progress, const NodeUseBoard& use)
      : progress_(progress), use_(use) {}

  // Jobs that have become idle since the last call. Always from the same thread.
  std::vector<Finding> Look(const Core& core, const Policies& policies, absl::Time now);

  // Jobs that are idle now. From any thread.
  int64_t idle() const { return idle_; }

  static Policy PolicyOf(const graft::v1::IdlePolicy& policy);

 private:
  struct Watched {
    int attempt = 0;
    int64_t steps = 0;
    absl::Time stepped;  // when they were last more than before
    absl::Time busy;     // when its devices last were
    bool told = false;
  };
  // Why the job is idle; empty: it is not.
  std::string Judge(const Core& core, const Job& job, const Policy& policy, absl::Time now,
                    Watched& watched) const;
  bool Busy(const Core& core, const Attempt& attempt, double least, absl::Time now) const;

  const ProgressBoard& progress_;
  const NodeUseBoard& use_;
  absl::flat_hash_map<JobKey, Watched> watched_;
  std::atomic<int64_t> idle_{0};
};

// One look, on the loop: an event for each job that has become idle, and a checkpoint and its end
// where the queue says so. Blocking.
void LookForIdleJobs(const ServiceContext& context, IdleWatch& watch);

}  // namespace graft::scheduler
