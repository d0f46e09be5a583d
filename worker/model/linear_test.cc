// The hand-written backward of the fused linear against ATen's own autograd over plain operations.
#include "worker/model/linear.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "gtest/gtest.h"
#include "worker/model/kernels.h"

namespace graft::model {
namespace {

constexpr int64_t kTokens = 24;
constexpr int64_t kIn = 32;
constexpr int64_t kOut = 48;  // of two parts with 16 and 32 rows
constexpr int64_t kRank = 4;

struct Fixture {
  ParameterStore store;
  LinearGroup group;
  at::Tensor x;
  at::Tensor residual;

  Fixture(bool dora, double dropout) {
    at::manual_seed(7);
    group.in = kIn;
    group.out = kOut;
    group.weight = at::randn({kOut, kIn});
    group.bias = at::randn({kOut});
    group.dropout = dropout;
    group.norm.present = true;
    group.norm.weight = at::randn({kIn});
    group.adapters.resize(2);
    const int64_t rows[] = {16, 32};
    for (int i = 0; i < 2; ++i) group.adapters[i].a = store.Declare("a", {kRank, kIn}, true);
    for (int i = 0; i < 2; ++i) {
      Adapter& adapter = group.adapters[i];
      adapter.rank = kRank;
      adapter.scale = 0.5 + i;
      adapter.b = store.Declare("b", {rows[i], kRank}, true);
      if (dora) adapter.magnitude = store.Declare("m", {rows[i]}, true);
      adapter.rows = {{i == 0 ? 0 : 16, 0, rows[i]}};
    }
    store.Allocate(at::kCPU);
    for (Trained& t : store.trained()) t.value.copy_(at::randn(t.shape));
    group.joined_a = store.values().narrow(0, 0, 2 * kRank * kIn).view({2 * kRank, kIn});
    group.joined_a_grad = store.grads().narrow(0, 0, 2 * kRank * kIn).view({2 * kRank, kIn});
    x = at::randn({kTokens, kIn}).requires_grad_(true);
    residual = at::randn({kTokens, kOut}).requires_grad_(true);
  }

