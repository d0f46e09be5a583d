#include "worker/model/latent_attention.h"

namespace graft::model {

at::Tensor LatentQkv(const LatentAttention& a, const at::Tensor& first, const PassState& pass) {
  const int64_t tokens = first.size(0);
  at::Tensor q = first.narrow(1, 0, a.q_width).contiguous();
  if (!a.q_b.parts.empty()) q = ApplyLinear(a.q_b, q, {}, pass);
  const at::Tensor latent = first.narrow(1, a.q_width, a.kv_width).contiguous();
  const at::Tensor kv =
      ApplyLinear(a.kv_b, latent, {}, pass).view({tokens, a.heads, a.nope_dim + a.value_dim});
  const at::Tensor rotated = first.narrow(1, a.q_width + a.kv_width, a.rope_dim)
                                 .unsqueeze(1)
                                 .expand({tokens, a.heads, a.rope_dim});
  const at::Tensor k = at::cat({kv.narrow(2, 0, a.nope_dim), rotated}, 2).view({tokens, -1});
  const at::Tensor v = kv.narrow(2, a.nope_dim, a.value_dim).reshape({tokens, -1});
  return at::cat({q, k, v}, 1);
}

}  // namespace graft::model
