// Facts of the machine that every device source shares.
#pragma once

#include <cstdint>
#include <optional>

#include "worker/device/inventory.h"

namespace graft::device {

// Hostname, cores this process may use, and memory (the cgroup's limit where that is lower).
Inventory ReadMachine();
// Memory that can be had without swapping.
int64_t AvailableMemoryBytes();

// How busy the machine's cores are.
class CpuMeter {
 public:
  // The share of their time since an earlier call; nothing at the first.
  std::optional<double> Read();

 private:
  int64_t busy_ = 0;
  int64_t all_ = 0;
  std::optional<double> share_;
};

}  // namespace graft::device
