// Which device a run computes on.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/accelerator.h"
#include "worker/trainer/precision.h"

namespace graft::trainer {

struct DeviceChoice {
  at::Device device = at::kCPU;
  DeviceTypes types;
  std::string name;  // "NVIDIA H100 80GB HBM3", "cpu"
};

// `wanted` as run.json has it: "auto" (a GPU where there is one), "cpu", "cuda" (the rank's own of
// those that it sees) or "cuda:1". `accelerator` is null where there is none. FAILED_PRECONDITION
// for a GPU that is not there.
absl::StatusOr<DeviceChoice> ChooseDevice(const std::string& wanted, int64_t rank,
                                          const model::Accelerator* accelerator);

// Tries our kernels on the device and uses them from here on. An error says which one is wrong;
// ATen does the work then.
absl::Status TakeKernels(const DeviceChoice& choice, const model::Accelerator& accelerator);

// Floating-point operations per second that a product of matrices reaches at most: of a GPU by its
// name and type (0: not known), of a CPU as measured with a product of a small model's shape.
double PeakFlopsOf(const DeviceChoice& choice);

// The accelerator of libgraft_cuda.so in `folder`, by default this program's; nullptr where there
// is no driver, no device, or no such file. Must be called before anything of ATen, which settles
// at its first use what devices there are.
model::Accelerator* LoadAccelerator(std::string folder = "");

}  // namespace graft::trainer
