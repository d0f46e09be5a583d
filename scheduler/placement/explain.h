// Why a job waits, with numbers; when it is expected to start; and what would start it now.
//
//   Explanation why = Explain(cluster, queue, input, "w/j7", {});
//
// Every counterfactual has been tried: the queue was walked as the scheduler walks it, with that
// one thing changed, and the job started. Jobs that are not submitted yet are explained in the same
// way: Add them to a copy of the queue first. Pure; no clock.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "scheduler/placement/queue_pass.h"

namespace graft::scheduler {

// Stable codes: INVALID_SHAPE, QUOTA, NO_NODE_MATCHES, DRAINING, CAPACITY, NODE_COUNT, FRAGMENTED,
// RESERVED, FAIR_SHARE, PRIORITY.
struct WhyWaiting {
  std::string code;
  std::string text;
  std::vector<std::pair<std::string, int64_t>> numbers;
};

enum class Remedy {
  kMaxLevel,     // may stand further apart
  kReplicas,     // fewer data-parallel replicas
  kShape,        // another layout
  kNodes,        // on as many nodes as it takes
  kSplitTp,      // TP groups may cross NVLink domains
  kTolerations,  // goes to tainted nodes
  kLabels,       // without one of its labels
  kUncordon,     // nodes take jobs again
  kQuota,        // the workspace may hold more
  kPriority,     // goes ahead
};

struct Counterfactual {
  Remedy remedy;
  std::string text;  // "would start now with max_level cluster"
  WaitingJob job;    // as it would have to be; as it is for kUncordon and kQuota
  std::vector<std::string> uncordon;
  int quota = 0;  // the guarantee that would do
};

struct Explanation {
  bool starts_now = false;          // then there are no reasons
  std::vector<WhyWaiting> reasons;  // the first decides
  Funnel funnel;
  std::vector<Counterfactual> counterfactuals;
  absl::Time expected_start = absl::InfiniteFuture();  // infinite: not known
};

// `input.topology` must be the cluster's, and the job must be in the queue. `shapes` are other
// layouts that the job's model fits in.
Explanation Explain(const ClusterView& cluster, const WaitingQueue& queue, const PassInput& input,
                    const std::string& id, const std::vector<Layout>& shapes);

}  // namespace graft::scheduler
