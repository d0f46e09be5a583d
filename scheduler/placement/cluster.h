// What the scheduler knows of its machines: nodes, their devices, the NVLink domains that devices
// share, and who holds what.
//
// Plain state without time: the core changes it through the few verbs below, so that whatever a
// placement algorithm wants indexed can be kept up to date inside. Owned by the scheduler's loop;
// takes no lock, does no IO, and its order is the names' order.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace graft::scheduler {

// One thing a rank runs on: a GPU, a MIG slice, or a share of a CPU.
struct Device {
  int index = 0;     // the node's own number
  std::string kind;  // "h100", "h100-1g.10gb", "cpu"; what a request names
  int64_t memory_bytes = 0;
  // Devices with equal domains talk at NVLink speed. Names are cluster-wide (an NVL72 rack spans
  // nodes); empty means that the node is the domain.
  std::string nvlink_domain;
  bool healthy = true;
  std::string holder;  // who has it; empty when it is free
};

struct Node {
  std::string name;
  std::vector<Device> devices;  // by index, ascending
  absl::btree_map<std::string, std::string> labels;
  // Keys that keep gangs away unless they tolerate them.
  std::vector<std::string> taints;
  // Where it stands, from the narrowest switch to the widest, as the administrator named them.
  std::string rack;
  std::string rail_group;
  std::string spine;
  // False while it is cordoned, drained, lost or not yet registered again.
  bool schedulable = true;
};

// A device of a node.
struct DeviceRef {
  std::string node;
  int device = 0;
  bool operator==(const DeviceRef& other) const {
    return node == other.node && device == other.device;
  }
  bool operator<(const DeviceRef& other) const {
    return node != other.node ? node < other.node : device < other.device;
  }
};

class ClusterView {
 public:
  const absl::btree_map<std::string, Node>& nodes() const { return nodes_; }
  // nullptr when there is none.
  const Node* Find(absl::string_view node) const;

  // Adds the node, or replaces what is known of it; holders of devices that are still there stay.
  void PutNode(Node node);
  void RemoveNode(absl::string_view node);
  void SetSchedulable(absl::string_view node, bool schedulable);

  // Gives all of `devices` to `holder`, or none: FAILED_PRECONDITION names the one that is held,
  // NOT_FOUND the one that is not there.
  absl::Status Take(const std::vector<DeviceRef>& devices, absl::string_view holder);
  // Frees what `holder` has among `devices`.
  void Release(const std::vector<DeviceRef>& devices, absl::string_view holder);

 private:
  Device* FindDevice(const DeviceRef& ref);

  absl::btree_map<std::string, Node> nodes_;
};

}  // namespace graft::scheduler
