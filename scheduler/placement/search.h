// Where a gang goes: so many units into NVLink domains. Internal to placement/.
//
// A unit is the devices that must share a domain. The search walks down from the core to the
// narrowest switches that can hold every unit, fills the tightest few of them in turn and keeps the
// fill that scores best. Reads counts on the way down and domains only inside the chosen switch.
#pragma once

#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "scheduler/placement/placement.h"
#include "scheduler/placement/topology.h"

namespace graft::scheduler {

// A switch, domain or node with room: how many units, and how many free devices that is made of.
struct Room {
  int id = 0;
  int units = 0;
  int free = 0;
};
// The fewest rooms that hold `need` units, which must be there: the largest whole until one can
// take the rest, then the tightest that can.
std::vector<Room> FewestOf(std::vector<Room> rooms, int need);

struct Demand {
  int unit = 1;
  int units = 1;
  int stage_units = 1;  // of one pipeline stage; 1 also where stages do not come out whole
  int chunk = 1;        // units that must share a leaf
  Level max_level = Level::kCluster;
};

struct Plan {
  // Units by domain, in the order of the ranks.
  std::vector<std::pair<int, int>> parts;
  int only_member = -1;  // all on this node, where the domain is wider than that
  Level level = Level::kCluster;
  int crossings = 0;
  int opened = 0;  // domains that were wholly free before

  auto Score() const { return std::make_tuple(level, crossings, parts.size(), opened); }
};

// The pools must be of one kind of device.
std::optional<Plan> FindPlan(const Topology& topology, const std::vector<int>& pools,
                             const Demand& demand);

// The devices of each unit, unit after unit.
std::vector<DeviceRef> AssignRanks(const Topology& topology, const Plan& plan, int unit);

}  // namespace graft::scheduler
