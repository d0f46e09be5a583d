// The kernels' arithmetic on a CPU, through the very test that a device has to pass at start-up;
// and that this test notices each kernel that is wrong.
#include "worker/cuda/element.h"

#include <ATen/ATen.h>

#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/model/accelerator.h"
#include "worker/model/device_self_test.h"

namespace graft::cuda {
namespace {

using model::kernels::RopeLayout;
using ::testing::HasSubstr;

Gate GateOf(model::kernels::Gate kind) {
  return kind == model::kernels::Gate::kSilu ? Gate::kSilu : Gate::kGeluTanh;
}

// What the kernels do, a row after the other, in the order of one thread.
class HostKernels : public model::DeviceKernels {
 public:
  at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, float offset, float eps,
                     at::Tensor* rstd) const override {
    const at::Tensor wide = x.to(at::kFloat);
    *rstd = at::empty({x.size(0), 1});
    for (int64_t r = 0; r < x.size(0); ++r) {
      float square = 0;
      for (float v : RowOf(wide, r)) square += v * v;
      (*rstd)[r][0] = RmsScale(square, static_cast<int>(x.size(1)), eps);
    }
    return RmsNormAgain(x, *rstd, weight, offset);
  }
  at::Tensor RmsNormAgain(const at::Tensor& x, const at::Tensor& rstd, const at::Tensor& weight,
                          float offset) const override {
    return (x.to(at::kFloat) * rstd * (weight + offset)).to(x.scalar_type());
  }
  at::Tensor RmsNormBackward(const at::Tensor& dy, const at::Tensor& x, const at::Tensor& rstd,
                             const at::Tensor& weight, float offset) const override {
    const at::Tensor dy32 = dy.to(at::kFloat), x32 = x.to(at::kFloat), w = weight + offset;
    at::Tensor dx = at::empty_like(x32);
    for (int64_t r = 0; r < x.size(0); ++r) {
      const at::ArrayRef<float> d = RowOf(dy32, r), v = RowOf(x32, r), factor = RowOf(w, 0);
      float dot = 0;
      for (size_t i = 0; i < v.size(); ++i) dot += d[i] * factor[i] * v[i];
      const float scale = rstd[r].item<float>();
      const float pull = RmsPull(dot, scale, static_cast<int>(v.size()));
      float* out = dx.mutable_data_ptr<float>() + r * dx.size(1);
      for (size_t i = 0; i < v.size(); ++i) {
        out[i] = RmsGradient(d[i], v[i], factor[i], scale, pull);
      }
    }
    return dx.to(x.scalar_type());
  }
  void Rope(at::Tensor& x, const RopeLayout& layout, int64_t offset, const at::Tensor& cos,
            const at::Tensor& sin, float sign) const override {
    at::Tensor wide = x.to(at::kFloat).clone();
    for (int64_t row = 0; row < x.size(0); ++row) {
      for (int64_t head = 0; head < layout.heads; ++head) {
        float* at = wide.mutable_data_ptr<float>() + row * layout.row_stride +
                    head * layout.head_dim + offset;
        for (int64_t i = 0; i < layout.half; ++i) {
          float* a = layout.interleaved ? at + 2 * i : at + i;
          float* b = layout.interleaved ? at + 2 * i + 1 : at + i + layout.half;
          const Pair turned =
              Turn(*a, *b, cos[row][i].item<float>(), sign * sin[row][i].item<float>());
          *a = turned.first;
          *b = turned.second;
        }
      }
    }
    x.copy_(wide);
  }
  at::Tensor Gated(model::kernels::Gate kind, const at::Tensor& gate_up) const override {
    const int64_t columns = gate_up.size(1) / 2;
    at::Tensor y = at::empty({gate_up.size(0), columns});
    EachPair(gate_up, [&](int64_t row, int64_t i, float gate, float up) {
      y[row][i] = cuda::Gated(GateOf(kind), gate, up);
    });
    return y.to(gate_up.scalar_type());
  }
  at::Tensor GatedBackward(model::kernels::Gate kind, const at::Tensor& gate_up,
                           const at::Tensor& dy) const override {
    const int64_t columns = gate_up.size(1) / 2;
    const at::Tensor dy32 = dy.to(at::kFloat);
    at::Tensor d = at::empty(gate_up.sizes());
    EachPair(gate_up, [&](int64_t row, int64_t i, float gate, float up) {
      const Pair pair = GatedGradient(GateOf(kind), gate, up, RowOf(dy32, row)[i]);
      d[row][i] = pair.first;
      d[row][i + columns] = pair.second;
    });
    return d.to(gate_up.scalar_type());
  }
  at::Tensor Dropout(const at::Tensor& x, const Mask& mask) const override {
    at::Tensor y = x.to(at::kFloat).clone();
    for (int64_t row = 0; row < x.size(0); ++row) {
      float* out = y.mutable_data_ptr<float>() + row * x.size(1);
      for (int64_t i = 0; i < x.size(1); ++i) {
        const bool keeps = Keeps(static_cast<uint32_t>(row * mask.whole + mask.first + i),
                                 static_cast<uint32_t>(mask.seed),
                                 static_cast<uint32_t>(mask.seed >> 32), mask.keep);
        out[i] = keeps ? out[i] / mask.keep : 0.0f;
      }
    }
    return y.to(x.scalar_type());
  }
  at::Tensor CrossEntropy(at::Tensor& logits, const at::Tensor& targets, float logit_scale,
                          float grad_scale) const override {
    at::Tensor wide = logits.to(at::kFloat).clone();
    float loss = 0;
    for (int64_t row = 0; row < logits.size(0); ++row) {
      float* z = wide.mutable_data_ptr<float>() + row * logits.size(1);
      const int64_t target = targets[row].item<int64_t>();
      // As threads do: every eighth number, then the parts joined.
      ExpSum all = {-INFINITY, 0.0f};
      for (int64_t part = 0; part < 8; ++part) {
        ExpSum own = {-INFINITY, 0.0f};
        for (int64_t i = part; i < logits.size(1); i += 8) {
          own = Joined(own, {z[i] * logit_scale, 1.0f});
        }
        all = Joined(all, own);
      }
      loss += all.most + std::log(all.sum) - z[target] * logit_scale;
      for (int64_t i = 0; i < logits.size(1); ++i) {
        z[i] = CrossEntropyGradient(z[i] * logit_scale, all, i == target, grad_scale * logit_scale);
      }
    }
    logits.copy_(wide);
    return at::scalar_tensor(loss);
  }

