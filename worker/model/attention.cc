#include "worker/model/attention.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <limits>

#include "base/check.h"
#include "worker/model/attention_flash.h"
#include "worker/model/attention_kernel.h"
#include "worker/model/kernels.h"
#include "worker/model/rows.h"

namespace graft::model {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

enum class Part { kQ, kK, kV };

int64_t PartHeads(const Attention& a, Part part) { return part == Part::kQ ? a.heads : a.kv_heads; }

int64_t PartDim(const Attention& a, Part part) {
  return part == Part::kV ? a.value_dim : a.head_dim;
}

int64_t PartBegin(const Attention& a, Part part) {
  if (part == Part::kQ) return 0;
  return (part == Part::kK ? a.heads : a.heads + a.kv_heads) * a.head_dim;
}

at::Tensor Slice(const Attention& a, const at::Tensor& qkv, Part part) {
  return qkv.narrow(1, PartBegin(a, part), PartHeads(a, part) * PartDim(a, part));
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

AttentionShape ShapeOf(const Attention& a) {
  return {.heads = a.heads,
          .kv_heads = a.kv_heads,
          .head_dim = a.head_dim,
          .value_dim = a.value_dim,
          .scale = static_cast<float>(a.scale),
          .softcap = static_cast<float>(a.softcap),
          .window = a.window,
          .sinks = a.sinks.defined() ? a.sinks.const_data_ptr<float>() : nullptr};
}

template <typename Float>
HeadRows<Float> PartRows(const Attention& a, Float* qkv, Part part) {
  return {qkv + PartBegin(a, part), a.width()};
}

AttentionInputs InputsOf(const Attention& a, const at::Tensor& qkv) {
  const auto* data = qkv.const_data_ptr<float>();
  return {PartRows(a, data, Part::kQ), PartRows(a, data, Part::kK), PartRows(a, data, Part::kV)};
}

std::vector<AttentionSegment> SegmentsOf(const SegmentStarts& starts) {
  std::vector<AttentionSegment> segments;
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int64_t length = starts[i + 1] - starts[i];
    segments.push_back({starts[i], length, starts[i], length});
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

// The same where the batch is cut over ranks: own queries, everybody's keys and values. The early
// and the late pieces of a segment see overlapping keys, so their gradients are made apart.
struct ContextAttentionFunction : torch::autograd::Function<ContextAttentionFunction> {
  struct Held : torch::CustomClassHolder {
    explicit Held(std::shared_ptr<const ContextCut> cut) : cut(std::move(cut)) {}
    std::shared_ptr<const ContextCut> cut;  // shared with the batch, which may die before the graph
  };

  static std::vector<AttentionSegment> Segments(const std::vector<ContextCut::Piece>& pieces) {
    std::vector<AttentionSegment> segments;
    for (const ContextCut::Piece& p : pieces) {
      segments.push_back({p.row, p.count, p.segment, p.token + p.count - p.segment});
    }
    return segments;
  }

  static int64_t KvBegin(const Attention& a) { return PartBegin(a, Part::kK); }
  static int64_t KvWidth(const Attention& a) { return a.width() - KvBegin(a); }

  // Keys and values of all tokens, [T, K D + K E].
  static at::Tensor Gathered(const Attention& a, const at::Tensor& prepared,
                             const ContextCut& cut) {
    return GatherTokens(cut, prepared.narrow(1, KvBegin(a), KvWidth(a)), "keys and values");
  }

  static AttentionInputs Inputs(const Attention& a, const at::Tensor& prepared,
                                const at::Tensor& kv) {
    const auto* all = kv.const_data_ptr<float>();
    return {PartRows(a, prepared.const_data_ptr<float>(), Part::kQ),
            {all, kv.size(1)},
            {all + PartBegin(a, Part::kV) - KvBegin(a), kv.size(1)}};
  }

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& qkv, const Attention* a,
                            const RopeTable* rope, const std::shared_ptr<const ContextCut>* cut) {
    GRAFT_CHECK(OnKernels(qkv)) << "a batch that is cut over ranks is computed in fp32 on a CPU";
    const at::Tensor prepared = Prepare(*a, qkv, rope, /*keep=*/ChangesBeforeRotation(*a));
    const at::Tensor kv = Gathered(*a, prepared, **cut);
    const int64_t rows = qkv.size(0);
    at::Tensor o = at::zeros({rows, a->out_width()}, qkv.options());
    at::Tensor lse = at::zeros({a->heads, rows}, qkv.options());
    for (const auto* pieces : {&(*cut)->early, &(*cut)->late}) {
      AttentionForward(ShapeOf(*a), Segments(*pieces), Inputs(*a, prepared, kv),
                       {o.mutable_data_ptr<float>(), a->out_width()}, lse.mutable_data_ptr<float>(),
                       rows);
    }
    const at::Tensor none;
    ctx->save_for_backward(
        {qkv, o, lse, rope == nullptr ? none : rope->cos, rope == nullptr ? none : rope->sin});
    ctx->saved_data["attention"] = reinterpret_cast<int64_t>(a);
    ctx->saved_data["cut"] = c10::IValue::make_capsule(c10::make_intrusive<Held>(*cut));
    return o;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto& a = *reinterpret_cast<const Attention*>(ctx->saved_data["attention"].toInt());
    const auto held = ctx->saved_data["cut"].toCapsule();
    const ContextCut& cut = *static_cast<const Held&>(*held).cut;
    const RopeTable table = {saved[3], saved[4]};
    const RopeTable* rope = table.cos.defined() ? &table : nullptr;
    const at::Tensor& qkv = saved[0];
    const at::Tensor prepared =
        ChangesBeforeRotation(a) ? Prepare(a, qkv, rope, /*keep=*/true) : qkv;
    const at::Tensor kv = Gathered(a, prepared, cut);
    const at::Tensor d_o = grads[0].contiguous();
    at::Tensor d = at::zeros_like(qkv);
    at::Tensor d_kv = at::zeros_like(kv);
    std::vector<double> d_sinks(a.sinks_grad != nullptr ? a.heads : 0);
    for (const auto* pieces : {&cut.early, &cut.late}) {
      at::Tensor part = at::zeros_like(kv);
      float* to = part.mutable_data_ptr<float>();
      AttentionBackward(ShapeOf(a), Segments(*pieces), Inputs(a, prepared, kv),
                        {saved[1].const_data_ptr<float>(), a.out_width()},
                        {d_o.const_data_ptr<float>(), a.out_width()},
                        saved[2].const_data_ptr<float>(), qkv.size(0),
                        {PartRows(a, d.mutable_data_ptr<float>(), Part::kQ),
                         {to, kv.size(1)},
                         {to + PartBegin(a, Part::kV) - KvBegin(a), kv.size(1)},
                         d_sinks.empty() ? nullptr : d_sinks.data()});
      d_kv.add_(part);
    }
    if (a.sinks_grad != nullptr) {
      a.sinks_grad->grad.add_(at::tensor(at::ArrayRef<double>(d_sinks), at::kFloat));
    }
    d.narrow(1, KvBegin(a), KvWidth(a))
        .copy_(SumScatterTokens(cut, d_kv, "gradients of keys and values"));
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
    return ContextAttentionFunction::apply(qkv, &attention, rope, &context);
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
    AttentionForward(ShapeOf(a), {{0, tokens, 0, total}}, in,
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
