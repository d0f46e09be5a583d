#include "worker/model/attention.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>

#include "base/check.h"
#include "worker/model/attention_flash.h"
#include "worker/model/attention_kernel.h"
#include "worker/model/attention_prepare.h"
#include "worker/model/context_attention.h"
#include "worker/model/rows.h"

namespace graft::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// Views of one segment as [K, G, L, D]; k and v have stride 0 over the group.
at::Tensor HeadsOf(const Attention& a, const at::Tensor& qkv, Part part, int64_t begin,
                   int64_t length) {
  const int64_t group = a.heads / a.kv_heads;
  const int64_t row = qkv.stride(0);
  const int64_t dim = PartDim(a, part);
  const int64_t offset = qkv.storage_offset() + begin * row + PartBegin(a, part);
  if (part == Part::kQ) {
    return qkv.as_strided({a.kv_heads, group, length, dim}, {group * dim, dim, row, 1}, offset);
  }
  return qkv.as_strided({a.kv_heads, group, length, dim}, {dim, 0, row, 1}, offset);
}

// The heads' outputs of one segment, [K, G, L, E], as a view of o_T(HE).
at::Tensor OutputOf(const Attention& a, const at::Tensor& o, int64_t begin, int64_t length) {
  const int64_t group = a.heads / a.kv_heads;
  return o.as_strided({a.kv_heads, group, length, a.value_dim},
                      {group * a.value_dim, a.value_dim, o.stride(0), 1},
                      o.storage_offset() + begin * o.stride(0));
}

// -inf where a query must not look; [queries, keys], the last query seeing the last key.
at::Tensor Mask(int64_t queries, int64_t keys, int64_t window, const at::TensorOptions& options) {
  at::Tensor hidden = at::ones({queries, keys}, options.dtype(at::kBool)).triu(keys - queries + 1);
  if (window > 0) {
    hidden.logical_or_(
        at::ones({queries, keys}, options.dtype(at::kBool)).tril(keys - queries - window));
  }
  return at::zeros({queries, keys}, options)
      .masked_fill(hidden, -std::numeric_limits<double>::infinity());
}

// softmax(softcap(q k^T scale) + mask, beside the sinks) v, in ATen's own operations.
at::Tensor ThroughScores(const Attention& a, const at::Tensor& q, const at::Tensor& k,
                         const at::Tensor& v, const at::Tensor& sinks) {
  at::Tensor scores = at::matmul(q, k.transpose(-2, -1)) * a.scale;
  if (a.softcap > 0) scores = at::tanh(scores / a.softcap) * a.softcap;
  scores = scores + Mask(q.size(2), k.size(2), a.window, scores.options());
  if (sinks.defined()) {
    const at::Tensor column = sinks.to(scores.scalar_type())
                                  .view({a.kv_heads, a.heads / a.kv_heads, 1, 1})
                                  .expand({-1, -1, q.size(2), 1});
    scores = at::cat({scores, column}, -1);
  }
  at::Tensor p = at::softmax(scores, -1, at::kFloat);
  if (sinks.defined()) p = p.narrow(-1, 0, k.size(2));
  return at::matmul(p.to(v.scalar_type()), v);
}

// Adds the segment's gradients into d_TW, by autograd over ThroughScores.
void SegmentBackward(const Attention& a, const at::Tensor& qkv, const at::Tensor& d_o,
                     int64_t begin, int64_t length, at::Tensor& d) {
  at::AutoGradMode enable(true);
  variable_list inputs;
  for (Part part : {Part::kQ, Part::kK, Part::kV}) {
    inputs.push_back(HeadsOf(a, qkv, part, begin, length).detach().requires_grad_(true));
  }
  at::Tensor sinks;
  if (a.sinks.defined()) {
    sinks = a.sinks.detach().requires_grad_(true);
    inputs.push_back(sinks);
  }
  const variable_list grads =
      torch::autograd::grad({ThroughScores(a, inputs[0], inputs[1], inputs[2], sinks)}, inputs,
                            {OutputOf(a, d_o, begin, length)});
  HeadsOf(a, d, Part::kQ, begin, length).copy_(grads[0]);
  HeadsOf(a, d, Part::kK, begin, length).select(1, 0).copy_(grads[1].sum(1));
  HeadsOf(a, d, Part::kV, begin, length).select(1, 0).copy_(grads[2].sum(1));
  if (a.sinks_grad != nullptr) a.sinks_grad->grad.add_(grads[3].to(at::kFloat));
}

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
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t begin = starts[i], length = starts[i + 1] - starts[i];
    const auto heads = [&](Part part) { return HeadsOf(a, qkv, part, begin, length); };
    OutputOf(a, o, begin, length)
        .copy_(ThroughScores(a, heads(Part::kQ), heads(Part::kK), heads(Part::kV), a.sinks));
  }
  return o;
}

at::Tensor AttendBackward(const Attention& a, const at::Tensor& qkv, const at::Tensor& o,
                          const FlashState& flash, const at::Tensor& d_o,
                          const SegmentStarts& starts) {
  if (OnFlash(a, qkv)) return FlashBackward(a, qkv, o, flash, d_o, starts);
  if (!OnHostKernel(qkv)) {
    at::Tensor d = at::empty_like(qkv);
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      SegmentBackward(a, qkv, d_o, starts[i], starts[i + 1] - starts[i], d);
    }
    return d;
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
    return x.narrow(0, 0, total).view({total, a.kv_heads, 1, dim}).permute({1, 2, 0, 3});
  };
  const at::Tensor q = HeadsOf(a, prepared, Part::kQ, 0, tokens);
  OutputOf(a, o, 0, tokens)
      .copy_(ThroughScores(a, q, heads(cache.k, a.head_dim), heads(cache.v, a.value_dim), a.sinks));
  return o;
}

}  // namespace graft::model
