#include "worker/agent/inventory_convert.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace graft::agent {
namespace {

// Two fused multiply-adds of eight fp32 a cycle at 2.5 GHz: for estimates of time alone.
constexpr double kTflopsPerCore = 0.08;
constexpr double kCpuBandwidth = 20;  // GB/s, of two channels of DDR4

graft::v1::Device::Kind KindOf(const device::Device& device) {
  if (device.kind == device::DeviceKind::kCpu) return graft::v1::Device::KIND_CPU;
  return device.mig_profile.empty() ? graft::v1::Device::KIND_CUDA
                                    : graft::v1::Device::KIND_CUDA_SLICE;
}

}  // namespace

v1::Inventory ToProto(const device::Inventory& inventory, absl::string_view node_id) {
  v1::Inventory out;
  out.set_memory_bytes(inventory.memory_bytes);
  out.set_cpu_cores(inventory.cpus);
  for (const device::Device& device : inventory.devices) {
    graft::v1::Device& to = *out.add_devices();
    to.set_index(device.index);
    to.set_uuid(device.uuid);
    to.set_kind(KindOf(device));
    to.set_product(device.product);
    to.set_memory_bytes(device.memory_bytes);
    to.set_numa_node(device.numa_node);
    to.set_nic(device.nic);
    to.set_rail(device.index);
    if (device.nvlink_domain >= 0) {
      to.set_nvlink_domain(absl::StrCat(node_id, "/", device.nvlink_domain));
    }
    if (device.kind == device::DeviceKind::kCpu) {
      to.set_cpu_cores(inventory.cpus / static_cast<int>(inventory.devices.size()));
      to.set_tflops(kTflopsPerCore * to.cpu_cores());
      to.set_memory_bandwidth(kCpuBandwidth);
    }
    to.set_health(graft::v1::Device::HEALTH_OK);
    if (!device.healthy) {
      to.set_health(graft::v1::Device::HEALTH_FAULTY);
      to.set_message(device.health_reason);
    } else if (!device.foreign.empty()) {
      to.set_health(graft::v1::Device::HEALTH_FOREIGN);
      to.set_message(absl::StrCat(
          "in use by ", absl::StrJoin(device.foreign, ", ",
                                      [](std::string* text, const device::ForeignProcess& process) {
                                        absl::StrAppend(text, "pid ", process.pid, " (",
                                                        process.user, ")");
                                      })));
    }
  }
  return out;
}

void AddUse(const device::Inventory& inventory, v1::SynchronizeRequest& request) {
  for (const device::Device& device : inventory.devices) {
    v1::DeviceUse& use = *request.add_device_use();
    if (device.utilisation.has_value()) use.set_utilisation(*device.utilisation);
    use.set_memory_used_bytes(device.memory_bytes - device.memory_free_bytes);
  }
}

}  // namespace graft::agent
