// Whether a node and a device are what a request asks for. Internal to placement/.
#pragma once

#include <string>

#include "scheduler/placement/placement.h"

namespace graft::scheduler {

// The first condition on the node itself that the request sets and the node breaks, as the rest of
// a sentence that begins with the node ("has the taint x"); empty: none. Cordons do not count.
std::string NodeMisfit(const Node& node, const GangRequest& request);
// Kind, memory and health.
bool DeviceMatches(const Device& device, const GangRequest& request);
const std::string& DomainOf(const Node& node, const Device& device);

}  // namespace graft::scheduler
