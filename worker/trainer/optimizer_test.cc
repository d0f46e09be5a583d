// Each optimizer against its rule written once more, plainly, in double precision.
#include "worker/trainer/optimizer.h"

#include <cmath>
#include <vector>

#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/trainer/adamw_8bit.h"

namespace graft::trainer {
namespace {

constexpr double kRate = 1e-2;
constexpr int kSteps = 25;

// A matrix that decays and a bias that does not, with gradients that change from step to step.
struct Fixture {
  model::ParameterStore store;
  model::Trained* matrix;
  model::Trained* bias;
  std::unique_ptr<Optimizer> optimizer;
  OptimizerConfig config;

  Fixture(OptimizerKind kind, int64_t rows, const std::function<void(OptimizerConfig&)>& change) {
    at::manual_seed(3);
    matrix = store.Declare("w", {rows, 8}, true);
    bias = store.Declare("b", {8}, false);
    store.Allocate(at::kCPU);
    matrix->value.copy_(at::randn({rows, 8}));
    bias->value.copy_(at::randn({8}));
    config.kind = kind;
    config.weight_decay = 0.1;
    change(config);
    auto made = MakeOptimizer(config, store);
    EXPECT_TRUE(made.ok()) << made.status();
    optimizer = *std::move(made);
  }

