// What must hold of the core after every step, numbered as in the reliability plan. For tests and
// the simulation; a step of a healthy core never breaks one.
//
//   I1  no device in two live attempts        I6  quotas hold when an attempt starts
//   I2  a gang is whole or absent             I7  a terminal state is final
//   I4  revisions of desired states only grow I9  TP groups stay in their NVLink domain
//   I5  one live attempt for a job at most,   I10 each waiting job has a reason
//       one in all for a session
//   I12 free + used = capacity, as the attempts say
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
  void CheckJob(const Core& core, const Job& job);
  void CheckDomains(const Core& core, const Job& job);
  void CheckUsage(const Core& core);

  std::vector<std::string> broken_;
  absl::btree_map<JobKey, JobState> states_;
  absl::btree_map<JobKey, int> attempts_;
  absl::btree_map<std::string, int64_t> revisions_;
};

}  // namespace graft::scheduler
