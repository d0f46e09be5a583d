// Causal self-attention over a flat run of segments that must not see each other: what packing and
// padding-free batches need. From the fused projection of q, k and v to the heads' outputs, with
// the norms of q and k and the rotation inside, so that one tensor is kept for the backward.
//
// On CPUs in fp32, whatever the activations are: attention_kernel.h. On GPUs flash attention
// (attention_flash.h) where it takes the shape. Else ATen's operations, the scores of one segment
// at a time.
//
// Legend: T tokens, L tokens of a segment, H heads, K heads of k and v, G = H / K, D head_dim,
// E value_dim, W = (H + K) D + K E.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "worker/model/context.h"
#include "worker/model/norm.h"
#include "worker/spec/decoder_spec.h"

namespace graft::model {

struct Attention {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t value_dim = 0;  // of v and of the outputs
  double scale = 0;
  double softcap = 0;
  double clip_qkv = 0;
  int64_t window = 0;       // 0: all
  int rope = -1;            // index into the batch's tables; -1: not rotated
  int64_t rope_offset = 0;  // first rotated dimension of a head
  bool rope_interleaved = false;
  spec::QkNorm qk_norm = spec::QkNorm::kNone;
  Norm q_norm;
  Norm k_norm;
  at::Tensor sinks;  // [H], or undefined
  Trained* sinks_grad = nullptr;

  int64_t width() const { return (heads + kv_heads) * head_dim + kv_heads * value_dim; }
  int64_t out_width() const { return heads * value_dim; }
};

// cos and sin of every token of a batch, [T, half], with the attention factor applied.
struct RopeTable {
  at::Tensor cos;
  at::Tensor sin;
  int64_t half() const { return cos.size(1); }
};

// Offsets of the segments, the last one T.
using SegmentStarts = std::vector<int64_t>;

// o_T(HE) from qkv_TW. Takes qkv for its own: the caller must not use it again. `rope` may be null.
// With `context` the rows are this rank's of a batch that is cut over ranks (context.h).
at::Tensor ApplyAttention(const Attention& attention, at::Tensor qkv_TW, const RopeTable* rope,
                          const SegmentStarts& starts,
                          const std::shared_ptr<const ContextCut>& context = nullptr);

// What has been seen of one sequence by one layer.
struct LayerCache {
  at::Tensor k;  // [capacity, K D], rotated
  at::Tensor v;  // [capacity, K E]
};

// The same for tokens that go on from `length` cached ones; theirs are added to the cache. No
// gradients.
at::Tensor AttendCached(const Attention& attention, at::Tensor qkv_TW, const RopeTable* rope,
                        LayerCache& cache, int64_t length);

}  // namespace graft::model
