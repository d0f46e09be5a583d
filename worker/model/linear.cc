#include "worker/model/linear.h"

#include <torch/csrc/autograd/custom_function.h>

#include "base/check.h"
#include "worker/model/accelerator.h"
#include "worker/model/kernels.h"
#include "worker/model/rows.h"

namespace graft::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

int64_t TotalRank(const LinearGroup& group) {
  int64_t rank = 0;
  for (const Adapter& adapter : group.adapters) rank += adapter.rank;
  return rank;
}

// Adapters share one input, so one product serves all of them.
bool Joined(const LinearGroup& group, const PassState& pass) {
  return group.joined_a.defined() && !(pass.training && group.dropout > 0);
}

uint64_t MaskSeed(const LinearGroup& group, size_t adapter, const PassState& pass) {
  return pass.dropout_seed ^ ((group.layer * 64 + adapter + 1) * 0x9E3779B97F4A7C15ULL);
}

// Dropout with the mask of one adapter; linear, so that the backward is the same call.
at::Tensor Dropped(const LinearGroup& group, size_t adapter, const at::Tensor& x,
                   const PassState& pass) {
  if (!pass.training || group.dropout <= 0) return x;
  const int64_t columns = x.size(-1);
  // The mask is that of the whole input, of which these may be some columns.
  const int64_t whole = std::max(columns, group.whole_in);
  const int64_t first = columns == group.in ? group.in_begin : 0;
  if (const DeviceKernels* device = KernelsFor(x)) {
    return device->Dropout(
        x, {MaskSeed(group, adapter, pass), whole, first, static_cast<float>(1 - group.dropout)});
  }
  const at::Tensor in = x.to(at::kFloat).cpu().contiguous();
  at::Tensor y = at::empty_like(in);
  ForRows(in.size(0), columns, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      kernels::Dropout(in.const_data_ptr<float>() + row * columns, MaskSeed(group, adapter, pass),
                       row * whole + first, static_cast<float>(1 - group.dropout), columns,
                       y.mutable_data_ptr<float>() + row * columns);
    }
  });
  return y.to(x.options());
}

// The inner rows of all adapters, [T, R].
at::Tensor InnerRows(const LinearGroup& group, const at::Tensor& xn, const PassState& pass) {
  if (Joined(group, pass)) return at::mm(xn, group.joined_a.t().to(xn.scalar_type()));
  at::Tensor inner = at::empty({xn.size(0), TotalRank(group)}, xn.options());
  int64_t column = 0;
  for (size_t i = 0; i < group.adapters.size(); ++i) {
    const Adapter& adapter = group.adapters[i];
    at::Tensor out = inner.narrow(1, column, adapter.rank);
    at::mm_out(out, Dropped(group, i, xn, pass), adapter.a->value.t().to(xn.scalar_type()));
    column += adapter.rank;
  }
  return inner;
}

// Of DoRA: magnitude / norm of the rows of W + scale B A, the norm taken as a constant.
at::Tensor MagnitudeOverNorm(const LinearGroup& group, const Adapter& adapter, at::Tensor* norm) {
  const at::Tensor delta = at::mm(adapter.b->value, adapter.a->value) * adapter.scale;
  const at::Tensor weight = WideWeight(group, at::kFloat);
  at::Tensor rows = at::empty({delta.size(0)}, delta.options());
  for (const Adapter::Rows& r : adapter.rows) {
    const at::Tensor sum =
        weight.narrow(0, r.group_begin, r.count) + delta.narrow(0, r.b_begin, r.count);
    rows.narrow(0, r.b_begin, r.count).copy_(sum.square().sum(1));
  }
  if (group.scatter != nullptr) group.scatter->Sum(rows, "DoRA norms");  // rows are cut by columns
  rows.sqrt_();
  *norm = rows;
  return adapter.magnitude->value / rows;
}

