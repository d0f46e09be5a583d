#include "worker/trainer/precision.h"

namespace graft::trainer {

DeviceTypes TypesOfCpu() {
  DeviceTypes types;
#if defined(__x86_64__)
  // AMX's bf16 came with AVX512-BF16 in every processor that has it.
  types.bf16 = __builtin_cpu_supports("avx512bf16") != 0;
#endif
  return types;
}

at::ScalarType ComputeChoice::type() const {
  if (precision == Precision::kBf16) return at::kBFloat16;
  return precision == Precision::kFp16 ? at::kHalf : at::kFloat;
}

spec::DType ComputeChoice::dtype() const {
  if (precision == Precision::kBf16) return spec::DType::kBF16;
  return precision == Precision::kFp16 ? spec::DType::kF16 : spec::DType::kF32;
}

ComputeChoice ChooseCompute(Precision wanted, const DeviceTypes& device) {
  if (wanted == Precision::kAuto) {
    if (device.bf16) return {Precision::kBf16, ""};
    if (!device.gpu) return {Precision::kFp32, ""};
    return {Precision::kFp16, "this GPU does not compute in bf16; the run computes in fp16"};
  }
  if (wanted == Precision::kBf16 && device.gpu && !device.bf16) {
    return {Precision::kFp16, "precision bf16: this GPU lacks it; the run computes in fp16"};
  }
  const bool slow =
      !device.gpu && (wanted == Precision::kFp16 || (wanted == Precision::kBf16 && !device.bf16));
  if (!slow) return {wanted, ""};
  return {wanted,
          "this CPU has no arithmetic of 16 bits; precision fp32 is many times faster here"};
}

at::ScalarType FrozenType(const ComputeChoice& compute, const TuningConfig& tuning,
                          const spec::ModelFacts& facts) {
  if (compute.precision == Precision::kFp32 || tuning.kind != TuningKind::kLoraMerged) {
    return compute.type();
  }
  if (facts.precision == "BF16") return at::kBFloat16;
  return facts.precision == "F16" ? at::kHalf : at::kFloat;
}

bool LossScaler::Accept(bool finite) {
  if (!active_) return true;
  if (!finite) {
    scale_ /= 2;
    good_steps_ = 0;
    return false;
  }
  if (++good_steps_ == kGrowAfter) {
    scale_ *= 2;
    good_steps_ = 0;
  }
  return true;
}

void LossScaler::Restore(double scale, int64_t good_steps) {
  if (!active_) return;
  scale_ = scale;
  good_steps_ = good_steps;
}

}  // namespace graft::trainer