  at::Tensor Gradient(const at::Tensor& like, int step) const {
    return at::sin(at::arange(like.numel()).view(like.sizes()).to(at::kFloat) * 0.37 + 1.3 * step);
  }
  void Step(int step) {
    matrix->grad.copy_(Gradient(matrix->value, step));
    bias->grad.copy_(Gradient(bias->value, step));
    optimizer->Step(kRate, 0.5);
  }
};

// Follows one tensor by `rule(value, gradient, step)` on doubles.
template <typename Rule>
void ExpectFollows(Fixture& f, const Rule& rule, double tolerance = 1e-5) {
  at::Tensor w = f.matrix->value.to(at::kDouble), b = f.bias->value.to(at::kDouble);
  typename Rule::State w_state, b_state;
  for (int step = 1; step <= kSteps; ++step) {
    w = rule(w, f.Gradient(f.matrix->value, step).to(at::kDouble) * 0.5, step, true, w_state);
    b = rule(b, f.Gradient(f.bias->value, step).to(at::kDouble) * 0.5, step, false, b_state);
    f.Step(step);
  }
  EXPECT_LE((f.matrix->value - w).abs().max().item<double>(), tolerance);
  EXPECT_LE((f.bias->value - b).abs().max().item<double>(), tolerance);
  EXPECT_EQ(f.optimizer->steps(), kSteps);
}

struct AdamWRule {
  OptimizerConfig c;
  struct State {
    at::Tensor m, v;
  };
  at::Tensor operator()(at::Tensor x, const at::Tensor& g, int step, bool decay, State& s) const {
    if (!s.m.defined()) s = {at::zeros_like(g), at::zeros_like(g)};
    if (decay) x = x * (1 - kRate * c.weight_decay);
    s.m = s.m * c.beta1 + g * (1 - c.beta1);
    s.v = s.v * c.beta2 + g * g * (1 - c.beta2);
    const at::Tensor m = s.m / (1 - std::pow(c.beta1, step));
    const at::Tensor v = s.v / (1 - std::pow(c.beta2, step));
    return x - m / (v.sqrt() + c.epsilon) * kRate;
  }
};

TEST(OptimizerTest, AdamWDecouplesItsDecay) {
  Fixture f(OptimizerKind::kAdamW, 5, [](OptimizerConfig&) {});
  ExpectFollows(f, AdamWRule{f.config});
}

TEST(OptimizerTest, EightBitsOfASmallTensorAreThirtyTwo) {
  Fixture f(OptimizerKind::kAdamW8bit, 5, [](OptimizerConfig& c) { c.weight_decay = 0; });
  ExpectFollows(f, AdamWRule{f.config});
}

TEST(OptimizerTest, EightBitAdamWStaysNearAdamW) {
  Fixture f(OptimizerKind::kAdamW8bit, 1024, [](OptimizerConfig& c) { c.weight_decay = 0; });
  const at::Tensor start = f.matrix->value.clone();
  Fixture wide(OptimizerKind::kAdamW, 1024, [](OptimizerConfig& c) { c.weight_decay = 0; });
  for (int step = 1; step <= kSteps; ++step) {
    f.Step(step);
    wide.Step(step);
  }
  const double moved = (wide.matrix->value - start).norm().item<double>();
  EXPECT_LE((f.matrix->value - wide.matrix->value).norm().item<double>(), 0.1 * moved);
  int64_t bytes = 0;
  for (const OptimizerState& state : f.optimizer->states()) bytes += state.numbers.codes.nbytes();
  EXPECT_LE(bytes, f.matrix->elements() * 2.1) << "two bytes for a number";
}

struct LionRule {
  OptimizerConfig c;
  struct State {
    at::Tensor m;
  };
  at::Tensor operator()(at::Tensor x, const at::Tensor& g, int, bool decay, State& s) const {
    if (!s.m.defined()) s.m = at::zeros_like(g);
    if (decay) x = x * (1 - kRate * c.weight_decay);
    x = x - (s.m * c.beta1 + g * (1 - c.beta1)).sign() * kRate;
    s.m = s.m * c.beta2 + g * (1 - c.beta2);
    return x;
  }
};

TEST(OptimizerTest, LionTakesTheSignOfTheInterpolation) {
  Fixture f(OptimizerKind::kLion, 5, [](OptimizerConfig& c) {
    c.beta1 = 0.9;
    c.beta2 = 0.99;
  });
  ExpectFollows(f, LionRule{f.config});
}

struct SgdRule {
  OptimizerConfig c;
  struct State {
    at::Tensor m;
  };
  at::Tensor operator()(const at::Tensor& x, at::Tensor g, int, bool decay, State& s) const {
    if (decay) g = g + x * c.weight_decay;
    if (c.momentum > 0) {
      s.m = s.m.defined() ? s.m * c.momentum + g : g;
      g = s.m;
    }
    return x - g * kRate;
  }
};

TEST(OptimizerTest, SgdCouplesItsDecay) {
  Fixture f(OptimizerKind::kSgd, 5, [](OptimizerConfig&) {});
  ExpectFollows(f, SgdRule{f.config});
}

TEST(OptimizerTest, SgdsMomentumStartsAtTheFirstGradient) {
  Fixture f(OptimizerKind::kSgd, 5, [](OptimizerConfig& c) { c.momentum = 0.9; });
  ExpectFollows(f, SgdRule{f.config});
}

struct AdafactorRule {
  OptimizerConfig c;
  struct State {
    at::Tensor rows, columns;
  };
  at::Tensor operator()(at::Tensor x, const at::Tensor& g, int step, bool decay, State& s) const {
    const double beta2 = 1 - std::pow(step, -0.8);
    const at::Tensor square = g * g + 1e-30;
    at::Tensor update;
    if (g.dim() == 2) {
      if (!s.rows.defined())
        s = {at::zeros({g.size(0)}, at::kDouble), at::zeros({g.size(1)}, at::kDouble)};
      s.rows = s.rows * beta2 + square.mean(1) * (1 - beta2);
      s.columns = s.columns * beta2 + square.mean(0) * (1 - beta2);
      update = g / (at::outer(s.rows, s.columns) / s.rows.mean()).sqrt();
    } else {
      s.rows = s.rows.defined() ? s.rows * beta2 + square * (1 - beta2) : square * (1 - beta2);
      update = g / s.rows.sqrt();
    }
    const double rms = update.square().mean().sqrt().item<double>();
    update = update / std::max(1.0, rms) * kRate;
    if (decay) x = x - x * (c.weight_decay * kRate);
    return x - update;
  }
};

TEST(OptimizerTest, AdafactorKeepsRowsAndColumns) {
  Fixture f(OptimizerKind::kAdafactor, 5, [](OptimizerConfig&) {});
  ExpectFollows(f, AdafactorRule{f.config});
}

TEST(OptimizerTest, StatesCarryEverythingThatAStepNeeds) {
  for (const OptimizerKind kind : {OptimizerKind::kAdamW, OptimizerKind::kAdamW8bit,
                                   OptimizerKind::kLion, OptimizerKind::kAdafactor}) {
    Fixture whole(kind, 1024, [](OptimizerConfig&) {});
    Fixture resumed(kind, 1024, [](OptimizerConfig&) {});
    for (int step = 1; step <= 3; ++step) whole.Step(step);
    resumed.store.values().copy_(whole.store.values());
    const auto from = whole.optimizer->states();
    const auto to = resumed.optimizer->states();
    for (size_t i = 0; i < from.size(); ++i) {
      OptimizerState into = to[i];
      into.numbers.Narrow(from[i].numbers.Copy().Wide());
    }
    resumed.optimizer->set_steps(whole.optimizer->steps());
    whole.Step(4);
    resumed.Step(4);
    EXPECT_TRUE(at::equal(whole.store.values(), resumed.store.values())) << EnumName(kind);
  }
}

// States of numbers of many magnitudes, zeros among them.
CodedNumbers Coded(const at::Tensor& numbers, bool is_signed) {
  const int64_t blocks = (numbers.numel() + kBlockwiseBlock - 1) / kBlockwiseBlock;
  CodedNumbers coded = {at::zeros({numbers.numel()}, at::kByte), at::zeros({blocks}),
                        is_signed ? &BlockwiseCode::Signed() : &BlockwiseCode::Unsigned(),
                        is_signed};
  coded.Narrow(numbers);
  return coded;
}

at::Tensor Magnitudes(int64_t count) {
  const at::Tensor x = at::randn({count}) * at::pow(10.0, at::randn({count}) * 3);
  return x.masked_fill(at::rand({count}) < 0.1, 0).to(at::kFloat);
}

TEST(CodedNumbersTest, WhatIsWrittenWideIsReadAsTheSameCodes) {
  at::manual_seed(5);
  const at::Tensor numbers = Magnitudes(40 * kBlockwiseBlock + 100);
  for (const bool is_signed : {true, false}) {
    // In half of the blocks the largest is negative, where there is a sign.
    const CodedNumbers coded = Coded(is_signed ? numbers : numbers.abs(), is_signed);
    CodedNumbers again = coded.Copy();
    again.codes.zero_();
    again.Narrow(coded.Wide());
    EXPECT_TRUE(again.largest.equal(coded.largest));
    EXPECT_TRUE(again.codes.equal(coded.codes));
  }
}

TEST(AdamW8bitTest, LookupsStepAsBlocksDo) {
  at::manual_seed(6);
  // More than a chunk of blocks, and a part of one.
  const int64_t count = (1 << 14) * kBlockwiseBlock + 3 * kBlockwiseBlock + 17;
  AdamW8bitRule rule = {0.9f, 0.999f, -1e-3f, 1e-8f, 0.99f, 0.5f};
  const at::Tensor grad = Magnitudes(count);
  at::Tensor value = at::randn({count}), other = value.clone();
  CodedNumbers m = Coded(Magnitudes(count), true), m2 = m.Copy();
  CodedNumbers v = Coded(Magnitudes(count).square(), false), v2 = v.Copy();
  StepByBlock(rule, value, grad, m, v);
  const AdamW8bitTables tables = {BlockwiseCode::Signed().TablesOn(at::kCPU),
                                  BlockwiseCode::Unsigned().TablesOn(at::kCPU)};
  StepByLookup(rule, tables, other, grad, m2, v2);
  EXPECT_TRUE(at::allclose(value, other, 1e-5, 1e-6));
  // A number on the border of two codes may fall to either.
  const auto differ = [](const CodedNumbers& a, const CodedNumbers& b) {
    EXPECT_TRUE(at::allclose(a.largest, b.largest, 1e-5, 0));
    const at::Tensor steps = (a.codes.to(at::kInt) - b.codes.to(at::kInt)).abs();
    EXPECT_LE(steps.max().item<int>(), 1);
    return steps.to(at::kFloat).mean().item<double>();
  };
  EXPECT_LE(differ(m, m2), 1e-4);
  EXPECT_LE(differ(v, v2), 1e-4);
}

TEST(BlockwiseCodeTest, HasTheValuesOfTheDynamicMap) {
  const BlockwiseCode &mean = BlockwiseCode::Signed(), &square = BlockwiseCode::Unsigned();
  EXPECT_FLOAT_EQ(mean.Value(255), 1.0f);
  EXPECT_FLOAT_EQ(mean.Value(127), 0.0f);
  EXPECT_NEAR(mean.Value(0), -0.9929687f, 1e-6f);  // the mean of the last of 64 parts
  EXPECT_FLOAT_EQ(square.Value(0), 0.0f);
  EXPECT_NEAR(square.Value(254), 0.9964844f, 1e-6f);
}

TEST(BlockwiseCodeTest, RoundsToTheNearestAndKeepsTheSign) {
  const BlockwiseCode& code = BlockwiseCode::Signed();
  for (float x = -1; x <= 1; x += 0.0007f) {
    const float near = code.Value(code.Nearest(x, false));
    for (int c = 0; c < 256; ++c) {
      EXPECT_LE(std::abs(near - x), std::abs(code.Value(static_cast<uint8_t>(c)) - x) + 1e-7f);
    }
  }
  EXPECT_LT(code.Value(code.Nearest(-1e-9f, true)), 0.0f);
  EXPECT_GE(code.Value(code.Nearest(1e-9f, true)), 0.0f);
}

TEST(BlockwiseCodeTest, ABlockOfZerosStaysZero) {
  const BlockwiseCode& code = BlockwiseCode::Signed();
  const float zeros[4] = {};
  uint8_t codes[4];
  const float largest = code.Narrow(zeros, 4, true, codes);
  float back[4];
  code.Widen(codes, largest, 4, back);
  for (float v : back) EXPECT_EQ(v, 0.0f);
}

}  // namespace
}  // namespace graft::trainer
