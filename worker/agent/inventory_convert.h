// From what the device sources read to the API's messages.
#pragma once

#include "absl/strings/string_view.h"
#include "graft/agent/v1/agent.pb.h"
#include "worker/device/inventory.h"

namespace graft::agent {

// Devices, memory and cores; disk and addresses are the agent's to add. NVLink domains are named
// after the node: one host may have several agents.
v1::Inventory ToProto(const device::Inventory& inventory, absl::string_view node_id);

// How busy they are, in the inventory's order.
void AddUse(const device::Inventory& inventory, v1::SynchronizeRequest& request);

}  // namespace graft::agent
