#include "worker/model/device_self_test.h"

#include <ATen/CPUGeneratorImpl.h>

#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/model/mlp.h"
#include "worker/model/norm.h"

namespace graft::model {
namespace {

// Rows that fill no block of threads evenly.
constexpr int64_t kRows = 5, kColumns = 328, kHeads = 3, kHeadDim = 24, kVocab = 1003;

class SelfTest {
 public:
  SelfTest(const DeviceKernels& kernels, at::Device device, at::ScalarType type)
      : kernels_(kernels),
        device_(device),
        type_(type),
        random_(at::make_generator<Generator>(7)) {}

  absl::Status Run() {
    for (float offset : {0.0f, 1.0f}) GRAFT_RETURN_IF_ERROR(CheckNorm(offset));
    for (bool interleaved : {false, true}) GRAFT_RETURN_IF_ERROR(CheckRope(interleaved));
    for (spec::Activation activation : {spec::Activation::kSilu, spec::Activation::kGeluTanh}) {
      GRAFT_RETURN_IF_ERROR(CheckGated(activation));
    }
    GRAFT_RETURN_IF_ERROR(CheckDropout());
    return CheckCrossEntropy();
  }

 private:
  using Generator = at::CPUGeneratorImpl;

  // Numbers that the type can hold, in fp32 on the CPU.
  at::Tensor Draw(std::vector<int64_t> shape) {
    return at::randn(shape, random_, at::dtype(at::kFloat)).to(type_).to(at::kFloat);
  }
  // A copy, also on the CPU: some kernels write into what they get.
  at::Tensor Sent(const at::Tensor& x) const {
    return x.to(at::device(device_).dtype(type_), /*non_blocking=*/false, /*copy=*/true);
  }
  at::Tensor Plain(const at::Tensor& x) const { return x.to(device_); }

  // Of the largest number: a few roundings of the type.
  double Allowed() const {
    if (type_ == at::kFloat) return 1e-5;
    return type_ == at::kBFloat16 ? 1e-2 : 2e-3;
  }
  absl::Status Near(const char* what, const at::Tensor& got, const at::Tensor& want) const {
    const at::Tensor host = got.to(at::device(at::kCPU).dtype(at::kFloat)).view(want.sizes());
    const double off = (host - want).abs().max().item<double>();
    const double most = want.abs().max().item<double>();
    if (off <= Allowed() * most) return absl::OkStatus();
    return absl::InternalError(absl::StrCat(what, " in ", at::toString(type_), " is off by ", off,
                                            " where numbers go up to ", most));
  }

  absl::Status CheckNorm(float offset) {
    Norm norm;
    norm.present = true;
    norm.spec = {.kind = spec::NormKind::kRms, .plus_one = offset != 0, .eps = 1e-5};
    norm.weight = at::randn({kColumns}, random_, at::dtype(at::kFloat));
    const at::Tensor x = Draw({kRows, kColumns}), dy = Draw({kRows, kColumns});
    NormStats stats;
    const at::Tensor want = NormForward(norm, x, &stats);
    at::Tensor rstd;
    const at::Tensor weight = Plain(norm.weight);
    const at::Tensor got = kernels_.RmsNorm(Sent(x), weight, offset, 1e-5f, &rstd);
    GRAFT_RETURN_IF_ERROR(Near("RMSNorm", got, want));
    GRAFT_RETURN_IF_ERROR(Near("RMSNorm's factor", rstd, stats.rstd));
    GRAFT_RETURN_IF_ERROR(
        Near("RMSNorm again", kernels_.RmsNormAgain(Sent(x), rstd, weight, offset), want));
    return Near("RMSNorm's backward",
                kernels_.RmsNormBackward(Sent(dy), Sent(x), rstd, weight, offset),
                NormBackward(norm, dy, x, stats));
  }