  // The same by plain operations on leaves that are copies.
  at::Tensor Twin(std::vector<at::Tensor>* leaves) {
    const at::Tensor hat =
        x * (x.square().mean(-1, true) + group.norm.spec.eps).rsqrt() * group.norm.weight;
    std::vector<at::Tensor> parts;
    for (const Adapter& adapter : group.adapters) {
      const auto leaf = [&](const Trained* t) {
        leaves->push_back(t->value.clone().requires_grad_(true));
        return leaves->back();
      };
      const at::Tensor w =
          group.weight.narrow(0, adapter.rows[0].group_begin, adapter.rows[0].count);
      const at::Tensor a = leaf(adapter.a);
      const at::Tensor b = leaf(adapter.b);
      at::Tensor y = at::mm(hat, w.t()) + at::mm(at::mm(hat, a.t()), b.t()) * adapter.scale;
      if (adapter.magnitude != nullptr) {
        const at::Tensor norm = (w + at::mm(b, a) * adapter.scale).norm(2, 1).detach();
        y = y * (leaf(adapter.magnitude) / norm);
      }
      parts.push_back(y);
    }
    return at::cat(parts, 1) + group.bias + residual;
  }
};

void ExpectClose(const at::Tensor& got, const at::Tensor& want, const char* what) {
  EXPECT_TRUE(at::allclose(got, want, 1e-4, 1e-4))
      << what << ": " << (got - want).abs().max().item<double>();
}

void CompareWithTwin(bool dora) {
  Fixture f(dora, 0);
  const at::Tensor dy = at::randn({kTokens, kOut});
  std::vector<at::Tensor> leaves;
  const at::Tensor want = f.Twin(&leaves);
  want.backward(dy);
  const at::Tensor want_dx = f.x.grad().clone();
  f.x.mutable_grad().reset();
  f.residual.mutable_grad().reset();
  const at::Tensor got = ApplyLinear(f.group, f.x, f.residual, {});
  ExpectClose(got, want, "y");
  got.backward(dy);
  ExpectClose(f.x.grad(), want_dx, "dx");
  ExpectClose(f.residual.grad(), dy, "d_residual");
  size_t leaf = 0;
  for (const Adapter& adapter : f.group.adapters) {
    ExpectClose(adapter.a->grad, leaves[leaf++].grad(), "dA");
    ExpectClose(adapter.b->grad, leaves[leaf++].grad(), "dB");
    if (dora) ExpectClose(adapter.magnitude->grad, leaves[leaf++].grad(), "dm");
  }
}

TEST(LinearTest, LoraMatchesAutograd) { CompareWithTwin(false); }
TEST(LinearTest, DoraMatchesAutograd) { CompareWithTwin(true); }

TEST(LinearTest, FewRowsOfABfloat16WeightAreThoseOfManyRows) {
  Fixture f(false, 0);
  f.group.weight = f.group.weight.to(at::kBFloat16);
  const at::NoGradGuard no_grad;
  const at::Tensor many = ApplyLinear(f.group, f.x, f.residual, {});
  const at::Tensor few =
      ApplyLinear(f.group, f.x.narrow(0, 0, 2).contiguous(), f.residual.narrow(0, 0, 2), {});
  ExpectClose(few, many.narrow(0, 0, 2), "y");
}

TEST(LinearTest, GradientsOfTwoPassesAddUp) {
  Fixture f(false, 0);
  const at::Tensor dy = at::randn({kTokens, kOut});
  ApplyLinear(f.group, f.x, f.residual, {}).backward(dy);
  const at::Tensor once = f.store.grads().clone();
  ApplyLinear(f.group, f.x, f.residual, {}).backward(dy);
  ExpectClose(f.store.grads(), once * 2, "grads");
}

// The mask is made anew in the backward: the gradient must be that of the very function whose value
// the forward gave.
TEST(LinearTest, DropoutsBackwardUsesTheMaskOfItsForward) {
  Fixture f(false, 0.5);
  const PassState pass = {.training = true, .dropout_seed = 99};
  const at::Tensor dy = at::randn({kTokens, kOut});
  const auto value = [&] {
    const at::NoGradGuard no_grad;
    return (ApplyLinear(f.group, f.x, f.residual, pass) * dy).sum().item<double>();
  };
  ApplyLinear(f.group, f.x, f.residual, pass).backward(dy);
  Trained* a = f.group.adapters[1].a;
  const double slope = a->grad[2][5].item<double>();
  constexpr double kStep = 1e-2;  // y is linear in A
  a->value[2][5].add_(kStep);
  const double up = value();
  a->value[2][5].sub_(2 * kStep);
  EXPECT_NEAR((up - value()) / (2 * kStep), slope, 1e-2 * std::abs(slope) + 1e-2);
  EXPECT_NE(ApplyLinear(f.group, f.x, f.residual, {true, 100}).sum().item<double>(),
            ApplyLinear(f.group, f.x, f.residual, pass).sum().item<double>());
}

// With dropout DoRA's branch sees another input than the base does. Along A (which the norm, taken
// as a constant, also reads) only the magnitude's and x's slopes are those of the value itself.
TEST(LinearTest, DorasSlopesUnderDropoutAreThoseOfItsValue) {
  Fixture f(true, 0.5);
  const PassState pass = {.training = true, .dropout_seed = 99};
  const at::Tensor dy = at::randn({kTokens, kOut});
  const auto value = [&] {
    const at::NoGradGuard no_grad;
    return (ApplyLinear(f.group, f.x, f.residual, pass) * dy).sum().item<double>();
  };
  ApplyLinear(f.group, f.x, f.residual, pass).backward(dy);
  constexpr double kStep = 1e-2;
  Trained* m = f.group.adapters[0].magnitude;
  const double slope = m->grad[3].item<double>();
  m->value[3].add_(kStep);
  const double up = value();
  m->value[3].sub_(2 * kStep);
  EXPECT_NEAR((up - value()) / (2 * kStep), slope, 1e-2 * std::abs(slope) + 1e-2);
  m->value[3].add_(kStep);
  const at::Tensor dx = f.x.grad();
  const at::NoGradGuard no_grad;
  f.x[4][7].add_(kStep);
  const double right = value();
  f.x[4][7].sub_(2 * kStep);
  const double x_slope = dx[4][7].item<double>();
  EXPECT_NEAR((right - value()) / (2 * kStep), x_slope, 2e-2 * std::abs(x_slope) + 2e-2);
}

TEST(LinearTest, BlocksComputeWhatTheirWidenedMatrixDoes) {
  Fixture wide(false, 0), kept(false, 0);
  constexpr int64_t kRowBytes = kIn / 32 * 34;  // Q8_0: a scale of 16 bits and 32 numbers
  at::Tensor bytes = at::randint(0, 100, {kOut, kRowBytes}, at::kByte);
  bytes.slice(1, 0, kRowBytes, 34).fill_(0);     // every scale is 2^-9 ...
  bytes.slice(1, 1, kRowBytes, 34).fill_(0x18);  // ... in half precision
  kept.group.blocks = {kIn,
                       {{spec::DType::kQ8_0, bytes.narrow(0, 0, 16).contiguous()},
                        {spec::DType::kQ8_0, bytes.narrow(0, 16, 32).contiguous()}}};
  wide.group.weight = Widen(kept.group.blocks, at::kFloat);
  kept.group.weight = at::Tensor();
  EXPECT_GT(wide.group.weight.abs().max().item<double>(), 0.1);
  const at::Tensor dy = at::randn({kTokens, kOut});
  const at::Tensor want = ApplyLinear(wide.group, wide.x, wide.residual, {});
  const at::Tensor got = ApplyLinear(kept.group, kept.x, kept.residual, {});
  EXPECT_TRUE(at::equal(got, want));
  want.backward(dy);
  got.backward(dy);
  EXPECT_TRUE(at::equal(kept.x.grad(), wide.x.grad()));
  EXPECT_TRUE(at::equal(kept.store.grads(), wide.store.grads()));
}

TEST(LinearTest, FrozenRowsOfABiasGetNoGradient) {
  Fixture f(false, 0);
  ParameterStore biases;
  f.group.bias_grad = biases.Declare("bias", {kOut}, false);
  biases.Allocate(at::kCPU);
  f.group.frozen_bias = {{16, 32}};
  ApplyLinear(f.group, f.x, f.residual, {}).backward(at::ones({kTokens, kOut}));
  const at::Tensor& grad = f.group.bias_grad->grad;
  EXPECT_TRUE(at::equal(grad.narrow(0, 0, 16), at::full({16}, 1.0 * kTokens)));
  EXPECT_TRUE(at::equal(grad.narrow(0, 16, 32), at::zeros({32})));
}

TEST(KernelsTest, DropoutKeepsTheShareItIsAskedFor) {
  std::vector<float> x(1 << 16, 1.0f), y(1 << 16);
  kernels::Dropout(x.data(), 5, 0, 0.75f, static_cast<int64_t>(x.size()), y.data());
  double sum = 0;
  for (float v : y) sum += v;
  EXPECT_NEAR(sum / static_cast<double>(y.size()), 1.0, 0.02);
}

TEST(KernelsTest, CrossEntropyMatchesItsDefinition) {
  const std::vector<float> logits = {1.5f, -2.0f, 80.0f, 79.0f, -90.0f};
  std::vector<float> row = logits;
  double sum = 0;
  for (float v : logits) sum += std::exp(static_cast<double>(v) - 80.0);
  const double loss = kernels::CrossEntropyRow(row.data(), 5, 3, 1.0f, 0.5f);
  EXPECT_NEAR(loss, 80.0 + std::log(sum) - 79.0, 1e-6);
  EXPECT_NEAR(row[2], 0.5 * std::exp(0.0) / sum, 1e-6);
  EXPECT_NEAR(row[3], 0.5 * (std::exp(-1.0) / sum - 1), 1e-6);
}

}  // namespace
}  // namespace graft::model
