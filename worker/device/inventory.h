// What a worker has to offer: its devices, how they are linked, and the machine around them.
//
// An inventory is a plain value. `DeviceSource` reads one; the sources are the CPU, NVML (by
// dlopen, so that the same program runs where no driver is) and a declared topology for tests and
// trials.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::device {

enum class DeviceKind { kCpu, kCuda, kDeclared };

// A process that is not ours and holds a device.
struct ForeignProcess {
  int64_t pid = 0;
  std::string user;
};

struct Device {
  int index = 0;
  DeviceKind kind = DeviceKind::kCpu;
  std::string uuid;
  std::string product;  // "NVIDIA H100 80GB HBM3", "cpu"
  int64_t memory_bytes = 0;
  int64_t memory_free_bytes = 0;
  int numa_node = -1;
  std::string nic;  // the network card nearest to it; empty: not known
  // Devices of one node that reach each other over NVLink share a number; -1: linked to none.
  int nvlink_domain = -1;
  // The MIG profile of a slice ("1g.10gb"), empty for a whole device.
  std::string mig_profile;
  bool healthy = true;
  std::string health_reason;  // why not
  std::vector<ForeignProcess> foreign;
  // Busy share of the last second (CPUs: since the last read), 0 to 1; nothing: not known.
  std::optional<double> utilisation;
};

struct Inventory {
  std::string hostname;
  int cpus = 0;
  int64_t memory_bytes = 0;
  std::vector<Device> devices;
};

class DeviceSource {
 public:
  virtual ~DeviceSource() = default;
  // Reads the present state; cheap enough to be called every few seconds.
  virtual absl::StatusOr<Inventory> Read() = 0;
};

// `count` devices that share the machine's cores and memory evenly.
std::unique_ptr<DeviceSource> CpuDevices(int count);

// The devices of a JSON text:
//   {"hostname": "n1", "devices": [{"count": 8, "product": "H100", "memory_gb": 80,
//                                   "nvlink_domain": 0}]}
// INVALID_ARGUMENT names the key that is wrong.
absl::StatusOr<std::unique_ptr<DeviceSource>> DeclaredDevices(absl::string_view json);

// The GPUs that NVML shows; `own_pids` says which processes are ours. NOT_FOUND when there is no
// driver on this machine.
absl::StatusOr<std::unique_ptr<DeviceSource>> NvmlDevices();

// NVML where there is a driver with at least one GPU, else one CPU device.
std::unique_ptr<DeviceSource> DetectDevices();

// The devices of `source` with one of these indices, which they keep.
std::unique_ptr<DeviceSource> SelectDevices(std::unique_ptr<DeviceSource> source,
                                            std::vector<int> indices);

// Keeps the devices named in `selection` ("0,2"). INVALID_ARGUMENT names the indices there are.
absl::StatusOr<std::vector<int>> ParseSelection(absl::string_view selection, int device_count);

}  // namespace graft::device
