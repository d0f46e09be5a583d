#include "worker/trainer/optimizer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "worker/model/kernels.h"
#include "worker/model/rows.h"
#include "worker/trainer/blockwise.h"

namespace graft::trainer {
namespace {

using model::ParameterStore;
using model::Trained;
namespace kernels = model::kernels;

// Blocks that threads share, whatever their number: sums keep their order.
constexpr int64_t kBlock = 1 << 16;

class AdamW final : public Optimizer {
 public:
  AdamW(const OptimizerConfig& config, ParameterStore& store)
      : config_(config),
        store_(store),
        m_(at::zeros_like(store.values())),
        v_(at::zeros_like(store.values())) {}

  void Step(double learning_rate, double grad_scale) override {
    ++steps_;
    if (!store_.values().device().is_cpu()) return StepOnDevice(learning_rate, grad_scale);
    const double bias1 = 1 - std::pow(config_.beta1, static_cast<double>(steps_));
    const double bias2 = 1 - std::pow(config_.beta2, static_cast<double>(steps_));
    for (Trained& t : store_.trained()) {
      const double decay = t.decay ? config_.weight_decay : 0.0;
      const kernels::AdamWStep step = {
          static_cast<float>(config_.beta1),
          static_cast<float>(config_.beta2),
          static_cast<float>(config_.epsilon),
          static_cast<float>(1 - learning_rate * decay),
          static_cast<float>(learning_rate / bias1),
          static_cast<float>(std::sqrt(bias2)),
          static_cast<float>(grad_scale),
      };
      float* value = t.value.mutable_data_ptr<float>();
      const float* grad = t.grad.const_data_ptr<float>();
      float* m = m_.mutable_data_ptr<float>() + t.offset;
      float* v = v_.mutable_data_ptr<float>() + t.offset;
      at::parallel_for(0, t.elements(), kBlock, [&](int64_t begin, int64_t end) {
        kernels::AdamW(step, grad + begin, end - begin, value + begin, m + begin, v + begin);
      });
    }
  }

  std::vector<std::pair<std::string, at::Tensor>> states() override {
    return {{"exp_avg", m_}, {"exp_avg_sq", v_}};
  }

 private:
  // By ATen's fused kernel, the tensors with decay and those without in a launch each.
  void StepOnDevice(double learning_rate, double grad_scale) {
    store_.grads().mul_(grad_scale);
    for (bool decay : {true, false}) {
      std::vector<at::Tensor> values, grads, m, v, steps;
      for (Trained& t : store_.trained()) {
        if (t.decay != decay) continue;
        values.push_back(t.value);
        grads.push_back(t.grad);
        m.push_back(m_.narrow(0, t.offset, t.elements()).view(t.shape));
        v.push_back(v_.narrow(0, t.offset, t.elements()).view(t.shape));
        steps.push_back(at::full({}, static_cast<double>(steps_), m_.options()));
      }
      if (values.empty()) continue;
      at::_fused_adamw_(values, grads, m, v, {}, steps, learning_rate, config_.beta1, config_.beta2,
                        decay ? config_.weight_decay : 0.0, config_.epsilon,
                        /*amsgrad=*/false, /*maximize=*/false);
    }
  }

  const OptimizerConfig config_;
  ParameterStore& store_;
  at::Tensor m_;
  at::Tensor v_;
};

// bitsandbytes' AdamW8bit: the rule of AdamW over states of 8 bits in blocks. A tensor of fewer
// than kLeast8bit numbers keeps states of 32 bits, as there.
class AdamW8bit final : public Optimizer {
 public:
  AdamW8bit(const OptimizerConfig& config, ParameterStore& store) : config_(config), store_(store) {
    for (const Trained& t : store.trained()) {
      const int64_t count = t.elements();
      State state;
      if (count < kLeast8bit) {
        state.wide_m = at::zeros({count});
        state.wide_v = at::zeros({count});
      } else {
        const int64_t blocks = (count + kBlockwiseBlock - 1) / kBlockwiseBlock;
        state.m = at::zeros({count}, at::kByte);
        state.v = at::zeros({count}, at::kByte);
        state.m_largest = at::zeros({blocks});
        state.v_largest = at::zeros({blocks});
      }
      states_.push_back(std::move(state));
    }
  }

  void Step(double learning_rate, double grad_scale) override {
    ++steps_;
    const double bias1 = 1 - std::pow(config_.beta1, static_cast<double>(steps_));
    const double root_bias2 = std::sqrt(1 - std::pow(config_.beta2, static_cast<double>(steps_)));
    Rule rule;
    rule.beta1 = static_cast<float>(config_.beta1);
    rule.beta2 = static_cast<float>(config_.beta2);
    rule.step = static_cast<float>(-learning_rate * root_bias2 / bias1);
    rule.epsilon = static_cast<float>(config_.epsilon * root_bias2);
    rule.grad_scale = static_cast<float>(grad_scale);
    size_t i = 0;
    for (Trained& t : store_.trained()) {
      rule.keep = static_cast<float>(1 - (t.decay ? learning_rate * config_.weight_decay : 0.0));
      StepTensor(rule, t, states_[i++]);
    }
  }

