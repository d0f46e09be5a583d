// The core's explanations as messages.
#pragma once

#include "graft/v1/job.pb.h"
#include "scheduler/core/core.h"

namespace graft::scheduler {

// All but the jobs ahead, of which the caller may not see every one.
void FillExplanation(const JobExplanation& why, const Job& job, graft::v1::Explanation& message);

}  // namespace graft::scheduler
