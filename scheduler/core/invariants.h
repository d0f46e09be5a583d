// What must hold of the core after every step, numbered as in the reliability plan. For tests and
// the simulation; a step of a healthy core never breaks one.
//
//   I1  no device in two live attempts        I6  ceilings hold when an attempt starts; nobody is
//   I2  a gang is whole or absent                 stopped but by a higher priority or a guarantee,
//   I4  revisions of desired states only grow     and with a checkpoint first; room that was made
//   I5  one live attempt for a job at most,       for a job is taken by no other
//       one in all for a session
//   I7  a terminal state is final             I10 each waiting job has a reason
//   I9  a gang stands where its request       I12 free + used = capacity, as the attempts, the
//       allows, in a queue that starts jobs,      accounts and the topology's counts say
//       on no node that is about to leave
//
// I3, I8 and I11 (acknowledged writes, one effect for a request, audit) are the store's and are
// checked where the store is; I13 (it comes to life again) by the simulation at its end.
#pragma once

#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "scheduler/core/core.h"

namespace graft::scheduler {

// Remembers what must not change between two looks at one core.
class InvariantChecker {
 public:
  // What is broken, in words that begin with the invariant's number; empty when all is well.
  std::vector<std::string> Check(const Core& core);

 private:
  void CheckDevices(const Core& core);
  void CheckCounts(const Core& core);
  void CheckJob(const Core& core, const Job& job);
  void CheckStart(const Core& core, const Job& job);
  void CheckStops(const Core& core);
  void CheckUsage(const Core& core);
  void CheckLeaving(const Core& core);

  std::vector<std::string> broken_;
  absl::btree_map<JobKey, JobState> states_;
  absl::btree_map<JobKey, int> attempts_;
  absl::btree_map<std::string, int64_t> revisions_;
  absl::btree_map<DeviceRef, JobKey> claimed_;  // as it was at the last look
  absl::btree_set<JobKey> claimants_;
  absl::btree_map<std::string, QueueMode> modes_;  // of queues
};

}  // namespace graft::scheduler
