#include "worker/model/attention_prepare.h"

#include <utility>

#include "worker/model/accelerator.h"
#include "worker/model/kernels.h"
#include "worker/model/rows.h"

namespace graft::model {

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

namespace {

// q and k of qkv turned in place; sign -1 turns them back.
void RotateInPlace(const Attention& a, at::Tensor& qkv, const RopeTable* rope, float sign) {
  if (rope == nullptr || a.rope < 0) return;
  const int64_t width = qkv.size(1);
  const int64_t half = rope->half();
  const kernels::RopeLayout layout = {width, a.heads + a.kv_heads, a.head_dim, half,
                                      a.rope_interleaved};
  if (OnKernels(qkv)) {
    ForRows(qkv.size(0), width, [&](int64_t begin, int64_t end) {
      kernels::Rope(qkv.mutable_data_ptr<float>() + begin * width + a.rope_offset, layout,
                    rope->cos.const_data_ptr<float>() + begin * half,
                    rope->sin.const_data_ptr<float>() + begin * half, sign, end - begin);
    });
    return;
  }
  if (const DeviceKernels* device = KernelsFor(qkv)) {
    device->Rope(qkv, layout, a.rope_offset, rope->cos, rope->sin, sign);
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

}  // namespace

bool ChangesBeforeRotation(const Attention& a) {
  return a.qk_norm != spec::QkNorm::kNone || a.clip_qkv > 0;
}

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

}  // namespace graft::model
