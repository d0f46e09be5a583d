// Which rank of a gang runs on which device.
//
//   absl::StatusOr<Placement> placement = Place(cluster, request);
//   if (placement.ok()) cluster.Take(placement->ranks, attempt_id);
//
// Ranks are numbered ((pp*DP + dp)*CP + cp)*TP + tp. A TP group never leaves an NVLink domain
// unless the request allows it, CP and EP groups stay inside one when they can, PP crosses nodes
// first. A gang is placed whole or not at all. The same view and request give the same answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "scheduler/placement/cluster.h"

namespace graft::scheduler {

// How the ranks of a gang work together. ep is no factor of the world: it regroups the cp x dp
// ranks of a stage.
struct Layout {
  int tp = 1;
  int cp = 1;
  int dp = 1;
  int pp = 1;
  int ep = 1;

  int world() const { return tp * cp * dp * pp; }
  int stage() const { return tp * cp * dp; }
  bool operator==(const Layout& other) const {
    return tp == other.tp && cp == other.cp && dp == other.dp && pp == other.pp && ep == other.ep;
  }
};

struct GangRequest {
  Layout layout;
  // Empty: any kind, but the whole gang on one kind.
  std::string device_kind;
  int64_t min_memory_bytes = 0;  // of each device
  // Every one must be a label of the node.
  absl::btree_map<std::string, std::string> labels;
  std::vector<std::string> tolerations;
  // Nodes that the gang must not use (those it has just failed on).
  std::vector<std::string> avoid_nodes;
  bool allow_tp_across_domains = false;
  int priority = 0;
};

struct Placement {
  std::vector<DeviceRef> ranks;  // [world]

  // The distinct nodes, in name order.
  std::vector<std::string> Nodes() const;
};

// How many nodes and devices are left after each condition of a request, in the order in which they
// are applied: what an explanation is made from.
struct Funnel {
  int nodes = 0;
  int nodes_matching = 0;     // labels and taints
  int nodes_schedulable = 0;  // of those, not cordoned or lost
  int devices_matching = 0;   // right kind, memory and health on matching nodes
  int devices_schedulable = 0;
  int devices_free = 0;
  // The most free devices of one kind in one NVLink domain, and that domain.
  int largest_free_domain = 0;
  std::string largest_free_domain_name;
  // The most devices of one kind in one NVLink domain, held or not.
  int largest_domain = 0;
  std::string largest_domain_name;
};
Funnel Measure(const ClusterView& cluster, const GangRequest& request);

// RESOURCE_EXHAUSTED when the gang does not fit what is free now; the message has the numbers.
// INVALID_ARGUMENT for a layout that is none.
absl::StatusOr<Placement> Place(const ClusterView& cluster, const GangRequest& request);

// OK when the gang would fit if every device were free and every node schedulable;
// FAILED_PRECONDITION with the number that does not fit otherwise.
absl::Status FitsEmptyCluster(const ClusterView& cluster, const GangRequest& request);

}  // namespace graft::scheduler
