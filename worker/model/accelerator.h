// What a plugin for an accelerator brings beside ATen's kernels for it. The plugin (worker/cuda) is
// a shared library that is loaded where such a device is; without it, and for whatever it does not
// take, ATen does the work.
#pragma once

#include <ATen/ATen.h>
#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>
#include <string>

#include "worker/model/kernels.h"

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace graft::model {

// One pass over memory where ATen needs several. Tensors are contiguous, on the device, of fp32,
// bf16 or fp16; sums are fp32; weights of norms, cos and sin are fp32. Calls return before the
// device has done the work, in the order of its current stream.
//
// Legend: T tokens, H columns of a row, F columns of an MLP's inside, V vocabulary.
class DeviceKernels {
 public:
  virtual ~DeviceKernels() = default;
  // y = x * rstd * (weight + offset) over the last dimension; `rstd` becomes fp32 [..., 1].
  virtual at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, float offset, float eps,
                             at::Tensor* rstd) const = 0;
  virtual at::Tensor RmsNormAgain(const at::Tensor& x, const at::Tensor& rstd,
                                  const at::Tensor& weight, float offset) const = 0;
  virtual at::Tensor RmsNormBackward(const at::Tensor& dy, const at::Tensor& x,
                                     const at::Tensor& rstd, const at::Tensor& weight,
                                     float offset) const = 0;
  // Turns the heads of each row of x in place, from dimension `offset` of each head on.
  virtual void Rope(at::Tensor& x_TH, const kernels::RopeLayout& layout, int64_t offset,
                    const at::Tensor& cos, const at::Tensor& sin, float sign) const = 0;
  virtual at::Tensor Gated(kernels::Gate kind, const at::Tensor& gate_up_T2F) const = 0;
  virtual at::Tensor GatedBackward(kernels::Gate kind, const at::Tensor& gate_up_T2F,
                                   const at::Tensor& dy_TF) const = 0;
  // kernels::Dropout with that seed, of columns [first, first + H) of rows of `whole` columns.
  struct Mask {
    uint64_t seed = 0;
    int64_t whole = 0;
    int64_t first = 0;
    float keep = 1;
  };
  virtual at::Tensor Dropout(const at::Tensor& x_TH, const Mask& mask) const = 0;
  // The losses' sum, fp32; with `grad_scale` != 0 logits become their gradient, times it.
  virtual at::Tensor CrossEntropy(at::Tensor& logits_TV, const at::Tensor& targets_T,
                                  float logit_scale, float grad_scale) const = 0;
};

struct AcceleratorFacts {
  std::string name;
  int64_t bytes = 0;  // of its memory
  bool bf16 = false;
};

// Ranks that exchange what lies on their devices.
struct Meeting {
  c10::intrusive_ptr<c10d::Store> store;  // of these ranks alone
  int64_t rank = 0;                       // among them
  int64_t size = 1;
  std::string address;  // IPv4, of the interface that the traffic goes through
  std::chrono::milliseconds timeout{0};
};

class Accelerator {
 public:
  virtual ~Accelerator() = default;
  virtual c10::DeviceType type() const = 0;
  virtual int count() const = 0;
  virtual AcceleratorFacts Describe(int index) const = 0;
  // The most that tensors took so far.
  virtual int64_t PeakBytes(int index) const = 0;
  virtual const DeviceKernels& kernels() const = 0;
  // The collectives of the device's maker. All of the ranks call it; it throws what went wrong.
  virtual c10::intrusive_ptr<c10d::Backend> Connect(const Meeting& meeting) const = 0;
};

// The kernels that take x, or nullptr.
const DeviceKernels* KernelsFor(const at::Tensor& x);
// From here on tensors on such devices go through `kernels`, which must outlive them; nullptr:
// none. Called before the first pass, on one thread.
void SetDeviceKernels(c10::DeviceType type, const DeviceKernels* kernels);

}  // namespace graft::model
