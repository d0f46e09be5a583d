#include "worker/model/attention_flash.h"

#include <algorithm>
#include <tuple>

namespace graft::model {
namespace {

constexpr int64_t kMostHeadDim = 256;
constexpr int64_t kHeadDimStep = 8;

// q, k and v as [T, heads, D], views of qkv.
struct Heads {
  at::Tensor q, k, v;
  Heads(const Attention& a, const at::Tensor& qkv) {
    const int64_t tokens = qkv.size(0), d = a.head_dim;
    q = qkv.narrow(1, 0, a.heads * d).view({tokens, a.heads, d});
    k = qkv.narrow(1, a.heads * d, a.kv_heads * d).view({tokens, a.kv_heads, d});
    v = qkv.narrow(1, (a.heads + a.kv_heads) * d, a.kv_heads * d).view({tokens, a.kv_heads, d});
  }
};

struct FlashSegments {
  at::Tensor offsets;  // int32 on the device
  int64_t longest = 0;
  FlashSegments(const SegmentStarts& starts, at::Device device) {
    offsets = at::tensor(at::ArrayRef<int64_t>(starts), at::kLong).to(device, at::kInt);
    for (size_t i = 0; i + 1 < starts.size(); ++i) {
      longest = std::max(longest, starts[i + 1] - starts[i]);
    }
  }
};

// Keys that a query sees to its left; -1: all.
int64_t Left(const Attention& a) { return a.window > 0 ? a.window - 1 : -1; }

}  // namespace

bool OnFlash(const Attention& a, const at::Tensor& qkv) {
  const bool half = qkv.scalar_type() == at::kBFloat16 || qkv.scalar_type() == at::kHalf;
  return qkv.is_cuda() && half && a.softcap == 0 && a.head_dim == a.value_dim &&
         a.head_dim <= kMostHeadDim && a.head_dim % kHeadDimStep == 0;
}

void AddSinks(const at::Tensor& sinks, at::Tensor& o, at::Tensor& lse) {
  const auto type = lse.scalar_type();
  const at::Tensor s = sinks.to(type).unsqueeze(1);
  const at::Tensor share_HT = at::sigmoid(lse - s);
  const int64_t heads = lse.size(0), tokens = lse.size(1);
  o = (o.view({tokens, heads, -1}).to(type) * share_HT.t().unsqueeze(2))
          .to(o.scalar_type())
          .view(o.sizes());
  lse = at::logaddexp(lse, s.expand_as(lse));
}

at::Tensor SinkGradients(const at::Tensor& sinks, const at::Tensor& o, const at::Tensor& lse,
                         const at::Tensor& d_o) {
  const auto type = lse.scalar_type();
  const int64_t heads = lse.size(0), tokens = lse.size(1);
  const at::Tensor pull_TH = (o.to(type) * d_o.to(type)).view({tokens, heads, -1}).sum(2);
  return -(at::exp(sinks.to(type).unsqueeze(1) - lse) * pull_TH.t()).sum(1);
}

at::Tensor FlashForward(const Attention& a, const at::Tensor& qkv, const SegmentStarts& starts,
                        FlashState* state) {
  const Heads heads(a, qkv);
  const FlashSegments segments(starts, qkv.device());
  at::Tensor o, unused;
  std::tie(o, state->lse, state->seed, state->offset, unused) = at::_flash_attention_forward(
      heads.q, heads.k, heads.v, segments.offsets, segments.offsets, segments.longest,
      segments.longest, /*dropout_p=*/0.0, /*is_causal=*/true, /*return_debug_mask=*/false, a.scale,
      Left(a), a.window > 0 ? std::optional<int64_t>(0) : std::optional<int64_t>(-1));
  o = o.reshape({qkv.size(0), a.out_width()});
  if (a.sinks.defined()) AddSinks(a.sinks, o, state->lse);
  return o;
}

at::Tensor FlashBackward(const Attention& a, const at::Tensor& qkv, const at::Tensor& o,
                         const FlashState& state, const at::Tensor& d_o,
                         const SegmentStarts& starts) {
  const Heads heads(a, qkv);
  const FlashSegments segments(starts, qkv.device());
  const std::vector<int64_t> shape = {qkv.size(0), a.heads, a.value_dim};
  const auto [dq, dk, dv] = at::_flash_attention_backward(
      d_o.view(shape), heads.q, heads.k, heads.v, o.view(shape), state.lse, segments.offsets,
      segments.offsets, segments.longest, segments.longest, /*dropout_p=*/0.0, /*is_causal=*/true,
      state.seed, state.offset, a.scale, Left(a),
      a.window > 0 ? std::optional<int64_t>(0) : std::optional<int64_t>(-1));
  if (a.sinks_grad != nullptr) {
    a.sinks_grad->grad.add_(SinkGradients(a.sinks, o, state.lse, d_o));
  }
  return at::cat(
      {dq.reshape({qkv.size(0), -1}), dk.reshape({qkv.size(0), -1}), dv.reshape({qkv.size(0), -1})},
      1);
}

}  // namespace graft::model
