// Causal attention over fp32 rows in CPU memory: blocks of queries against all the keys that they
// may see, by MKL's products and the rows of kernels.h. A head's scores exist for one block at a
// time; the backward makes them again. Grouped heads, windows, softcaps and sinks included; values
// may be narrower or wider than keys.
//
// Deterministic: heads and segments are shared among threads as whole tasks that add to nothing in
// common.
//
// Legend: T tokens, H heads, K heads of k and v, D head_dim, E value_dim.
#pragma once

#include <cstdint>
#include <vector>

namespace graft::model {

struct AttentionShape {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t value_dim = 0;
  float scale = 1;
  float softcap = 0;             // 0: none
  int64_t window = 0;            // 0: all
  const float* sinks = nullptr;  // [H], or none
};

// Rows of heads: head h of token t begins at data + t * stride + h * width of a head.
template <typename Float>
struct HeadRows {
  Float* data = nullptr;
  int64_t stride = 0;
};

// Queries and keys that belong together. Query i stands at the place of key `place` + i, counted
// from the first of these keys, and sees that key and those before: all of them where it stands
// behind the last, none where it stands before the first.
struct AttentionSegment {
  int64_t query_begin = 0;
  int64_t queries = 0;
  int64_t key_begin = 0;
  int64_t keys = 0;
  int64_t place = 0;
};

struct AttentionInputs {
  HeadRows<const float> q;  // T x H x D
  HeadRows<const float> k;  // T x K x D
  HeadRows<const float> v;  // T x K x E
};

// o: T x H x E; lse: the logarithm of each query's sum, [H, lse_stride]; -infinity where it sees
// nothing.
void AttentionForward(const AttentionShape& shape, const std::vector<AttentionSegment>& segments,
                      const AttentionInputs& in, HeadRows<float> o, float* lse, int64_t lse_stride);

struct AttentionGradients {
  HeadRows<float> q, k, v;  // written, not added to
  double* sinks = nullptr;  // [H], added to; or none
};
void AttentionBackward(const AttentionShape& shape, const std::vector<AttentionSegment>& segments,
                       const AttentionInputs& in, HeadRows<const float> o,
                       HeadRows<const float> d_o, const float* lse, int64_t lse_stride,
                       const AttentionGradients& out);

}  // namespace graft::model
