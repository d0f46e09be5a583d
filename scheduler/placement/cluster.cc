#include "scheduler/placement/cluster.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace graft::scheduler {

const Node* ClusterView::Find(absl::string_view node) const {
  const auto it = nodes_.find(node);
  return it == nodes_.end() ? nullptr : &it->second;
}

void ClusterView::PutNode(Node node) {
  if (const Node* old = Find(node.name); old != nullptr) {
    for (Device& device : node.devices) {
      for (const Device& before : old->devices) {
        if (before.index == device.index) device.holder = before.holder;
      }
    }
  }
  Node& kept = nodes_[node.name];
  kept = std::move(node);
  Index(kept);
}

void ClusterView::Index(const Node& node) {
  Put(topology_, node);
  Put(empty_, node);
  empty_.FreeEverything(node.name);
}

void ClusterView::Put(Topology& topology, const Node& node) {
  topology.Put(node);
  // Each time a label turns out to tell nodes apart one is forgotten, so this comes to its end.
  while (topology.wants_rebuild()) {
    Topology fresh;
    fresh.Inherit(topology);
    for (const auto& [name, known] : nodes_) {
      fresh.Put(known);
      if (&topology == &empty_) fresh.FreeEverything(name);
    }
    topology = std::move(fresh);
  }
}

void ClusterView::RemoveNode(absl::string_view node) {
  nodes_.erase(std::string(node));
  topology_.Remove(node);
  empty_.Remove(node);
}

void ClusterView::SetSchedulable(absl::string_view node, bool schedulable) {
  const auto it = nodes_.find(node);
  if (it == nodes_.end()) return;
  it->second.schedulable = schedulable;
  topology_.SetUp(node, schedulable);
}

const Device* ClusterView::FindDevice(const DeviceRef& ref) const {
  const auto it = nodes_.find(ref.node);
  if (it == nodes_.end()) return nullptr;
  for (const Device& device : it->second.devices) {
    if (device.index == ref.device) return &device;
  }
  return nullptr;
}

Device* ClusterView::Held(const DeviceRef& ref) {
  return const_cast<Device*>(FindDevice(ref));  // of a node that is ours to change
}

absl::Status ClusterView::Take(const std::vector<DeviceRef>& devices, absl::string_view holder) {
  for (const DeviceRef& ref : devices) {
    const Device* device = FindDevice(ref);
    if (device == nullptr) {
      return absl::NotFoundError(absl::StrCat("node ", ref.node, " has no device ", ref.device));
    }
    if (!device->holder.empty()) {
      return absl::FailedPreconditionError(absl::StrCat("device ", ref.device, " of node ",
                                                        ref.node, " is held by ", device->holder));
    }
  }
  for (const DeviceRef& ref : devices) Held(ref)->holder = std::string(holder);
  topology_.Take(devices);
  return absl::OkStatus();
}

void ClusterView::Release(const std::vector<DeviceRef>& devices, absl::string_view holder) {
  std::vector<DeviceRef> freed;
  for (const DeviceRef& ref : devices) {
    Device* device = Held(ref);
    if (device == nullptr || device->holder.empty() || device->holder != holder) continue;
    device->holder.clear();
    freed.push_back(ref);
  }
  topology_.Release(freed);
}

}  // namespace graft::scheduler
