// Multi-head latent attention's way to q, k and v: through two narrow projections, with one rotated
// key that all heads share. What comes out is a fused qkv as of any other attention.
//
// Legend: T tokens, H heads, N qk_nope_dim, R qk_rope_dim, E value_dim, D = N + R.
#pragma once

#include <ATen/ATen.h>

#include "worker/model/linear.h"

namespace graft::model {

struct LatentAttention {
  int64_t heads = 0;
  int64_t nope_dim = 0;
  int64_t rope_dim = 0;
  int64_t value_dim = 0;
  int64_t q_width = 0;   // of q's part of the first projection: the latent, or all of q
  int64_t kv_width = 0;  // of the latent of k and v
  LinearGroup q_b;       // its norm in front; parts are empty where q has no latent
  LinearGroup kv_b;      // likewise
};

// qkv_TW = [H D, H D, H E] from `first` = [q or its latent, latent of k and v, rotated key].
at::Tensor LatentQkv(const LatentAttention& latent, const at::Tensor& first, const PassState& pass);

}  // namespace graft::model
