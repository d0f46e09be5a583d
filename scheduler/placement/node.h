// A machine as the scheduler sees it: devices, labels, and its place in the network. Plain data.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/time/time.h"

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
  // Of a MIG slice the card that it is cut from; negative: a whole device. Slices have no NVLink:
  // ranks on two of them are never one TP group.
  int card = -1;
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
  // Until when it stays (a node inside another scheduler's allocation has an end).
  absl::Time available_until = absl::InfiniteFuture();
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

}  // namespace graft::scheduler
