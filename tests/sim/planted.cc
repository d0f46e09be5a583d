#include "tests/sim/planted.h"

namespace graft::scheduler {

int planted_bug = 0;

const std::vector<PlantedBug>& PlantedBugs() {
  static const auto* bugs = new std::vector<PlantedBug>{
      {1, "a lease never ends", 1},
      {2, "what ran before a worker registered again is taken to run on", 1},
      {3, "a worker with an old epoch is listened to", 1},
      {4, "the report of an attempt that is over counts for the next", 138},
      {5, "a part that the worker has not been told of counts as gone", 1},
      {6, "a pause is not stored", 1},
      {7, "a job that has ended can be cancelled", 1},
      {8, "devices that are freed stay counted against the workspace", 1},
      {9, "a gang that lost a rank is left waiting for it", 2},
      {10, "an attempt is over while ranks of it run", 1},
      {11, "restarts have no end", 4},
      {12, "an answer that nobody waits for any more is taken", 22},
      {13, "the quota is not looked at", 2},
      {14, "devices are given away without being taken", 1},
      {15, "a gang starts without its last rank", 1},
      {16, "room that was made for a job is anyone's", 1},
      {17, "a job is stopped for another without a checkpoint", 1},
      {18, "a queue that is held starts jobs", 3},
      {19, "what runs on a node that leaves is left there", 2},
      {20, "who borrows takes back what others borrow", 2},
      {21, "a registration that comes late ends what runs", 43},
  };
  return *bugs;
}

}  // namespace graft::scheduler
