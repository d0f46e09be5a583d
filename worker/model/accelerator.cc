#include "worker/model/accelerator.h"

namespace graft::model {
namespace {

// Of the process, as ATen's own table of kernels is.
struct Registered {
  c10::DeviceType type = c10::DeviceType::CPU;
  const DeviceKernels* kernels = nullptr;
};
Registered registered;

}  // namespace

const DeviceKernels* KernelsFor(const at::Tensor& x) {
  if (registered.kernels == nullptr || x.device().type() != registered.type) return nullptr;
  const at::ScalarType type = x.scalar_type();
  const bool known = type == at::kFloat || type == at::kBFloat16 || type == at::kHalf;
  return known && x.is_contiguous() ? registered.kernels : nullptr;
}

void SetDeviceKernels(c10::DeviceType type, const DeviceKernels* kernels) {
  registered = {type, kernels};
}

}  // namespace graft::model
