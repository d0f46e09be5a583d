// The bugs that GRAFT_PLANTED(n) switches on in the core, for the proof that the simulation finds
// them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace graft::scheduler {

struct PlantedBug {
  int number;
  std::string what;
  // One that finds it, so that the search need not be made each time; a wrong one costs time alone.
  uint64_t seed;
};
const std::vector<PlantedBug>& PlantedBugs();

}  // namespace graft::scheduler
