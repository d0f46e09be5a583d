// When running gangs are estimated to end, and so when a blocked job will find its room.
//
// Built for one pass over a cluster's topology and valid while no node comes or goes. No clock.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "scheduler/placement/placement.h"

namespace graft::scheduler {

struct RunningGang {
  std::string id;
  const std::vector<DeviceRef>* ranks = nullptr;
  absl::Time end = absl::InfiniteFuture();  // estimated
};

// Room that a blocked job keeps.
struct Reservation {
  std::string id;
  absl::Time start;  // when the last of it is free by estimate; infinite where no end is known
  std::vector<DeviceRef> devices;
};

class Timeline {
 public:
  Timeline(const Topology& topology, const std::vector<RunningGang>& running);

  // A gang that has just started.
  void Add(const Topology& topology, const std::vector<DeviceRef>& ranks, absl::Time end);

  // When and where `gang` would start if all ended as estimated and nothing else came, beside the
  // room that is kept already. `free` is what is free now. False when it would not fit even then.
  bool Find(const Topology& free, const GangRequest& gang, const std::vector<Reservation>& kept,
            absl::Time now, Reservation& found) const;

 private:
  struct End {
    absl::Time at;
    std::vector<Topology::Slot> slots;
  };
  std::vector<End> ends_;  // ascending
};

}  // namespace graft::scheduler
