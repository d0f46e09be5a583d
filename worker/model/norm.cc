#include "worker/model/norm.h"

#include <torch/csrc/autograd/custom_function.h>

#include <vector>

#include "worker/model/accelerator.h"
#include "worker/model/kernels.h"
#include "worker/model/rows.h"

namespace graft::model {
namespace {

float Offset(const Norm& norm) { return norm.spec.plus_one ? 1.0f : 0.0f; }

bool IsPlainRms(const Norm& norm) {
  return norm.spec.kind == spec::NormKind::kRms && norm.weight.defined() &&
         norm.weight.dim() == 1 && norm.across == nullptr && !norm.bias.defined();
}

bool OnRmsKernel(const Norm& norm, const at::Tensor& x) { return IsPlainRms(norm) && OnKernels(x); }

const DeviceKernels* RmsOnDevice(const Norm& norm, const at::Tensor& x) {
  return IsPlainRms(norm) ? KernelsFor(x) : nullptr;
}

// The mean over the normalised dimension, which may be cut over ranks.
at::Tensor MeanOf(const Norm& norm, const at::Tensor& x) {
  if (norm.across == nullptr) return x.mean(-1, true);
  at::Tensor sum = x.sum(-1, true);
  norm.across->Sum(sum, "tp norm");
  return sum / static_cast<double>(norm.whole_columns * norm.copies);
}

// The factor of every column in fp32.
at::Tensor Factor(const Norm& norm) { return norm.spec.plus_one ? norm.weight + 1.0 : norm.weight; }

at::Tensor Normalised(const Norm& norm, const at::Tensor& x, const NormStats& stats) {
  const at::Tensor x32 = x.to(at::kFloat);
  return norm.spec.kind == spec::NormKind::kRms ? x32 * stats.rstd
                                                : (x32 - stats.mean) * stats.rstd;
}

at::Tensor Scaled(const Norm& norm, at::Tensor hat, at::ScalarType type) {
  if (!norm.spec.scale_before_rounding) hat = hat.to(type);
  if (norm.weight.defined()) hat = hat * Factor(norm).to(hat.scalar_type());
  if (norm.bias.defined()) hat = hat + norm.bias.to(hat.scalar_type());
  return hat.to(type);
}

struct NormFunction : torch::autograd::Function<NormFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& x,
                            const Norm* norm) {
    NormStats stats;
    at::Tensor y = NormForward(*norm, x, &stats);
    ctx->save_for_backward({x, stats.rstd, stats.mean});
    ctx->saved_data["norm"] = reinterpret_cast<int64_t>(norm);
    return y;
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto* norm = reinterpret_cast<const Norm*>(ctx->saved_data["norm"].toInt());
    return {NormBackward(*norm, grads[0].contiguous(), saved[0], {saved[1], saved[2]}),
            at::Tensor()};
  }
};

}  // namespace

at::Tensor NormForward(const Norm& norm, const at::Tensor& x, NormStats* stats) {
  const int64_t columns = x.size(-1);
  if (OnRmsKernel(norm, x)) {
    const int64_t rows = x.numel() / columns;
    at::Tensor y = at::empty_like(x);
    std::vector<int64_t> per_row = x.sizes().vec();
    per_row.back() = 1;
    stats->rstd = at::empty(per_row, x.options());
    ForRows(rows, columns, [&](int64_t begin, int64_t end) {
      kernels::RmsNorm(x.const_data_ptr<float>() + begin * columns,
                       norm.weight.const_data_ptr<float>(), Offset(norm),
                       static_cast<float>(norm.spec.eps), end - begin, columns,
                       y.mutable_data_ptr<float>() + begin * columns,
                       stats->rstd.mutable_data_ptr<float>() + begin);
    });
    return y;
  }
  if (const DeviceKernels* device = RmsOnDevice(norm, x)) {
    return device->RmsNorm(x, norm.weight, Offset(norm), static_cast<float>(norm.spec.eps),
                           &stats->rstd);
  }
  const at::Tensor x32 = x.to(at::kFloat);
  if (norm.spec.kind == spec::NormKind::kRms) {
    stats->rstd = (MeanOf(norm, x32.square()) + norm.spec.eps).rsqrt();
  } else {
    stats->mean = x32.mean(-1, true);
    stats->rstd = ((x32 - stats->mean).square().mean(-1, true) + norm.spec.eps).rsqrt();
  }
  return NormAgain(norm, x, *stats);
}

at::Tensor NormAgain(const Norm& norm, const at::Tensor& x, const NormStats& stats) {
  if (const DeviceKernels* device = RmsOnDevice(norm, x)) {
    return device->RmsNormAgain(x, stats.rstd, norm.weight, Offset(norm));
  }
  if (!OnRmsKernel(norm, x)) {
    return Scaled(norm, Normalised(norm, x, stats), x.scalar_type());
  }
  const int64_t columns = x.size(-1);
  at::Tensor y = at::empty_like(x);
  ForRows(x.numel() / columns, columns, [&](int64_t begin, int64_t end) {
    kernels::RmsNormAgain(x.const_data_ptr<float>() + begin * columns,
                          stats.rstd.const_data_ptr<float>() + begin,
                          norm.weight.const_data_ptr<float>(), Offset(norm), end - begin, columns,
                          y.mutable_data_ptr<float>() + begin * columns);
  });
  return y;
}

at::Tensor NormBackward(const Norm& norm, const at::Tensor& dy, const at::Tensor& x,
                        const NormStats& stats) {
  const int64_t columns = x.size(-1);
  if (norm.weight_grad != nullptr || norm.bias_grad != nullptr) {
    const at::Tensor dy32 = dy.to(at::kFloat);
    if (norm.weight_grad != nullptr) {
      const at::Tensor term = dy32 * Normalised(norm, x, stats);
      norm.weight_grad->grad.add_(term.sum_to_size(norm.weight.sizes()));
    }
    if (norm.bias_grad != nullptr) {
      norm.bias_grad->grad.add_(dy32.sum_to_size(norm.bias.sizes()));
    }
  }
  if (OnRmsKernel(norm, x) && OnKernels(dy)) {
    at::Tensor dx = at::empty_like(dy);
    ForRows(x.numel() / columns, columns, [&](int64_t begin, int64_t end) {
      kernels::RmsNormBackward(
          dy.const_data_ptr<float>() + begin * columns, x.const_data_ptr<float>() + begin * columns,
          stats.rstd.const_data_ptr<float>() + begin, norm.weight.const_data_ptr<float>(),
          Offset(norm), end - begin, columns, dx.mutable_data_ptr<float>() + begin * columns);
    });
    return dx;
  }
  if (const DeviceKernels* device = RmsOnDevice(norm, x);
      device != nullptr && dy.is_contiguous() && dy.scalar_type() == x.scalar_type()) {
    return device->RmsNormBackward(dy, x, stats.rstd, norm.weight, Offset(norm));
  }
  at::Tensor d_hat = dy.to(at::kFloat);
  if (norm.weight.defined()) d_hat = d_hat * Factor(norm);
  const at::Tensor hat = Normalised(norm, x, stats);
  at::Tensor inner = d_hat - hat * MeanOf(norm, d_hat * hat);
  if (norm.spec.kind == spec::NormKind::kLayerNorm) inner = inner - d_hat.mean(-1, true);
  return (inner * stats.rstd).to(x.scalar_type());
}

at::Tensor ApplyNorm(const Norm& norm, const at::Tensor& x) {
  return NormFunction::apply(x, &norm);
}

}  // namespace graft::model