  std::vector<std::pair<std::string, at::Tensor>> states() override {
    std::vector<std::pair<std::string, at::Tensor>> all;
    for (size_t i = 0; i < states_.size(); ++i) {
      const std::string& name = store_.trained()[i].name;
      const State& s = states_[i];
      if (s.wide_m.defined()) {
        all.emplace_back(absl::StrCat("exp_avg.", name), s.wide_m);
        all.emplace_back(absl::StrCat("exp_avg_sq.", name), s.wide_v);
        continue;
      }
      all.emplace_back(absl::StrCat("state1.", name), s.m);
      all.emplace_back(absl::StrCat("state2.", name), s.v);
      all.emplace_back(absl::StrCat("absmax1.", name), s.m_largest);
      all.emplace_back(absl::StrCat("absmax2.", name), s.v_largest);
    }
    return all;
  }

 private:
  static constexpr int64_t kLeast8bit = 4096;

  struct State {
    at::Tensor m, v, m_largest, v_largest;
    at::Tensor wide_m, wide_v;
  };
  struct Rule {
    float beta1, beta2, step, epsilon, keep, grad_scale;

    void Apply(const float* grad, int64_t count, float* value, float* m, float* v) const {
      for (int64_t i = 0; i < count; ++i) {
        const float g = grad[i] * grad_scale;
        m[i] = m[i] * beta1 + (1 - beta1) * g;
        v[i] = v[i] * beta2 + (1 - beta2) * g * g;
        value[i] = (value[i] + step * (m[i] / (std::sqrt(v[i]) + epsilon))) * keep;
      }
    }
  };

  void StepTensor(const Rule& rule, Trained& t, State& state) const {
    float* value = t.value.mutable_data_ptr<float>();
    const float* grad = t.grad.const_data_ptr<float>();
    const int64_t count = t.elements();
    if (state.wide_m.defined()) {
      rule.Apply(grad, count, value, state.wide_m.mutable_data_ptr<float>(),
                 state.wide_v.mutable_data_ptr<float>());
      return;
    }
    auto* m = state.m.mutable_data_ptr<uint8_t>();
    auto* v = state.v.mutable_data_ptr<uint8_t>();
    auto* m_largest = state.m_largest.mutable_data_ptr<float>();
    auto* v_largest = state.v_largest.mutable_data_ptr<float>();
    at::parallel_for(0, state.m_largest.numel(), 64, [&](int64_t first, int64_t last) {
      float wide_m[kBlockwiseBlock], wide_v[kBlockwiseBlock];
      for (int64_t b = first; b < last; ++b) {
        const int64_t begin = b * kBlockwiseBlock;
        const int64_t size = std::min(kBlockwiseBlock, count - begin);
        mean_.Widen(m + begin, m_largest[b], size, wide_m);
        square_.Widen(v + begin, v_largest[b], size, wide_v);
        rule.Apply(grad + begin, size, value + begin, wide_m, wide_v);
        m_largest[b] = mean_.Narrow(wide_m, size, /*keep_sign=*/true, m + begin);
        v_largest[b] = square_.Narrow(wide_v, size, /*keep_sign=*/false, v + begin);
      }
    });
  }

  const OptimizerConfig config_;
  ParameterStore& store_;
  const BlockwiseCode mean_{true};
  const BlockwiseCode square_{false};
  std::vector<State> states_;  // in the store's order
};

class Sgd final : public Optimizer {
 public:
  Sgd(const OptimizerConfig& config, ParameterStore& store) : config_(config), store_(store) {
    if (config.momentum > 0) momentum_ = at::zeros_like(store.values());
  }

  void Step(double learning_rate, double grad_scale) override {
    ++steps_;
    for (Trained& t : store_.trained()) {
      at::Tensor d = t.grad * grad_scale;
      if (t.decay && config_.weight_decay > 0) d.add_(t.value, config_.weight_decay);
      if (momentum_.defined()) {
        at::Tensor m = momentum_.narrow(0, t.offset, t.elements()).view(t.shape);
        if (steps_ == 1) {
          m.copy_(d);
        } else {
          m.mul_(config_.momentum).add_(d);
        }
        d = m;
      }
      t.value.add_(d, -learning_rate);
    }
  }

  std::vector<std::pair<std::string, at::Tensor>> states() override {
    if (!momentum_.defined()) return {};
    return {{"momentum", momentum_}};
  }

 private:
  const OptimizerConfig config_;
  ParameterStore& store_;
  at::Tensor momentum_;
};

class Lion final : public Optimizer {
 public:
  Lion(const OptimizerConfig& config, ParameterStore& store)
      : config_(config), store_(store), m_(at::zeros_like(store.values())) {}