// y += scale * inner B^T for every adapter.
void AddAdapters(const LinearGroup& group, const at::Tensor& inner, at::Tensor& y) {
  int64_t column = 0;
  for (const Adapter& adapter : group.adapters) {
    const at::Tensor h = inner.narrow(1, column, adapter.rank);
    for (const Adapter::Rows& r : adapter.rows) {
      const at::Tensor b = adapter.b->value.narrow(0, r.b_begin, r.count).to(y.scalar_type());
      y.narrow(1, r.group_begin, r.count).addmm_(h, b.t(), 1, adapter.scale);
    }
    column += adapter.rank;
  }
}

bool HasDora(const LinearGroup& group) {
  for (const Adapter& adapter : group.adapters) {
    if (adapter.magnitude != nullptr) return true;
  }
  return false;
}

// x W^T + scale x A^T B^T, before DoRA's factor, the bias and the residual.
at::Tensor Unscaled(const LinearGroup& group, const at::Tensor& xn, const at::Tensor& inner) {
  at::Tensor y = at::mm(xn, WideWeight(group, xn.scalar_type()).t());
  AddAdapters(group, inner, y);
  return y;
}

// Dropout stands before the adapter's branch alone, so the magnitude scales another product than
// the base's: y = W x + (factor - 1) W x' + factor * scale B A x', x' being what dropout left of x.
bool DoraDrops(const LinearGroup& group, const PassState& pass) {
  return HasDora(group) && pass.training && group.dropout > 0;
}

// W x' + scale B h over the rows `r`; `base` is the first term.
at::Tensor BranchRows(const Adapter& adapter, const Adapter::Rows& r, const at::Tensor& weight,
                      const at::Tensor& dropped, const at::Tensor& h, at::Tensor* base) {
  *base = at::mm(dropped, weight.narrow(0, r.group_begin, r.count).t());
  const at::Tensor b = adapter.b->value.narrow(0, r.b_begin, r.count).to(h.scalar_type());
  return at::addmm(*base, h, b.t(), 1, adapter.scale);
}

at::Tensor DoraForward(const LinearGroup& group, const at::Tensor& xn, const at::Tensor& inner,
                       const PassState& pass) {
  const bool drops = DoraDrops(group, pass);
  const at::Tensor weight = WideWeight(group, xn.scalar_type());
  at::Tensor y = drops ? at::mm(xn, weight.t()) : Unscaled(group, xn, inner);
  int64_t column = 0;
  for (size_t i = 0; i < group.adapters.size(); ++i) {
    const Adapter& adapter = group.adapters[i];
    at::Tensor norm;
    const at::Tensor factor = MagnitudeOverNorm(group, adapter, &norm).to(y.scalar_type());
    const at::Tensor dropped = drops ? Dropped(group, i, xn, pass) : at::Tensor();
    for (const Adapter::Rows& r : adapter.rows) {
      at::Tensor rows = y.narrow(1, r.group_begin, r.count);
      const at::Tensor f = factor.narrow(0, r.b_begin, r.count);
      if (!drops) {
        rows.mul_(f);
        continue;
      }
      at::Tensor base;
      const at::Tensor branch =
          BranchRows(adapter, r, weight, dropped, inner.narrow(1, column, adapter.rank), &base);
      rows.add_(branch * f).sub_(base);
    }
    column += adapter.rank;
  }
  return y;
}

