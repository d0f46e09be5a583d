// Whether a plugin's kernels compute what the CPU does: a few small inputs through each of them, in
// every type. Run once when a device is taken, before anything is trained on it.
#pragma once

#include <ATen/ATen.h>

#include "absl/status/status.h"
#include "worker/model/accelerator.h"

namespace graft::model {

// INTERNAL with the kernel, the type and the difference. Throws what the device throws.
absl::Status CheckKernels(const DeviceKernels& kernels, at::Device device);

}  // namespace graft::model
