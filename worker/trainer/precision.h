// In which type a run computes, and fp16's scaling of the loss.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>

#include "worker/spec/dtype.h"
#include "worker/spec/load.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

// What a device computes well.
struct DeviceTypes {
  bool gpu = false;
  bool bf16 = false;  // a GPU since Ampere; a CPU with AVX512-BF16 or AMX
};
DeviceTypes TypesOfCpu();

struct ComputeChoice {
  Precision precision = Precision::kFp32;  // never kAuto
  std::string warning;                     // empty: there is nothing to say

  at::ScalarType type() const;
  spec::DType dtype() const;
};

// What was asked for; by itself bf16 where the device computes with it, else fp16 on a GPU and fp32
// on a CPU. Warns where the device is slow in what was asked for, or lacks it.
ComputeChoice ChooseCompute(Precision wanted, const DeviceTypes& device);

// What the frozen weights are kept in: the computation's type, or the base's own where a merged
// model is to be written from them.
at::ScalarType FrozenType(const ComputeChoice& compute, const TuningConfig& tuning,
                          const spec::ModelFacts& facts);

// Numbers below 6e-8 are 0 in fp16, so gradients are made `scale` times as large and divided again
// where they are summed up in fp32. As torch's GradScaler: a step whose gradients are not finite is
// left out and halves the scale; kGrowAfter good ones in a row double it.
class LossScaler {
 public:
  static constexpr double kFirstScale = 65536;
  static constexpr int64_t kGrowAfter = 2000;

  // Without `active` the scale is 1 and stays.
  explicit LossScaler(bool active) : scale_(active ? kFirstScale : 1), active_(active) {}

  bool active() const { return active_; }
  double scale() const { return scale_; }
  int64_t good_steps() const { return good_steps_; }
  // False: the step must be left out, and a smaller scale may be what it lacks.
  bool Accept(bool finite);
  // As it was at a checkpoint; nothing where it is not active.
  void Restore(double scale, int64_t good_steps);

 private:
  double scale_;
  int64_t good_steps_ = 0;
  bool active_;
};

}  // namespace graft::trainer
