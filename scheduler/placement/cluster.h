// What the scheduler knows of its machines: nodes, their devices, the NVLink domains that devices
// share, and who holds what.
//
// Plain state without time: the core changes it through the few verbs below, each of which keeps
// the topology index inside up to date in O(levels of the network). Owned by the scheduler's loop;
// takes no lock, does no IO, and its order is the names' order. A copy of the whole view is dear
// (every node with its labels); to ask "what if these were free", copy topology() alone.
#pragma once

#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "scheduler/placement/node.h"
#include "scheduler/placement/topology.h"

namespace graft::scheduler {

class ClusterView {
 public:
  const absl::btree_map<std::string, Node>& nodes() const { return nodes_; }
  // nullptr when there is none.
  const Node* Find(absl::string_view node) const;
  const Device* FindDevice(const DeviceRef& ref) const;

  // Adds the node, or replaces what is known of it; holders of devices that are still there stay.
  void PutNode(Node node);
  void RemoveNode(absl::string_view node);
  void SetSchedulable(absl::string_view node, bool schedulable);

  // Gives all of `devices` to `holder`, or none: FAILED_PRECONDITION names the one that is held,
  // NOT_FOUND the one that is not there.
  absl::Status Take(const std::vector<DeviceRef>& devices, absl::string_view holder);
  // Frees what `holder` has among `devices`.
  void Release(const std::vector<DeviceRef>& devices, absl::string_view holder);

  // The same cluster as counts: what searches read, and what they copy to ask "what if".
  const Topology& topology() const { return topology_; }
  // As if no device were held and every node took jobs.
  const Topology& empty() const { return empty_; }

 private:
  Device* Held(const DeviceRef& ref);

  void Index(const Node& node);
  void Put(Topology& topology, const Node& node);

  absl::btree_map<std::string, Node> nodes_;
  Topology topology_;
  Topology empty_;
};

}  // namespace graft::scheduler
