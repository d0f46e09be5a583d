// Pins at the fileservice: what is referred to here is held there.
//
// A reference is pinned before the record that refers to it is committed, so a pin without its
// record is normal for a moment, and left over after a crash. Reconciliation takes away those that
// are older than an hour and have no record, and puts again those that are missing. Versions that
// were given up it deletes.
#pragma once

#include <string>

#include "scheduler/service/mutate.h"
#include "scheduler/service/turn.h"

namespace graft::scheduler {

// Younger pins may belong to a record that is about to be committed.
inline constexpr absl::Duration kPinGrace = absl::Hours(1);

// Has the version deleted once the turn is committed, unless somebody beside `holder` pins it.
void GiveUpVersion(Turn& turn, const std::string& version, const std::string& holder);

// Blocking: on a thread of Background's. What cannot be done now is done the next time.
void ReconcilePins(const ServiceContext& context);

}  // namespace graft::scheduler
