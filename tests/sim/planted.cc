#include "tests/sim/planted.h"

namespace graft::scheduler {

int planted_bug = 0;

const std::vector<PlantedBug>& PlantedBugs() {
  static const auto* bugs = new std::vector<PlantedBug>{
      {1, "a lease never ends"},
      {2, "what ran before a worker registered again is taken to run on"},
      {3, "a worker with an old epoch is listened to"},
      {4, "the report of an attempt that is over counts for the next"},
      {5, "a part that the worker has not been told of counts as gone"},
      {6, "a pause is not stored"},
      {7, "a job that has ended can be cancelled"},
      {8, "devices that are freed stay counted against the workspace"},
      {9, "a gang that lost a rank is left waiting for it"},
      {10, "an attempt is over while ranks of it run"},
      {11, "restarts have no end"},
      {12, "an answer that nobody waits for any more is taken"},
      {13, "the quota is not looked at"},
      {14, "devices are given away without being taken"},
      {15, "a gang starts without its last rank"},
      {16, "room that was made for a job is anyone's"},
      {17, "a job is stopped for another without a checkpoint"},
      {18, "a queue that is held starts jobs"},
      {19, "what runs on a node that leaves is left there"},
      {20, "who borrows takes back what others borrow"},
  };
  return *bugs;
}

}  // namespace graft::scheduler
