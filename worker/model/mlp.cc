#include "worker/model/mlp.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/model/accelerator.h"
#include "worker/model/kernels.h"
#include "worker/model/rows.h"

namespace graft::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

bool OnGateKernel(const spec::MlpSpec& mlp, const at::Tensor& inner) {
  return mlp.gated && (OnKernels(inner) || KernelsFor(inner) != nullptr) &&
         (mlp.activation == spec::Activation::kSilu ||
          mlp.activation == spec::Activation::kGeluTanh);
}

kernels::Gate GateOf(const spec::MlpSpec& mlp) {
  return mlp.activation == spec::Activation::kSilu ? kernels::Gate::kSilu
                                                   : kernels::Gate::kGeluTanh;
}

at::Tensor Product(const spec::MlpSpec& mlp, const at::Tensor& inner) {
  if (const DeviceKernels* device = KernelsFor(inner)) return device->Gated(GateOf(mlp), inner);
  const int64_t columns = inner.size(1) / 2;
  at::Tensor y = at::empty({inner.size(0), columns}, inner.options());
  ForRows(inner.size(0), 2 * columns, [&](int64_t begin, int64_t end) {
    kernels::Gated(GateOf(mlp), inner.const_data_ptr<float>() + begin * 2 * columns, end - begin,
                   columns, y.mutable_data_ptr<float>() + begin * columns);
  });
  return y;
}

at::Tensor ProductBackward(const spec::MlpSpec& mlp, const at::Tensor& inner,
                           const at::Tensor& dy) {
  if (const DeviceKernels* device = KernelsFor(inner)) {
    return device->GatedBackward(GateOf(mlp), inner, dy);
  }
  const int64_t columns = inner.size(1) / 2;
  at::Tensor d = at::empty_like(inner);
  ForRows(inner.size(0), 2 * columns, [&](int64_t begin, int64_t end) {
    kernels::GatedBackward(GateOf(mlp), inner.const_data_ptr<float>() + begin * 2 * columns,
                           dy.const_data_ptr<float>() + begin * columns, end - begin, columns,
                           d.mutable_data_ptr<float>() + begin * 2 * columns);
  });
  return d;
}

struct DownFunction : torch::autograd::Function<DownFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& inner,
                            const std::optional<at::Tensor>& residual, const spec::MlpSpec* mlp,
                            const LinearGroup* down, PassState pass) {
    at::Tensor kept;
    at::Tensor y =
        LinearForward(*down, Product(*mlp, inner), residual.value_or(at::Tensor()), pass, &kept);
    ctx->save_for_backward({inner, kept});
    ctx->saved_data["mlp"] = reinterpret_cast<int64_t>(mlp);
    ctx->saved_data["down"] = reinterpret_cast<int64_t>(down);
    ctx->saved_data["residual"] = residual.has_value();
    ctx->saved_data["training"] = pass.training;
    ctx->saved_data["seed"] = static_cast<int64_t>(pass.dropout_seed);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& mlp = *reinterpret_cast<const spec::MlpSpec*>(ctx->saved_data["mlp"].toInt());
    const auto& down = *reinterpret_cast<const LinearGroup*>(ctx->saved_data["down"].toInt());
    const PassState pass = {ctx->saved_data["training"].toBool(),
                            static_cast<uint64_t>(ctx->saved_data["seed"].toInt())};
    at::Tensor d_inner;
    {
      const at::Tensor dy = grads[0].contiguous();
      const at::Tensor product = Product(mlp, saved[0]);
      d_inner = LinearBackward(down, dy, product, saved[1], pass, true);
    }
    const at::Tensor d_residual = ctx->saved_data["residual"].toBool() ? grads[0] : at::Tensor();
    return {ProductBackward(mlp, saved[0], d_inner), d_residual, at::Tensor(), at::Tensor(),
            at::Tensor()};
  }
};

at::Tensor Act(spec::Activation activation, const at::Tensor& x) {
  switch (activation) {
    case spec::Activation::kSilu:
      return at::silu(x);
    case spec::Activation::kGeluTanh:
      return at::gelu(x, "tanh");
    case spec::Activation::kGelu:
      return at::gelu(x);
    case spec::Activation::kReluSquared:
      return at::relu(x).square();
    case spec::Activation::kRelu:
    case spec::Activation::kClampedSwiglu:
      break;
  }
  return at::relu(x);
}

}  // namespace

at::Tensor Activate(const spec::MlpSpec& mlp, const at::Tensor& inner) {
  if (!mlp.gated) return Act(mlp.activation, inner);
  const int64_t columns = inner.size(-1) / 2;
  const at::Tensor gate = inner.narrow(-1, 0, columns);
  const at::Tensor up = inner.narrow(-1, columns, columns);
  if (mlp.activation == spec::Activation::kClampedSwiglu) {
    const at::Tensor g = gate.clamp_max(mlp.clamp);
    const at::Tensor u = up.clamp(-mlp.clamp, mlp.clamp);
    return g * at::sigmoid(g * mlp.alpha) * (u + 1);
  }
  return Act(mlp.activation, gate) * up;
}

at::Tensor MlpProduct(const spec::MlpSpec& mlp, const at::Tensor& inner) {
  return OnGateKernel(mlp, inner) ? Product(mlp, inner) : Activate(mlp, inner);
}

at::Tensor MlpProductBackward(const spec::MlpSpec& mlp, const at::Tensor& inner,
                              const at::Tensor& dy) {
  if (OnGateKernel(mlp, inner) && (OnKernels(dy) || KernelsFor(dy) != nullptr))
    return ProductBackward(mlp, inner, dy);
  at::AutoGradMode enable(true);
  const at::Tensor leaf = inner.detach().requires_grad_(true);
  return torch::autograd::grad({Activate(mlp, leaf)}, {leaf}, {dy})[0];
}

at::Tensor ApplyDown(const spec::MlpSpec& mlp, const LinearGroup& down, const at::Tensor& inner,
                     const at::Tensor& residual, const PassState& pass) {
  if (OnGateKernel(mlp, inner) && inner.requires_grad()) {
    const auto given = residual.defined() ? std::optional<at::Tensor>(residual) : std::nullopt;
    return DownFunction::apply(inner, given, &mlp, &down, pass);
  }
  return ApplyLinear(down, inner.requires_grad() ? Activate(mlp, inner) : MlpProduct(mlp, inner),
                     residual, pass);
}

}  // namespace graft::model
