// Facts of the machine that every device source shares.
#pragma once

#include "worker/device/inventory.h"

namespace graft::device {

// Hostname, cores this process may use, and memory (the cgroup's limit where that is lower).
Inventory ReadMachine();
// Memory that can be had without swapping.
int64_t AvailableMemoryBytes();

}  // namespace graft::device
