#include "worker/model/attention.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>

#include "worker/model/kernels.h"
#include "worker/model/rows.h"

namespace graft::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

enum class Part { kQ, kK, kV };

int64_t PartHeads(const Attention& a, Part part) { return part == Part::kQ ? a.heads : a.kv_heads; }

int64_t PartBegin(const Attention& a, Part part) {
  if (part == Part::kQ) return 0;
  return (part == Part::kK ? a.heads : a.heads + a.kv_heads) * a.head_dim;
}

at::Tensor Slice(const Attention& a, const at::Tensor& qkv, Part part) {
  return qkv.narrow(1, PartBegin(a, part), PartHeads(a, part) * a.head_dim);
}

// q and k of qkv turned in place; sign -1 turns them back.
void RotateInPlace(const Attention& a, at::Tensor& qkv, const RopeTable* rope, float sign) {
  if (rope == nullptr || a.rope < 0) return;
  const int64_t width = qkv.size(1);
  const int64_t half = rope->half();
  if (OnKernels(qkv)) {
    const kernels::RopeLayout layout = {width, a.heads + a.kv_heads, a.head_dim, half,
                                        a.rope_interleaved};
    ForRows(qkv.size(0), width, [&](int64_t begin, int64_t end) {
      kernels::Rope(qkv.mutable_data_ptr<float>() + begin * width + a.rope_offset, layout,
                    rope->cos.const_data_ptr<float>() + begin * half,
                    rope->sin.const_data_ptr<float>() + begin * half, sign, end - begin);
    });
    return;
  }
  at::Tensor heads = qkv.narrow(1, 0, (a.heads + a.kv_heads) * a.head_dim)
                         .view({qkv.size(0), a.heads + a.kv_heads, a.head_dim})
                         .narrow(2, a.rope_offset, 2 * half);
  const at::Tensor cos = rope->cos.unsqueeze(1).to(qkv.scalar_type());
  const at::Tensor sin = (rope->sin * sign).unsqueeze(1).to(qkv.scalar_type());
  at::Tensor first = a.rope_interleaved ? heads.slice(2, 0, 2 * half, 2) : heads.narrow(2, 0, half);
  at::Tensor second =
      a.rope_interleaved ? heads.slice(2, 1, 2 * half, 2) : heads.narrow(2, half, half);
  const at::Tensor turned = first * cos - second * sin;
  second.copy_(second * cos + first * sin);
  first.copy_(turned);
}

// A part of qkv in the shape over whose last dimension the norm runs.
at::Tensor NormView(const Attention& a, const at::Tensor& qkv, Part part) {
  at::Tensor x = Slice(a, qkv, part).contiguous();
  if (a.qk_norm == spec::QkNorm::kFullWidth) return x;
  return x.view({x.size(0), PartHeads(a, part), a.head_dim});
}

void StorePart(const Attention& a, at::Tensor& qkv, Part part, const at::Tensor& x) {
  Slice(a, qkv, part).copy_(x.reshape({qkv.size(0), -1}));
}

bool ChangesBeforeRotation(const Attention& a) {
  return a.qk_norm != spec::QkNorm::kNone || a.clip_qkv > 0;
}

// qkv as the scores see it. In place unless `keep`.
at::Tensor Prepare(const Attention& a, at::Tensor qkv, const RopeTable* rope, bool keep) {
  if (keep) qkv = qkv.clone();
  if (a.qk_norm != spec::QkNorm::kNone) {
    NormStats stats;
    StorePart(a, qkv, Part::kQ, NormForward(a.q_norm, NormView(a, qkv, Part::kQ), &stats));
    StorePart(a, qkv, Part::kK, NormForward(a.k_norm, NormView(a, qkv, Part::kK), &stats));
  }
  if (a.clip_qkv > 0) qkv.clamp_(-a.clip_qkv, a.clip_qkv);
  RotateInPlace(a, qkv, rope, 1);
  return qkv;
}