  void Step(double learning_rate, double grad_scale) override {
    ++steps_;
    for (Trained& t : store_.trained()) {
      at::Tensor m = m_.narrow(0, t.offset, t.elements()).view(t.shape);
      const at::Tensor g = t.grad * grad_scale;
      if (t.decay) t.value.mul_(1 - learning_rate * config_.weight_decay);
      const at::Tensor direction = (m * config_.beta1).add_(g, 1 - config_.beta1).sign_();
      t.value.add_(direction, -learning_rate);
      m.mul_(config_.beta2).add_(g, 1 - config_.beta2);
    }
  }

  std::vector<std::pair<std::string, at::Tensor>> states() override { return {{"exp_avg", m_}}; }

 private:
  const OptimizerConfig config_;
  ParameterStore& store_;
  at::Tensor m_;
};

// transformers' Adafactor with scale_parameter and relative_step off: the rate is the schedule's.
class Adafactor final : public Optimizer {
 public:
  Adafactor(const OptimizerConfig& config, ParameterStore& store) : config_(config), store_(store) {
    for (const Trained& t : store.trained()) {
      const at::TensorOptions options = store.values().options();
      if (t.shape.size() >= 2) {
        std::vector<int64_t> columns = t.shape;
        columns.erase(columns.end() - 2);
        rows_.push_back(at::zeros(at::IntArrayRef(t.shape).slice(0, t.shape.size() - 1), options));
        columns_.push_back(at::zeros(columns, options));
      } else {
        rows_.push_back(at::zeros(t.shape, options));
        columns_.push_back(at::Tensor());
      }
    }
  }

  void Step(double learning_rate, double grad_scale) override {
    ++steps_;
    const double beta2 = 1 - std::pow(static_cast<double>(steps_), kDecayRate);
    size_t i = 0;
    for (Trained& t : store_.trained()) {
      const at::Tensor g = t.grad * grad_scale;
      const at::Tensor square = g.square() + kEps;
      at::Tensor update;
      if (columns_[i].defined()) {
        rows_[i].mul_(beta2).add_(square.mean(-1), 1 - beta2);
        columns_[i].mul_(beta2).add_(square.mean(-2), 1 - beta2);
        const at::Tensor row = (rows_[i] / rows_[i].mean(-1, true)).rsqrt().unsqueeze(-1);
        update = g * row * columns_[i].unsqueeze(-2).rsqrt();
      } else {
        rows_[i].mul_(beta2).add_(square, 1 - beta2);
        update = g * rows_[i].rsqrt();
      }
      const double root_mean_square =
          update.norm().item<double>() / std::sqrt(static_cast<double>(t.elements()));
      update.div_(std::max(1.0, root_mean_square / kClipThreshold)).mul_(learning_rate);
      if (t.decay && config_.weight_decay > 0) {
        t.value.add_(t.value, -config_.weight_decay * learning_rate);
      }
      t.value.sub_(update);
      ++i;
    }
  }

  std::vector<std::pair<std::string, at::Tensor>> states() override {
    std::vector<std::pair<std::string, at::Tensor>> all;
    for (size_t i = 0; i < rows_.size(); ++i) {
      const std::string& name = store_.trained()[i].name;
      all.emplace_back(absl::StrCat("rows.", name), rows_[i]);
      if (columns_[i].defined()) all.emplace_back(absl::StrCat("columns.", name), columns_[i]);
    }
    return all;
  }

 private:
  static constexpr double kDecayRate = -0.8;
  static constexpr double kEps = 1e-30;
  static constexpr double kClipThreshold = 1;

  const OptimizerConfig config_;
  ParameterStore& store_;
  std::vector<at::Tensor> rows_;
  std::vector<at::Tensor> columns_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Optimizer>> MakeOptimizer(const OptimizerConfig& config,
                                                         ParameterStore& store) {
  switch (config.kind) {
    case OptimizerKind::kAdamW:
      return std::make_unique<AdamW>(config, store);
    case OptimizerKind::kSgd:
      return std::make_unique<Sgd>(config, store);
    case OptimizerKind::kLion:
      return std::make_unique<Lion>(config, store);
    case OptimizerKind::kAdafactor:
      return std::make_unique<Adafactor>(config, store);
    case OptimizerKind::kAdamW8bit:
      return std::make_unique<AdamW8bit>(config, store);
  }
  return absl::InvalidArgumentError("optimizer.kind is none of the known ones");
}

double GradientNorm(ParameterStore& store) {
  if (!store.grads().device().is_cpu()) return store.grads().norm().item<double>();
  const float* grads = store.grads().const_data_ptr<float>();
  const int64_t count = store.grads().numel();
  std::vector<double> sums((count + kBlock - 1) / kBlock);
  at::parallel_for(0, static_cast<int64_t>(sums.size()), 4, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      sums[b] = kernels::SumOfSquares(grads + b * kBlock, std::min(kBlock, count - b * kBlock));
    }
  });
  double total = 0;
  for (double sum : sums) total += sum;
  return std::sqrt(total);
}

}  // namespace graft::trainer
