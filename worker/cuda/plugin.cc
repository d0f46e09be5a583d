// libgraft_cuda.so: our kernels over ATen's tensors, and what is known of the devices. Loaded by
// name (worker/trainer/compute_device.h), so it exports one function.
#include <ATen/ATen.h>
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>

#include <cstdlib>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include "worker/cuda/interface_name.h"
#include "worker/cuda/kernels.h"
#include "worker/model/accelerator.h"

namespace graft::cuda {
namespace {

constexpr int kAmpere = 8;  // the first major version of devices that compute in bf16

Type TypeOf(const at::Tensor& x) {
  if (x.scalar_type() == at::kBFloat16) return Type::kBf16;
  return x.scalar_type() == at::kHalf ? Type::kHalf : Type::kFloat;
}

Gate GateOf(model::kernels::Gate kind) {
  return kind == model::kernels::Gate::kSilu ? Gate::kSilu : Gate::kGeluTanh;
}

Rows RowsOf(const at::Tensor& x) { return {TypeOf(x), x.numel() / x.size(-1), x.size(-1)}; }

// The stream of x's device; throws what the launches inside have met.
template <typename F>
void Launch(const at::Tensor& x, const F& launch) {
  const c10::cuda::CUDAGuard guard(x.device());
  launch(at::cuda::getCurrentCUDAStream().stream());
  C10_CUDA_KERNEL_LAUNCH_CHECK();
}

class CudaKernels final : public model::DeviceKernels {
 public:
  at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, float offset, float eps,
                     at::Tensor* rstd) const override {
    at::Tensor y = at::empty_like(x);
    std::vector<int64_t> per_row = x.sizes().vec();
    per_row.back() = 1;
    *rstd = at::empty(per_row, x.options().dtype(at::kFloat));
    Launch(x, [&](cudaStream_t stream) {
      cuda::RmsNorm(RowsOf(x), x.const_data_ptr(), weight.const_data_ptr<float>(), offset, eps,
                    y.mutable_data_ptr(), rstd->mutable_data_ptr<float>(), stream);
    });
    return y;
  }

  at::Tensor RmsNormAgain(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight,
                          float offset) const override {
    at::Tensor y = at::empty_like(x);
    Launch(x, [&](cudaStream_t stream) {
      cuda::RmsNormAgain(RowsOf(x), x.const_data_ptr(), rstd.const_data_ptr<float>(),
                         weight.const_data_ptr<float>(), offset, y.mutable_data_ptr(), stream);
    });
    return y;
  }

  at::Tensor RmsNormBackward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                             const at::Tensor& weight, float offset) const override {
    at::Tensor dx = at::empty_like(dy);
    Launch(x, [&](cudaStream_t stream) {
      cuda::RmsNormBackward(RowsOf(x), dy.const_data_ptr(), x.const_data_ptr(),
                            rstd.const_data_ptr<float>(), weight.const_data_ptr<float>(), offset,
                            dx.mutable_data_ptr(), stream);
    });
    return dx;
  }

  void Rope(at::Tensor& x, const model::kernels::RopeLayout& layout, int64_t offset,
            const at::Tensor& cos, const at::Tensor& sin, float sign) const override {
    const RopeLayout own = {.row_stride = layout.row_stride,
                            .heads = layout.heads,
                            .head_dim = layout.head_dim,
                            .offset = offset,
                            .half = layout.half,
                            .interleaved = layout.interleaved};
    Launch(x, [&](cudaStream_t stream) {
      cuda::Rope(TypeOf(x), x.mutable_data_ptr(), x.size(0), own, cos.const_data_ptr<float>(),
                 sin.const_data_ptr<float>(), sign, stream);
    });
  }

  at::Tensor Gated(model::kernels::Gate kind, const at::Tensor& gate_up) const override {
    at::Tensor y = at::empty({gate_up.size(0), gate_up.size(1) / 2}, gate_up.options());
    Launch(gate_up, [&](cudaStream_t stream) {
      cuda::Gated(RowsOf(y), GateOf(kind), gate_up.const_data_ptr(), y.mutable_data_ptr(), stream);
    });
    return y;
  }

  at::Tensor GatedBackward(model::kernels::Gate kind, const at::Tensor& gate_up,
                           const at::Tensor& dy) const override {
    at::Tensor d = at::empty_like(gate_up);
    Launch(gate_up, [&](cudaStream_t stream) {
      cuda::GatedBackward(RowsOf(dy), GateOf(kind), gate_up.const_data_ptr(), dy.const_data_ptr(),
                          d.mutable_data_ptr(), stream);
    });
    return d;
  }

  at::Tensor Dropout(const at::Tensor& x, const Mask& mask) const override {
    at::Tensor y = at::empty_like(x);
    Launch(x, [&](cudaStream_t stream) {
      cuda::Dropout(RowsOf(x), x.const_data_ptr(), {mask.seed, mask.whole, mask.first, mask.keep},
                    y.mutable_data_ptr(), stream);
    });
    return y;
  }

  at::Tensor CrossEntropy(at::Tensor& logits, const at::Tensor& targets, float logit_scale,
                          float grad_scale) const override {
    at::Tensor losses = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
    Launch(logits, [&](cudaStream_t stream) {
      cuda::CrossEntropy(RowsOf(logits), logits.mutable_data_ptr(),
                         targets.const_data_ptr<int64_t>(), logit_scale, grad_scale,
                         losses.mutable_data_ptr<float>(), stream);
    });
    return losses.sum();
  }
};

class CudaAccelerator final : public model::Accelerator {
 public:
  c10::DeviceType type() const override { return c10::DeviceType::CUDA; }
  int count() const override { return c10::cuda::device_count(); }
  model::AcceleratorFacts Describe(int index) const override {
    const cudaDeviceProp* device = at::cuda::getDeviceProperties(static_cast<int8_t>(index));
    return {device->name, static_cast<int64_t>(device->totalGlobalMem), device->major >= kAmpere};
  }
  int64_t PeakBytes(int index) const override {
    const auto stats = c10::cuda::CUDACachingAllocator::getDeviceStats(static_cast<int8_t>(index));
    constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    return stats.allocated_bytes[kAll].peak;
  }
  const model::DeviceKernels& kernels() const override { return kernels_; }

  c10::intrusive_ptr<c10d::Backend> Connect(const model::Meeting& meeting) const override {
    // NCCL reads it when the first ranks meet. A person's own setting stands.
    if (const std::string name = InterfaceOf(meeting.address); !name.empty()) {
      setenv("NCCL_SOCKET_IFNAME", ("=" + name).c_str(), 0);
    }
    auto options = c10d::ProcessGroupNCCL::Options::create();
    options->timeout = meeting.timeout;
    return c10::make_intrusive<c10d::ProcessGroupNCCL>(
        meeting.store, static_cast<int>(meeting.rank), static_cast<int>(meeting.size), options);
  }

 private:
  const CudaKernels kernels_;
};

}  // namespace
}  // namespace graft::cuda

extern "C" __attribute__((visibility("default"))) graft::model::Accelerator* GraftAccelerator() {
  static graft::cuda::CudaAccelerator accelerator;
  return &accelerator;
}
