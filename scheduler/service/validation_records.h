// What token passes found: kept in the job that asked, and under the digests of everything that it
// depends on, so that the same rows are not read again for the next job.
//
//   validated/{sha-256 of the dataset's part of the specification and its versions' digests}
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "graft/agent/v1/agent.pb.h"
#include "graft/v1/job.pb.h"
#include "scheduler/core/job_state.h"
#include "scheduler/service/turn.h"

namespace graft::scheduler {

// `digests` are those of the training and validation versions in order, and of the model's.
std::string ValidationKey(const graft::v1::JobSpec& resolved,
                          const std::vector<std::string>& digests);

// Puts what an earlier pass over the same rows found into the job. False when there was none.
bool TakeFindings(Turn& turn, graft::v1::Job& body);

// The reports of passes that ended well, for KeepFindings.
struct JobFindings {
  JobKey job;
  int attempt = 0;
  graft::agent::v1::ValidationReport report;
};
std::vector<JobFindings> FindingsOf(const graft::agent::v1::SynchronizeRequest& request);

// Writes a report into its job, and where the next job will find it. No-op unless the attempt is
// the job's live token pass.
void KeepFindings(Turn& turn, const JobFindings& findings);
// Tells the core how long the job will run, now that its steps are known. After the step that ended
// the pass.
void AmendRunTime(Turn& turn, const JobFindings& findings);

}  // namespace graft::scheduler