// Adds the magnitudes' gradients and returns dy with DoRA's factor applied, which is what the
// adapters see. `through_dropped` becomes what reaches x through W x' of the branch; undefined
// where dropout is off.
at::Tensor DoraBackward(const LinearGroup& group, const at::Tensor& dy, const at::Tensor& xn,
                        const at::Tensor& inner, const PassState& pass,
                        at::Tensor* through_dropped) {
  const bool drops = DoraDrops(group, pass);
  const at::Tensor weight = WideWeight(group, xn.scalar_type());
  const at::Tensor unscaled = drops ? at::Tensor() : Unscaled(group, xn, inner);
  if (drops) *through_dropped = at::zeros_like(xn);
  at::Tensor out = dy.clone();
  int64_t column = 0;
  for (size_t i = 0; i < group.adapters.size(); ++i) {
    const Adapter& adapter = group.adapters[i];
    at::Tensor norm;
    const at::Tensor factor = MagnitudeOverNorm(group, adapter, &norm);
    const at::Tensor dropped = drops ? Dropped(group, i, xn, pass) : at::Tensor();
    at::Tensor d_dropped = drops ? at::zeros_like(xn) : at::Tensor();
    for (const Adapter::Rows& r : adapter.rows) {
      at::Tensor d = out.narrow(1, r.group_begin, r.count);
      const at::Tensor f = factor.narrow(0, r.b_begin, r.count).to(d.scalar_type());
      at::Tensor base;
      const at::Tensor z = drops ? BranchRows(adapter, r, weight, dropped,
                                              inner.narrow(1, column, adapter.rank), &base)
                                 : unscaled.narrow(1, r.group_begin, r.count);
      adapter.magnitude->grad.narrow(0, r.b_begin, r.count)
          .add_((d * z).sum(0).to(at::kFloat) / norm.narrow(0, r.b_begin, r.count));
      if (drops) d_dropped.addmm_(d * (f - 1), weight.narrow(0, r.group_begin, r.count));
      d.mul_(f);
    }
    if (drops) through_dropped->add_(Dropped(group, i, d_dropped, pass));
    column += adapter.rank;
  }
  return out;
}

// scale * dy B of every adapter, [T, R], and B's gradients.
at::Tensor InnerBackward(const LinearGroup& group, const at::Tensor& dy, const at::Tensor& inner) {
  at::Tensor d_inner = at::empty_like(inner);
  int64_t column = 0;
  for (const Adapter& adapter : group.adapters) {
    const at::Tensor h = inner.narrow(1, column, adapter.rank);
    at::Tensor dh = d_inner.narrow(1, column, adapter.rank);
    bool first = true;
    for (const Adapter::Rows& r : adapter.rows) {
      const at::Tensor d = dy.narrow(1, r.group_begin, r.count);
      const at::Tensor b = adapter.b->value.narrow(0, r.b_begin, r.count).to(d.scalar_type());
      at::addmm_out(dh, dh, d, b, first ? 0 : 1, adapter.scale);
      first = false;
      adapter.b->grad.narrow(0, r.b_begin, r.count)
          .addmm_(d.t().to(at::kFloat), h.to(at::kFloat), 1, adapter.scale);
    }
    column += adapter.rank;
  }
  return d_inner;
}

// A's gradients, and what the adapters add to dxn.
void AdaptersBackward(const LinearGroup& group, const at::Tensor& d_inner, const at::Tensor& xn,
                      const PassState& pass, at::Tensor& dxn) {
  if (Joined(group, pass)) {
    at::Tensor grad = group.joined_a_grad;
    grad.addmm_(d_inner.t().to(at::kFloat), xn.to(at::kFloat));
    if (dxn.defined()) dxn.addmm_(d_inner, group.joined_a.to(d_inner.scalar_type()));
    return;
  }
  int64_t column = 0;
  for (size_t i = 0; i < group.adapters.size(); ++i) {
    const Adapter& adapter = group.adapters[i];
    const at::Tensor dh = d_inner.narrow(1, column, adapter.rank);
    adapter.a->grad.addmm_(dh.t().to(at::kFloat), Dropped(group, i, xn, pass).to(at::kFloat));
    if (dxn.defined()) {
      dxn.add_(Dropped(group, i, at::mm(dh, adapter.a->value.to(dh.scalar_type())), pass));
    }
    column += adapter.rank;
  }
}