  absl::Status CheckRope(bool interleaved) {
    constexpr int64_t kOffset = 4, kHalf = 8, kWidth = kHeads * kHeadDim + 16;
    const kernels::RopeLayout layout = {kWidth, kHeads, kHeadDim, kHalf, interleaved};
    const at::Tensor angles = at::randn({kRows, kHalf}, random_, at::dtype(at::kFloat));
    const at::Tensor cos = angles.cos(), sin = angles.sin();
    for (float sign : {1.0f, -1.0f}) {
      at::Tensor x = Draw({kRows, kWidth});
      at::Tensor sent = Sent(x);
      kernels_.Rope(sent, layout, kOffset, Plain(cos), Plain(sin), sign);
      kernels::Rope(x.mutable_data_ptr<float>() + kOffset, layout, cos.const_data_ptr<float>(),
                    sin.const_data_ptr<float>(), sign, kRows);
      GRAFT_RETURN_IF_ERROR(Near("RoPE", sent, x));
    }
    return absl::OkStatus();
  }

  absl::Status CheckGated(spec::Activation activation) {
    spec::MlpSpec mlp;
    mlp.gated = true;
    mlp.activation = activation;
    const auto kind =
        activation == spec::Activation::kSilu ? kernels::Gate::kSilu : kernels::Gate::kGeluTanh;
    const at::Tensor inner = Draw({kRows, 2 * kColumns}), dy = Draw({kRows, kColumns});
    GRAFT_RETURN_IF_ERROR(
        Near("the gated product", kernels_.Gated(kind, Sent(inner)), MlpProduct(mlp, inner)));
    return Near("the gated product's backward", kernels_.GatedBackward(kind, Sent(inner), Sent(dy)),
                MlpProductBackward(mlp, inner, dy));
  }

  absl::Status CheckDropout() {
    constexpr uint64_t kSeed = 0x123456789ABCDEF1ULL;
    constexpr int64_t kFirst = 11, kWhole = kColumns + 40;
    constexpr float kKeep = 0.9f;
    const at::Tensor x = Draw({kRows, kColumns});
    at::Tensor want = at::empty_like(x);
    for (int64_t row = 0; row < kRows; ++row) {
      kernels::Dropout(x.const_data_ptr<float>() + row * kColumns, kSeed, row * kWhole + kFirst,
                       kKeep, kColumns, want.mutable_data_ptr<float>() + row * kColumns);
    }
    return Near("dropout", kernels_.Dropout(Sent(x), {kSeed, kWhole, kFirst, kKeep}), want);
  }

  absl::Status CheckCrossEntropy() {
    constexpr float kLogitScale = 0.5f, kGradScale = 0.25f;
    const at::Tensor logits = Draw({kRows, kVocab}) * 4;
    const at::Tensor targets = at::arange(kRows, at::kLong) * 211;
    const at::Tensor log_p = at::log_softmax(logits * kLogitScale, -1);
    const at::Tensor index = targets.unsqueeze(1);
    at::Tensor d = log_p.exp();
    d.scatter_add_(1, index, at::full_like(index, -1.0, d.options()));
    at::Tensor sent = Sent(logits);
    const at::Tensor loss = kernels_.CrossEntropy(sent, Plain(targets), kLogitScale, kGradScale);
    GRAFT_RETURN_IF_ERROR(
        Near("cross entropy", loss.view({1}), -log_p.gather(1, index).sum().view({1})));
    return Near("cross entropy's gradient", sent, d * (kGradScale * kLogitScale));
  }

  const DeviceKernels& kernels_;
  const at::Device device_;
  const at::ScalarType type_;
  at::Generator random_;
};

}  // namespace

absl::Status CheckKernels(const DeviceKernels& kernels, at::Device device) {
  for (at::ScalarType type : {at::kFloat, at::kBFloat16, at::kHalf}) {
    GRAFT_RETURN_IF_ERROR(SelfTest(kernels, device, type).Run());
  }
  return absl::OkStatus();
}

}  // namespace graft::model
