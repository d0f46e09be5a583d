// The core's explanations as messages.
#pragma once

#include "graft/v1/job.pb.h"
#include "scheduler/core/core.h"

namespace graft::scheduler {

// All but the jobs ahead, of which the caller may not see every one. `queued`: it waits for
// devices, so that the funnel says something.
void FillExplanation(const JobExplanation& why, bool queued, graft::v1::Explanation& message);

}  // namespace graft::scheduler
