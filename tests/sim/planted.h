// The bugs that GRAFT_PLANTED(n) switches on in the core, for the proof that the simulation finds
// them.
#pragma once

#include <string>
#include <vector>

namespace graft::scheduler {

struct PlantedBug {
  int number;
  std::string what;
};
const std::vector<PlantedBug>& PlantedBugs();

}  // namespace graft::scheduler
