// Where a gang goes: so many units into NVLink domains. Internal to placement/.
//
// A unit is the devices that must share a domain, or a node that gives a stated number of devices.
// The search walks down from the core to the narrowest switches that can hold every unit, fills the
// tightest few of them in turn and keeps the fill that scores best. Reads counts on the way down
// and domains only inside the chosen switch; where nodes are units, every node once.
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
  int unit = 1;   // devices that must share a domain
  int units = 1;  // nodes where `per_node` is given
  int stage = 1;  // ranks of one pipeline stage
  int chunk = 1;  // units that must share a leaf
  Level max_level = Level::kCluster;
  int per_node = 0;  // devices of each node, no more and no fewer; 0: as it comes
  int together = 1;  // nodes that must share a domain, since a unit is wider than `per_node`
};

struct Plan {
  struct Part {
    int domain = 0;
    int units = 0;
    int member = -1;  // all of them on this node; negative: anywhere in the domain
  };
  std::vector<Part> parts;  // in the order of the ranks
  int block = 1;            // devices of a unit in `parts`
  Level level = Level::kCluster;
  int crossings = 0;
  int opened = 0;  // domains that were wholly free before

  auto Score() const { return std::make_tuple(level, crossings, parts.size(), opened); }
};

// The pools must be of one kind of device.
std::optional<Plan> FindPlan(const Topology& topology, const std::vector<int>& pools,
                             const Demand& demand);

// The devices of each unit, unit after unit.
std::vector<DeviceRef> AssignRanks(const Topology& topology, const Plan& plan);

}  // namespace graft::scheduler
