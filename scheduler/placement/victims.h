// Which running gangs to stop so that a waiting one can start: the cheapest that are enough, near
// one another, for what they free must be one place.
//
// The cost of a victim is the work that is lost and done again: device-seconds since its last
// checkpoint and those of its restart. Whoever calls asks the victims for a checkpoint first and
// keeps the room while they write it. Pure; no clock.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "scheduler/placement/placement.h"

namespace graft::scheduler {

struct VictimCandidate {
  std::string id;
  const std::vector<DeviceRef>* ranks = nullptr;
  int priority = 0;  // effective
  bool preemptible = true;
  // Holds devices above its account's guarantee.
  bool borrows = false;
  // Holds devices that its account is guaranteed.
  bool guaranteed = false;
  absl::Time started;
  absl::Duration min_run_time = absl::ZeroDuration();  // left alone for so long
  double seconds_since_checkpoint = 0;
  double restart_seconds = 60;

  double cost() const {
    return static_cast<double>(ranks->size()) * (seconds_since_checkpoint + restart_seconds);
  }
};

struct PreemptionRequest {
  GangRequest gang;
  int priority = 0;
  // The job is within its account's guarantee: it may take back what others borrow, whatever
  // their priority.
  bool reclaims = false;
  // It would borrow: then it stops nobody who is guaranteed what he holds, or the two would stop
  // one another for ever.
  bool borrows = false;
  absl::Time now;
};

struct Victims {
  std::vector<std::string> ids;  // in the order of their names; none may be left out
  double cost = 0;               // device-seconds
  Placement placement;           // where the gang goes then
};

// False when stopping every gang that may be stopped would not be enough. No victims: it fits as
// things are.
bool ChooseVictims(const Topology& topology, const PreemptionRequest& request,
                   const std::vector<VictimCandidate>& candidates, Victims& chosen);

}  // namespace graft::scheduler