// From the gradient of the prepared qkv to that of the original one, in place.
void PrepareBackward(const Attention& a, const at::Tensor& original, const RopeTable* rope,
                     at::Tensor& d) {
  RotateInPlace(a, d, rope, -1);
  if (!ChangesBeforeRotation(a)) return;
  if (a.clip_qkv > 0) {
    Attention unclipped = a;
    unclipped.clip_qkv = 0;
    const at::Tensor before = Prepare(unclipped, original, nullptr, true);
    d.mul_(before.abs().le(a.clip_qkv));
  }
  if (a.qk_norm == spec::QkNorm::kNone) return;
  for (Part part : {Part::kQ, Part::kK}) {
    const Norm& norm = part == Part::kQ ? a.q_norm : a.k_norm;
    const at::Tensor x = NormView(a, original, part);
    NormStats stats;
    NormForward(norm, x, &stats);
    StorePart(a, d, part, NormBackward(norm, NormView(a, d, part), x, stats));
  }
}

// Views of one segment as [K, G, L, D]; k and v have stride 0 over the group.
at::Tensor HeadsOf(const Attention& a, const at::Tensor& qkv, Part part, int64_t begin,
                   int64_t length) {
  const int64_t group = a.heads / a.kv_heads;
  const int64_t row = qkv.stride(0);
  const int64_t offset = qkv.storage_offset() + begin * row + PartBegin(a, part);
  if (part == Part::kQ) {
    return qkv.as_strided({a.kv_heads, group, length, a.head_dim},
                          {group * a.head_dim, a.head_dim, row, 1}, offset);
  }
  return qkv.as_strided({a.kv_heads, group, length, a.head_dim}, {a.head_dim, 0, row, 1}, offset);
}

