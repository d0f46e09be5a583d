// The part of NVML that is used, as a table of functions, so that the reading of GPUs is tested
// without a driver. Names, numbers and layouts are those of NVIDIA's public ABI.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "worker/device/inventory.h"

namespace graft::device {

using NvmlHandle = void*;

struct NvmlMemory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};

struct NvmlPci {
  char bus_id_legacy[16];
  unsigned int domain;
  unsigned int bus;
  unsigned int device;
  unsigned int pci_device_id;
  unsigned int pci_subsystem_id;
  char bus_id[32];
};

struct NvmlProcess {
  unsigned int pid;
  unsigned long long used_memory;
  unsigned int gpu_instance;
  unsigned int compute_instance;
};

struct NvmlUtilization {
  unsigned int gpu;
  unsigned int memory;
};

struct NvmlEvent {
  NvmlHandle device;
  unsigned long long type;
  unsigned long long data;  // of a critical error its XID
  unsigned int gpu_instance;
  unsigned int compute_instance;
};

// Every function returns 0 on success. A null pointer: this driver lacks the call.
struct NvmlApi {
  int (*init)() = nullptr;
  const char* (*error_string)(int) = nullptr;
  int (*device_count)(unsigned int*) = nullptr;
  int (*handle_by_index)(unsigned int, NvmlHandle*) = nullptr;
  int (*name)(NvmlHandle, char*, unsigned int) = nullptr;
  int (*uuid)(NvmlHandle, char*, unsigned int) = nullptr;
  int (*memory)(NvmlHandle, NvmlMemory*) = nullptr;
  int (*pci)(NvmlHandle, NvmlPci*) = nullptr;
  int (*numa_node)(NvmlHandle, unsigned int*) = nullptr;
  int (*p2p_status)(NvmlHandle, NvmlHandle, int, int*) = nullptr;
  int (*processes)(NvmlHandle, unsigned int*, NvmlProcess*) = nullptr;
  int (*utilization)(NvmlHandle, NvmlUtilization*) = nullptr;
  int (*ecc_errors)(NvmlHandle, int, int, unsigned long long*) = nullptr;
  int (*event_set)(void**) = nullptr;
  int (*register_events)(NvmlHandle, unsigned long long, void*) = nullptr;
  int (*event_wait)(void*, NvmlEvent*, unsigned int) = nullptr;
  int (*mig_mode)(NvmlHandle, unsigned int*, unsigned int*) = nullptr;
  int (*max_mig_devices)(NvmlHandle, unsigned int*) = nullptr;
  int (*mig_handle)(NvmlHandle, unsigned int, NvmlHandle*) = nullptr;
};

// Loads libnvidia-ml.so.1. NOT_FOUND without a driver, FAILED_PRECONDITION when it does not start.
absl::StatusOr<NvmlApi> LoadNvml();

// A source over `api`, which has been initialised.
std::unique_ptr<DeviceSource> NvmlSource(const NvmlApi& api);

}  // namespace graft::device
