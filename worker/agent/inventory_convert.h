// From what the device sources read to the API's messages.
#pragma once

#include "graft/agent/v1/agent.pb.h"
#include "worker/device/inventory.h"

namespace graft::agent {

// Devices, memory and cores; disk and addresses are the agent's to add.
v1::Inventory ToProto(const device::Inventory& inventory);

}  // namespace graft::agent
