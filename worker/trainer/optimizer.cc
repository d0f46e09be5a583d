#include "worker/trainer/optimizer.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "worker/model/kernels.h"
#include "worker/model/rows.h"
#include "worker/trainer/adamw_8bit.h"

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

  std::vector<OptimizerState> states() override {
    return {{"exp_avg", {m_}}, {"exp_avg_sq", {v_}}};
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

  std::vector<OptimizerState> states() override {
    if (!momentum_.defined()) return {};
    return {{"momentum", {momentum_}}};
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

  std::vector<OptimizerState> states() override { return {{"exp_avg", {m_}}}; }

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

  std::vector<OptimizerState> states() override {
    std::vector<OptimizerState> all;
    for (size_t i = 0; i < rows_.size(); ++i) {
      const Trained& of = store_.trained()[i];
      const auto add = [&](const char* what, const at::Tensor& state) {
        all.push_back({absl::StrCat(what, of.name), {state}, &of, /*own_shape=*/true});
      };
      add("rows.", rows_[i]);
      if (columns_[i].defined()) add("columns.", columns_[i]);
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
    case OptimizerKind::kPagedAdamW8bit:
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
