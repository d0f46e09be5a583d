// Which rank of a gang runs on which device.
//
//   absl::StatusOr<Placement> placement = Place(cluster, request);
//   if (placement.ok()) cluster.Take(placement->ranks, attempt_id);
//
// Where a request says how many nodes, each of them gives the same number of consecutive ranks.
//
// Ranks are numbered ((pp*DP + dp)*CP + cp)*TP + tp, depth first through the network, so that TP is
// fastest and PP crosses the widest switches; on each node rank i of a group takes the i-th device
// of an aligned block, so that DP and PP peers stand on the same rail. A TP group never leaves an
// NVLink domain unless the request allows it. An EP group stays inside one if any is large enough
// for it, else inside one leaf. A CP group stays inside one when it can. A gang is placed whole or
// not at all.
//
// Of all places the choice is, in order: the narrowest level of the network that holds the gang;
// the fewest switches between its stages (PP) and inside them (DP); the fewest domains; the least
// fragmentation left behind (the tightest domain first); the order of names. The same view and
// request give the same answer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
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
  bool operator==(const Layout& other) const = default;
};

// How far apart the ranks of a gang may stand, narrowest first.
enum class Level : uint8_t {
  kNode = 1,
  kDomain = 2,  // one NVLink domain
  kRack = 3,
  kRailGroup = 4,
  kSpine = 5,
  kCluster = 6,
};
absl::string_view LevelName(Level level);  // "rack"

struct GangRequest {
  Layout layout;
  // Empty: any kind, but the whole gang on one kind.
  std::string device_kind;
  int64_t min_memory_bytes = 0;  // of each device
  // Every one must be a label of the node.
  absl::btree_map<std::string, std::string> labels;
  std::vector<std::string> tolerations;
  // Nodes that the gang may use; empty: all.
  std::vector<std::string> only_nodes;
  // Nodes that the gang must not use (those it has just failed on).
  std::vector<std::string> avoid_nodes;
  bool allow_tp_across_domains = false;
  int priority = 0;
  Level max_level = Level::kCluster;
  // Exactly so many nodes, each with the same number of consecutive ranks; 0: as many as it takes.
  int nodes = 0;
  // When the gang will be done with its nodes: those that leave before are not for it.
  absl::Time needed_until = absl::InfinitePast();

  bool operator==(const GangRequest& other) const = default;
};

struct Placement {
  std::vector<DeviceRef> ranks;  // [world]
  // What was decided, for the record of the decision.
  Level level = Level::kNode;  // the narrowest that holds the gang
  int unit = 1;                // devices that were kept inside one NVLink domain
  int domains = 1;
  int crossings = 0;  // switch borders that PP and DP cross, summed over the levels

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
  // Of a request that says how many nodes: those whose devices are enough for a node's share, held
  // or not, and those that have so many free and take jobs.
  int nodes_large_enough = 0;
  int nodes_with_room = 0;
  // The most devices of one kind in one NVLink domain, held or not.
  int largest_domain = 0;
  std::string largest_domain_name;
};
Funnel Measure(const ClusterView& cluster, const GangRequest& request);

// RESOURCE_EXHAUSTED when the gang does not fit what is free now; the message has the numbers.
// INVALID_ARGUMENT for a layout that is none.
absl::StatusOr<Placement> Place(const ClusterView& cluster, const GangRequest& request);

// The same, of a what-if copy of the cluster's counts.
absl::StatusOr<Placement> Place(const Topology& topology, const GangRequest& request);
// Without the sentence that says why not: for passes over many jobs.
std::optional<Placement> TryPlace(const Topology& topology, const GangRequest& request);

// Whether `placement` still keeps every condition of the request: to be asked when it is committed,
// not only when it was found. FAILED_PRECONDITION names the first condition that is broken.
absl::Status Validate(const ClusterView& cluster, const GangRequest& request,
                      const Placement& placement);

// OK when the gang would fit if every device were free and every node schedulable;
// FAILED_PRECONDITION with the number that does not fit otherwise.
absl::Status FitsEmptyCluster(const ClusterView& cluster, const GangRequest& request);

// Whether the gang would fit so, and only so, if its TP groups could leave their NVLink domains.
bool OnlyTpKeepsOut(const ClusterView& cluster, const GangRequest& request);

}  // namespace graft::scheduler