 private:
  static at::ArrayRef<float> RowOf(const at::Tensor& x, int64_t row) {
    const auto columns = static_cast<size_t>(x.size(-1));
    return {x.const_data_ptr<float>() + static_cast<size_t>(row) * columns, columns};
  }
  template <typename F>
  static void EachPair(const at::Tensor& gate_up, const F& fn) {
    const at::Tensor wide = gate_up.to(at::kFloat);
    const int64_t columns = gate_up.size(1) / 2;
    for (int64_t row = 0; row < gate_up.size(0); ++row) {
      const at::ArrayRef<float> x = RowOf(wide, row);
      for (int64_t i = 0; i < columns; ++i) fn(row, i, x[i], x[i + columns]);
    }
  }
};

TEST(ElementTest, ComputesWhatTheCpusKernelsDoInEveryType) {
  EXPECT_THAT(model::CheckKernels(HostKernels(), at::kCPU), IsOk());
}

TEST(ElementTest, NothingJoinedToNothingStaysNothing) {
  const ExpSum none = Joined({-INFINITY, 0.0f}, {-INFINITY, 0.0f});
  EXPECT_EQ(none.sum, 0.0f);
  EXPECT_EQ(Joined(none, {2.0f, 3.0f}).sum, 3.0f);
}

// One kernel wrong in a way that a device might have it.
struct ForgetsTheOffset final : HostKernels {
  at::Tensor RmsNorm(const at::Tensor& x, const at::Tensor& weight, float, float eps,
                     at::Tensor* rstd) const override {
    return HostKernels::RmsNorm(x, weight, 0, eps, rstd);
  }
};
struct TurnsTheWrongWay final : HostKernels {
  void Rope(at::Tensor& x, const RopeLayout& layout, int64_t offset, const at::Tensor& cos,
            const at::Tensor& sin, float sign) const override {
    HostKernels::Rope(x, layout, offset, cos, sin, -sign);
  }
};
struct SwapsGateAndUp final : HostKernels {
  at::Tensor Gated(model::kernels::Gate kind, const at::Tensor& gate_up) const override {
    return HostKernels::Gated(kind, gate_up.roll({gate_up.size(1) / 2}, {1}));
  }
};
struct DrawsAnotherMask final : HostKernels {
  at::Tensor Dropout(const at::Tensor& x, const Mask& mask) const override {
    return HostKernels::Dropout(x, {mask.seed + 1, mask.whole, mask.first, mask.keep});
  }
};
struct LosesTheLastRow final : HostKernels {
  at::Tensor CrossEntropy(at::Tensor& logits, const at::Tensor& targets, float logit_scale,
                          float grad_scale) const override {
    const int64_t rows = logits.size(0) - 1;
    at::Tensor some = logits.narrow(0, 0, rows);
    return HostKernels::CrossEntropy(some, targets.narrow(0, 0, rows), logit_scale, grad_scale);
  }
};

TEST(SelfTestTest, NamesTheKernelThatIsWrong) {
  const auto says = [](const model::DeviceKernels& kernels, const char* what) {
    EXPECT_THAT(model::CheckKernels(kernels, at::kCPU),
                StatusIs(absl::StatusCode::kInternal, HasSubstr(what)));
  };
  says(ForgetsTheOffset(), "RMSNorm in Float");
  says(TurnsTheWrongWay(), "RoPE in Float");
  says(SwapsGateAndUp(), "the gated product in Float");
  says(DrawsAnotherMask(), "dropout in Float");
  says(LosesTheLastRow(), "cross entropy in Float");
}

}  // namespace
}  // namespace graft::cuda
