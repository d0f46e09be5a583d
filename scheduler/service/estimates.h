// What a job needs, from its model's numbers and its specification: memory of a device by purpose,
// seconds of a step, and other layouts that would do.
#pragma once

#include <cstdint>

#include "absl/time/time.h"
#include "graft/v1/job.pb.h"
#include "worker/spec/load.h"

namespace graft::scheduler {

// A device of the cluster; 0 where it is not known.
struct DeviceNumbers {
  int64_t memory_bytes = 0;
  double tflops = 0;              // dense, bf16
  double bandwidth_gb_per_s = 0;  // of its memory
};

graft::v1::Estimate EstimateFor(const spec::ModelDescription& model,
                                const graft::v1::JobSpec& resolved, const DeviceNumbers& device,
                                int64_t dataset_bytes);

// By what is known of the job's steps and of one of them; infinite where either is not.
absl::Duration ExpectedRunTime(const graft::v1::Job& job);

}  // namespace graft::scheduler