struct LinearFunction : torch::autograd::Function<LinearFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x,
                            const std::optional<at::Tensor>& residual,
                            const std::optional<at::Tensor>& anchor, const LinearGroup* group,
                            PassState pass) {
    NormStats stats;
    const at::Tensor xn = group->norm.present ? NormForward(group->norm, x, &stats) : x;
    at::Tensor kept;
    at::Tensor y = LinearForward(*group, xn, residual.value_or(at::Tensor()), pass, &kept);
    ctx->save_for_backward({x, kept, stats.rstd, stats.mean});
    ctx->saved_data["group"] = reinterpret_cast<int64_t>(group);
    ctx->saved_data["residual"] = residual.has_value();
    ctx->saved_data["training"] = pass.training;
    ctx->saved_data["seed"] = static_cast<int64_t>(pass.dropout_seed);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& group = *reinterpret_cast<const LinearGroup*>(ctx->saved_data["group"].toInt());
    const PassState pass = {ctx->saved_data["training"].toBool(),
                            static_cast<uint64_t>(ctx->saved_data["seed"].toInt())};
    const NormStats stats = {saved[2], saved[3]};
    const at::Tensor dy = grads[0].contiguous();
    const bool need_dx = ctx->needs_input_grad(0) || group.norm.weight_grad != nullptr;
    at::Tensor dx;
    {
      const at::Tensor xn = group.norm.present ? NormAgain(group.norm, saved[0], stats) : saved[0];
      dx = LinearBackward(group, dy, xn, saved[1], pass, need_dx);
    }
    if (group.norm.present && dx.defined()) dx = NormBackward(group.norm, dx, saved[0], stats);
    // A residual is not an operand of its own: its gradient is dy itself.
    const at::Tensor d_residual = ctx->saved_data["residual"].toBool() ? grads[0] : at::Tensor();
    return {dx, d_residual, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

// Makes a graph where only the module's own tensors are trained (they are no leaves of autograd).
const at::Tensor& SharedAnchor() {
  static const at::Tensor* anchor =
      new at::Tensor(at::zeros({1}, at::kFloat).set_requires_grad(true));
  return *anchor;
}

bool Trains(const LinearGroup& group) {
  return !group.adapters.empty() || group.weight_grad != nullptr || group.bias_grad != nullptr ||
         group.norm.weight_grad != nullptr;
}

// A few rows times a bfloat16 matrix, widened in registers: decoding reads each weight once per
// token, so what it costs is the bytes.
constexpr int64_t kGemvRows = 4;

bool OnGemv(const LinearGroup& group, const at::Tensor& xn) {
  return xn.size(0) <= kGemvRows && !group.blocks.defined() &&
         group.weight.scalar_type() == at::kBFloat16 && OnKernels(xn) &&
         group.weight.is_contiguous();
}

at::Tensor GemvForward(const LinearGroup& group, const at::Tensor& xn) {
  at::Tensor y = at::empty({xn.size(0), group.out}, xn.options());
  const auto* weight = reinterpret_cast<const uint16_t*>(group.weight.const_data_ptr());
  for (int64_t row = 0; row < xn.size(0); ++row) {
    ForRows(group.out, group.in, [&](int64_t begin, int64_t end) {
      kernels::GemvBf16(weight, xn.const_data_ptr<float>() + row * group.in, begin, end, group.in,
                        y.mutable_data_ptr<float>() + row * group.out);
    });
  }
  return y;
}

// x W^T with the adapters', DoRA's factor among them; `bias` and `residual` may be undefined, and
// are so with DoRA.
at::Tensor Product(const LinearGroup& group, const at::Tensor& xn, const at::Tensor& bias,
                   const at::Tensor& residual, const PassState& pass, at::Tensor* kept) {
  at::Tensor inner;
  if (!group.adapters.empty()) {
    inner = InnerRows(group, xn, pass);
    *kept = inner;
    if (HasDora(group)) return DoraForward(group, xn, inner, pass);
  }
  at::Tensor y;
  if (OnGemv(group, xn)) {
    y = GemvForward(group, xn);
    if (bias.defined()) y.add_(bias);
    if (residual.defined()) y.add_(residual);
    if (inner.defined()) AddAdapters(group, inner, y);
    return y;
  }
  const at::Tensor w = WideWeight(group, xn.scalar_type()).t();
  if (residual.defined()) {
    y = at::addmm(residual, xn, w);
    if (bias.defined()) y.add_(bias);
  } else if (bias.defined()) {
    y = at::addmm(bias.to(xn.scalar_type()), xn, w);
  } else {
    y = at::mm(xn, w);
  }
  if (inner.defined()) AddAdapters(group, inner, y);
  return y;
}

}  // namespace

at::Tensor WideWeight(const LinearGroup& group, at::ScalarType type) {
  if (group.blocks.defined()) return Widen(group.blocks, type);
  return group.weight.scalar_type() == type ? group.weight : group.weight.to(type);
}

namespace {

void AddBiasGradient(const LinearGroup& group, const at::Tensor& dy) {
  at::Tensor sum = dy.to(at::kFloat).sum(0);
  for (const auto& [begin, count] : group.frozen_bias) sum.narrow(0, begin, count).zero_();
  group.bias_grad->grad.add_(sum);
}

}  // namespace

at::Tensor LinearForward(const LinearGroup& group, const at::Tensor& x, const at::Tensor& residual,
                         const PassState& pass, at::Tensor* kept) {
  const at::Tensor xn = group.gather != nullptr ? group.gather->GatherRows(x, "tp gather") : x;
  // What the product itself may add; the rest follows when it is summed or scaled.
  const bool scattered = group.scatter != nullptr;
  const bool late = scattered || HasDora(group);
  const at::Tensor bias = late ? at::Tensor() : group.bias;
  at::Tensor y = Product(group, xn, bias, late ? at::Tensor() : residual, pass, kept);
  if (scattered) y = group.scatter->SumScatterRows(y, "tp sum");
  if (late && group.bias.defined()) y.add_(group.bias);
  if (late && residual.defined()) y.add_(residual);
  return y;
}

at::Tensor LinearBackward(const LinearGroup& group, const at::Tensor& dy_in, const at::Tensor& x,
                          const at::Tensor& inner, const PassState& pass, bool need_dx) {
  if (group.bias_grad != nullptr) AddBiasGradient(group, dy_in);
  const at::Tensor dy_all =
      group.scatter != nullptr ? group.scatter->GatherRows(dy_in, "tp gather of gradients") : dy_in;
  const bool uses_x = !group.adapters.empty() || group.weight_grad != nullptr;
  const at::Tensor xn =
      group.gather != nullptr && uses_x ? group.gather->GatherRows(x, "tp gather again") : x;
  at::Tensor through_dropped;
  const at::Tensor dy =
      HasDora(group) ? DoraBackward(group, dy_all, xn, inner, pass, &through_dropped) : dy_all;
  if (group.weight_grad != nullptr) {
    group.weight_grad->grad.addmm_(dy.t().to(at::kFloat), xn.to(at::kFloat));
  }
  at::Tensor dxn;
  if (need_dx) {
    const at::Tensor weight = WideWeight(group, dy.scalar_type());
    dxn =
        through_dropped.defined() ? at::addmm(through_dropped, dy_all, weight) : at::mm(dy, weight);
  }
  if (!group.adapters.empty()) {
    const at::Tensor d_inner = InnerBackward(group, dy, inner);
    AdaptersBackward(group, d_inner, xn, pass, dxn);
  }
  if (group.gather != nullptr && need_dx) {
    dxn = group.gather->SumScatterRows(dxn, "tp sum of gradients");
  }
  return dxn;
}

at::Tensor ApplyLinear(const LinearGroup& group, const at::Tensor& x, const at::Tensor& residual,
                       const PassState& pass) {
  const auto given = [](const at::Tensor& t) {
    return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt;
  };
  return LinearFunction::apply(x, given(residual),
                               Trains(group) ? given(SharedAnchor()) : std::nullopt, &group, pass);
}

}  // namespace graft::model
