#include "worker/model/attention.h"

#include <torch/csrc/autograd/custom_function.h>

#include "worker/model/attention_flash.h"
#include "worker/model/attention_kernel.h"
#include "worker/model/attention_prepare.h"
#include "worker/model/attention_segments.h"
#include "worker/model/context_attention.h"
#include "worker/model/rows.h"

namespace graft::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

AttentionInputs InputsOf(const Attention& a, const at::Tensor& qkv) {
  const auto* data = qkv.const_data_ptr<float>();
  return {PartRows(a, data, Part::kQ), PartRows(a, data, Part::kK), PartRows(a, data, Part::kV)};
}

std::vector<AttentionSegment> SegmentsOf(const SegmentStarts& starts) {
  std::vector<AttentionSegment> segments;
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t length = starts[i + 1] - starts[i];
    segments.push_back({starts[i], length, starts[i], length, 0});
  }
  return segments;
}

// The kernel for CPUs computes in fp32; activations of 16 bits are widened for it.
bool OnHostKernel(const at::Tensor& qkv) {
  return qkv.device().is_cpu() && qkv.scalar_type() != at::kDouble;
}

at::Tensor HostFloats(const at::Tensor& x) { return x.to(at::kFloat).contiguous(); }

// o, and the sums' logarithms [H, T] where a kernel made them.
at::Tensor Attend(const Attention& a, const at::Tensor& qkv, const SegmentStarts& starts,
                  FlashState* flash) {
  const int64_t tokens = qkv.size(0);
  if (OnFlash(a, qkv)) return FlashForward(a, qkv, starts, flash);
  if (OnHostKernel(qkv)) {
    const at::Tensor wide = HostFloats(qkv);
    at::Tensor o = at::empty({tokens, a.out_width()}, wide.options());
    flash->lse = at::empty({a.heads, tokens}, wide.options());
    AttentionForward(ShapeOf(a), SegmentsOf(starts), InputsOf(a, wide),
                     {o.mutable_data_ptr<float>(), a.out_width()},
                     flash->lse.mutable_data_ptr<float>(), tokens);
    return o.to(qkv.scalar_type());
  }
  at::Tensor o = at::empty({tokens, a.out_width()}, qkv.options());
  flash->lse = at::empty({a.heads, tokens}, qkv.options().dtype(SumType(qkv)));
  SegmentsForward(a, SegmentsOf(starts), SegmentRowsOf(a, qkv), o, flash->lse);
  if (a.sinks.defined()) AddSinks(a.sinks, o, flash->lse);
  return o;
}