// The heads' outputs of one segment, [K, G, L, D], as a view of o_T(HD).
at::Tensor OutputOf(const Attention& a, const at::Tensor& o, int64_t begin, int64_t length) {
  const int64_t group = a.heads / a.kv_heads;
  return o.as_strided({a.kv_heads, group, length, a.head_dim},
                      {group * a.head_dim, a.head_dim, o.stride(0), 1},
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

bool NeedsScores(const Attention& a) { return a.softcap > 0 || a.sinks.defined(); }

std::optional<at::Tensor> WindowMask(const Attention& a, int64_t length,
                                     const at::TensorOptions& options) {
  if (a.window <= 0 || length <= a.window) return std::nullopt;
  return Mask(length, length, a.window, options);
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

struct SegmentResult {
  at::Tensor out;  // [K, G, L, D]
  at::Tensor lse;  // undefined on the path through scores
};

SegmentResult SegmentForward(const Attention& a, const at::Tensor& qkv, int64_t begin,
                             int64_t length) {
  const at::Tensor q = HeadsOf(a, qkv, Part::kQ, begin, length);
  const at::Tensor k = HeadsOf(a, qkv, Part::kK, begin, length);
  const at::Tensor v = HeadsOf(a, qkv, Part::kV, begin, length);
  if (NeedsScores(a) || !qkv.device().is_cpu()) {
    return {ThroughScores(a, q, k, v, a.sinks), at::Tensor()};
  }
  const auto mask = WindowMask(a, length, qkv.options());
  auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, !mask.has_value(),
                                                                    mask, a.scale);
  return {out, lse};
}

// Adds the segment's gradients into d_TW.
void SegmentBackward(const Attention& a, const at::Tensor& qkv, const at::Tensor& o,
                     const at::Tensor& d_o, const at::Tensor& lse, int64_t begin, int64_t length,
                     at::Tensor& d) {
  at::Tensor q = HeadsOf(a, qkv, Part::kQ, begin, length);
  at::Tensor k = HeadsOf(a, qkv, Part::kK, begin, length);
  at::Tensor v = HeadsOf(a, qkv, Part::kV, begin, length);
  const at::Tensor d_out = OutputOf(a, d_o, begin, length);
  at::Tensor dq, dk, dv;
  if (lse.defined()) {
    const auto mask = WindowMask(a, length, qkv.options());
    std::tie(dq, dk, dv) = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        d_out, q, k, v, OutputOf(a, o, begin, length), lse, 0.0, !mask.has_value(), mask, a.scale);
  } else {
    at::AutoGradMode enable(true);
    q = q.detach().requires_grad_(true);
    k = k.detach().requires_grad_(true);
    v = v.detach().requires_grad_(true);
    at::Tensor sinks;
    variable_list inputs = {q, k, v};
    if (a.sinks.defined()) {
      sinks = a.sinks.detach().requires_grad_(true);
      inputs.push_back(sinks);
    }
    const variable_list grads =
        torch::autograd::grad({ThroughScores(a, q, k, v, sinks)}, inputs, {d_out});
    dq = grads[0];
    dk = grads[1];
    dv = grads[2];
    if (a.sinks_grad != nullptr) a.sinks_grad->grad.add_(grads[3].to(at::kFloat));
  }
  HeadsOf(a, d, Part::kQ, begin, length).copy_(dq);
  HeadsOf(a, d, Part::kK, begin, length).select(1, 0).copy_(dk.sum(1));
  HeadsOf(a, d, Part::kV, begin, length).select(1, 0).copy_(dv.sum(1));
}

struct AttentionFunction : torch::autograd::Function<AttentionFunction> {
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const Attention* a,
                            const RopeTable* rope, const SegmentStarts* starts) {
    const bool keep = ChangesBeforeRotation(*a);
    const at::Tensor prepared = Prepare(*a, qkv, rope, keep);
    at::Tensor o = at::empty({qkv.size(0), a->heads * a->head_dim}, qkv.options());
    variable_list saved = {qkv, o};
    if (rope != nullptr) {
      saved.push_back(rope->cos);
      saved.push_back(rope->sin);
    }
    for (size_t i = 0; i + 1 < starts->size(); ++i) {
      const int64_t begin = (*starts)[i];
      const int64_t length = (*starts)[i + 1] - begin;
      SegmentResult result = SegmentForward(*a, prepared, begin, length);
      OutputOf(*a, o, begin, length).copy_(result.out);
      saved.push_back(result.lse);
    }
    ctx->save_for_backward(std::move(saved));
    ctx->saved_data["attention"] = reinterpret_cast<int64_t>(a);
    ctx->saved_data["starts"] = *starts;
    ctx->saved_data["rope"] = rope != nullptr;
    return o;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& a = *reinterpret_cast<const Attention*>(ctx->saved_data["attention"].toInt());
    const std::vector<int64_t> starts = ctx->saved_data["starts"].toIntVector();
    const bool rotated = ctx->saved_data["rope"].toBool();
    RopeTable table;
    if (rotated) table = {saved[2], saved[3]};
    const RopeTable* rope = rotated ? &table : nullptr;
    const size_t first_lse = rotated ? 4 : 2;
    const at::Tensor& qkv = saved[0];
    const at::Tensor prepared =
        ChangesBeforeRotation(a) ? Prepare(a, qkv, rope, /*keep=*/true) : qkv;
    const at::Tensor d_o = grads[0].contiguous();
    at::Tensor d = at::empty_like(qkv);
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      SegmentBackward(a, prepared, saved[1], d_o, saved[first_lse + i], starts[i],
                      starts[i + 1] - starts[i], d);
    }
    PrepareBackward(a, qkv, rope, d);
    return {d, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor ApplyAttention(const Attention& attention, at::Tensor qkv, const RopeTable* rope,
                          const SegmentStarts& starts) {
  return AttentionFunction::apply(qkv, &attention, attention.rope < 0 ? nullptr : rope, &starts);
}

at::Tensor AttendCached(const Attention& a, at::Tensor qkv, const RopeTable* rope,
                        LayerCache& cache, int64_t length) {
  const int64_t tokens = qkv.size(0);
  const int64_t total = length + tokens;
  const at::Tensor prepared = Prepare(a, std::move(qkv), rope, false);
  cache.k.narrow(0, length, tokens).copy_(Slice(a, prepared, Part::kK));
  cache.v.narrow(0, length, tokens).copy_(Slice(a, prepared, Part::kV));
  const auto heads = [&](const at::Tensor& x) {
    return x.narrow(0, 0, total).view({total, a.kv_heads, 1, a.head_dim}).permute({1, 2, 0, 3});
  };
  const at::Tensor q = HeadsOf(a, prepared, Part::kQ, 0, tokens);
  at::Tensor out;
  if (length == 0 && !NeedsScores(a) && prepared.device().is_cpu()) {
    out = SegmentForward(a, prepared, 0, tokens).out;
  } else {
    out = ThroughScores(a, q, heads(cache.k), heads(cache.v), a.sinks);
  }
  at::Tensor o = at::empty({tokens, a.heads * a.head_dim}, prepared.options());
  OutputOf(a, o, 0, tokens).copy_(out);
  return o;
}

}  // namespace graft::model
