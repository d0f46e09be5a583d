// The layout of a job whose user leaves it open, from the model's facts and the cluster's GPUs, and
// the runners-up that will do where the first does not fit now. What the user gives is kept.
//
// Pure: reads the cluster as it is on the scheduler's loop.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "graft/v1/job.pb.h"
#include "graft/v1/model.pb.h"
#include "scheduler/core/job.h"
#include "scheduler/placement/cluster.h"
#include "scheduler/placement/shape.h"

namespace graft::scheduler {

// Whether the specification as it was sent leaves a factor of the layout to be chosen.
bool LeavesLayoutOpen(const graft::v1::ParallelismSection& asked);

// The shapes for `like` on the cluster's GPUs, best first. `asked` is as it was sent, `resolved`
// has the defaults. FAILED_PRECONDITION with the numbers when no layout fits a device's memory;
// INVALID_ARGUMENT when none divides the model.
absl::StatusOr<ShapeChoice> ChooseLayout(const graft::v1::ParallelismSection& asked,
                                         const graft::v1::JobSpec& resolved,
                                         const graft::v1::ModelSpec& model,
                                         const ClusterView& cluster, const GangRequest& like);

// Puts the choice where it belongs: what the core decides on, and what people read in the job.
void ApplyLayout(const ShapeChoice& choice, JobRequest& request, graft::v1::Job& body);

// The change of the step time, 0.06 is 6 % slower, were a job to ask for `to` where it asks for
// `from`: another layout, taken to lie in one NVLink domain where it fits into one, or a wider
// level, over whose switches it is then taken to go.
double StepChange(const graft::v1::JobSpec& resolved, const graft::v1::ModelSpec& model,
                  const ClusterView& cluster, const GangRequest& from, const GangRequest& to);

}  // namespace graft::scheduler
