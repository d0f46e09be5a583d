// From a job's resolved specification to what the trainer reads.
#pragma once

#include <string>

#include "graft/v1/job_spec.pb.h"
#include "scheduler/placement/placement.h"

namespace graft::scheduler {

// The trainer's run.json for an attempt in that layout. Paths are `${inputs.KEY}`, `${output}` and
// `${checkpoints}`, which the agent replaces; rank, world and rendezvous are the agent's too.
std::string RunJson(const graft::v1::JobSpec& resolved, const Layout& layout);

}  // namespace graft::scheduler