at::Tensor AttendBackward(const Attention& a, const at::Tensor& qkv, const at::Tensor& o,
                          const FlashState& flash, const at::Tensor& d_o,
                          const SegmentStarts& starts) {
  if (OnFlash(a, qkv)) return FlashBackward(a, qkv, o, flash, d_o, starts);
  if (!OnHostKernel(qkv)) {
    const at::Tensor d = at::zeros(qkv.sizes(), qkv.options().dtype(SumType(qkv)));
    SegmentsBackward(a, SegmentsOf(starts), SegmentRowsOf(a, qkv), o, flash.lse, d_o,
                     SegmentRowsOf(a, d));
    if (a.sinks_grad != nullptr) {
      a.sinks_grad->grad.add_(SinkGradients(a.sinks, o, flash.lse, d_o));
    }
    return d.to(qkv.scalar_type());
  }
  const at::Tensor wide = HostFloats(qkv), wide_o = HostFloats(o), wide_d_o = HostFloats(d_o);
  at::Tensor d = at::empty_like(wide);
  std::vector<double> d_sinks(a.sinks_grad != nullptr ? a.heads : 0);
  auto* to = d.mutable_data_ptr<float>();
  AttentionBackward(ShapeOf(a), SegmentsOf(starts), InputsOf(a, wide),
                    {wide_o.const_data_ptr<float>(), a.out_width()},
                    {wide_d_o.const_data_ptr<float>(), a.out_width()},
                    flash.lse.const_data_ptr<float>(), qkv.size(0),
                    {PartRows(a, to, Part::kQ), PartRows(a, to, Part::kK),
                     PartRows(a, to, Part::kV), d_sinks.empty() ? nullptr : d_sinks.data()});
  if (a.sinks_grad != nullptr) {
    a.sinks_grad->grad.add_(at::tensor(at::ArrayRef<double>(d_sinks), at::kFloat));
  }
  return d.to(qkv.scalar_type());
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const Attention* a,
                            const RopeTable* rope, const SegmentStarts* starts) {
    const at::Tensor prepared = Prepare(*a, qkv, rope, /*keep=*/ChangesBeforeRotation(*a));
    FlashState flash;
    at::Tensor o = Attend(*a, prepared, *starts, &flash);
    const at::Tensor none;
    ctx->save_for_backward({qkv, o, rope == nullptr ? none : rope->cos,
                            rope == nullptr ? none : rope->sin, flash.lse, flash.seed,
                            flash.offset});
    ctx->saved_data["attention"] = reinterpret_cast<int64_t>(a);
    ctx->saved_data["starts"] = *starts;
    return o;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& a = *reinterpret_cast<const Attention*>(ctx->saved_data["attention"].toInt());
    const std::vector<int64_t> starts = ctx->saved_data["starts"].toIntVector();
    const RopeTable table = {saved[2], saved[3]};
    const RopeTable* rope = table.cos.defined() ? &table : nullptr;
    const at::Tensor& qkv = saved[0];
    const at::Tensor prepared =
        ChangesBeforeRotation(a) ? Prepare(a, qkv, rope, /*keep=*/true) : qkv;
    at::Tensor d = AttendBackward(a, prepared, saved[1], {saved[4], saved[5], saved[6]},
                                  grads[0].contiguous(), starts);
    PrepareBackward(a, qkv, rope, d);
    return {d, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor ApplyAttention(const Attention& attention, at::Tensor qkv, const RopeTable* rope,
                          const SegmentStarts& starts,
                          const std::shared_ptr<const ContextCut>& context) {
  if (attention.rope < 0) rope = nullptr;
  if (context != nullptr) {
    return ApplyContextAttention(attention, qkv, rope, context);
  }
  return AttentionFunction::apply(qkv, &attention, rope, &starts);
}

at::Tensor AttendCached(const Attention& a, at::Tensor qkv, const RopeTable* rope,
                        LayerCache& cache, int64_t length) {
  const int64_t tokens = qkv.size(0);
  const int64_t total = length + tokens;
  const at::Tensor prepared = Prepare(a, std::move(qkv), rope, false);
  cache.k.narrow(0, length, tokens).copy_(Slice(a, prepared, Part::kK));
  cache.v.narrow(0, length, tokens).copy_(Slice(a, prepared, Part::kV));
  at::Tensor o = at::empty({tokens, a.out_width()}, prepared.options());
  if (OnKernels(prepared) && OnKernels(cache.k)) {
    const AttentionInputs in = {PartRows(a, prepared.const_data_ptr<float>(), Part::kQ),
                                {cache.k.const_data_ptr<float>(), a.kv_heads * a.head_dim},
                                {cache.v.const_data_ptr<float>(), a.kv_heads * a.value_dim}};
    std::vector<float> lse(static_cast<size_t>(a.heads * tokens));
    AttentionForward(ShapeOf(a), {{0, tokens, 0, total, length}}, in,
                     {o.mutable_data_ptr<float>(), a.out_width()}, lse.data(), tokens);
    return o;
  }
  const auto heads = [&](const at::Tensor& x, int64_t dim) {
    return x.narrow(0, 0, total).view({total, a.kv_heads, dim});
  };
  const SegmentRows rows = {SegmentRowsOf(a, prepared).q, heads(cache.k, a.head_dim),
                            heads(cache.v, a.value_dim)};
  at::Tensor lse = at::empty({a.heads, tokens}, prepared.options().dtype(SumType(prepared)));
  SegmentsForward(a, {{0, tokens, 0, total, length}}, rows, o, lse);
  if (a.sinks.defined()) AddSinks(a.sinks, o, lse);
  return o;
}

}  // namespace graft::model
