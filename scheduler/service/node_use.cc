#include "scheduler/service/node_use.h"

#include <algorithm>
#include <cmath>

#include "scheduler/service/resources.h"

namespace graft::scheduler {

void NodeUseBoard::Put(const std::string& node, const graft::agent::v1::SynchronizeRequest& report,
                       absl::Time now) {
  MutexLock lock(mu_);
  NodeUse& use = nodes_[node];
  const double kept = std::exp(-absl::FDivDuration(now - use.told, kUseAveragedOver));
  use.devices.resize(static_cast<size_t>(report.device_use_size()));
  for (size_t i = 0; i < use.devices.size(); ++i) {
    const auto& told = report.device_use(static_cast<int>(i));
    DeviceUse& device = use.devices[i];
    device.memory_used_bytes = told.memory_used_bytes();
    if (!told.has_utilisation()) {
      device.utilisation.reset();
    } else {
      const double before = device.utilisation.value_or(told.utilisation());
      device.utilisation = kept * before + (1 - kept) * told.utilisation();
    }
  }
  use.disk_free_bytes = report.disk_free_bytes();
  use.told = now;
}

const NodeUseBoard::NodeUse* NodeUseBoard::Find(absl::string_view node, absl::Time now) const {
  const auto it = nodes_.find(node);
  return it != nodes_.end() && now - it->second.told <= kUseAveragedOver ? &it->second : nullptr;
}

void NodeUseBoard::Overlay(const std::string& node, absl::Time now, graft::v1::Node& body) const {
  MutexLock lock(mu_);
  if (const auto it = nodes_.find(node); it != nodes_.end()) {
    *body.mutable_last_seen_time() = ToTimestamp(it->second.told);
  }
  const NodeUse* use = Find(node, now);
  if (use == nullptr) return;
  body.set_disk_free_bytes(use->disk_free_bytes);
  const size_t known = std::min(use->devices.size(), static_cast<size_t>(body.devices_size()));
  for (size_t i = 0; i < known; ++i) {
    graft::v1::Device& device = *body.mutable_devices(static_cast<int>(i));
    const DeviceUse& told = use->devices[i];
    if (told.utilisation.has_value()) device.set_utilisation(*told.utilisation);
    device.set_memory_used_bytes(told.memory_used_bytes);
  }
}

std::optional<double> NodeUseBoard::Utilisation(absl::string_view node, size_t device,
                                                absl::Time now) const {
  MutexLock lock(mu_);
  const NodeUse* use = Find(node, now);
  if (use == nullptr || device >= use->devices.size()) return std::nullopt;
  return use->devices[device].utilisation;
}

}  // namespace graft::scheduler
