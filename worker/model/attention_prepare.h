// What the kinds of attention (attention.cc, context_attention.cc) share: where q, k and v stand in
// the fused projection, and what happens to them before they meet: norms, clipping, rotation.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>

#include "worker/model/attention.h"
#include "worker/model/attention_kernel.h"

namespace graft::model {

enum class Part { kQ, kK, kV };

int64_t PartHeads(const Attention& a, Part part);
int64_t PartDim(const Attention& a, Part part);
// Its first column in a row of qkv.
int64_t PartBegin(const Attention& a, Part part);
at::Tensor Slice(const Attention& a, const at::Tensor& qkv, Part part);

// Whether anything but the rotation, which can be undone, changes q and k.
bool ChangesBeforeRotation(const Attention& a);
// qkv as the scores see it. In place unless `keep`. `rope` may be null.
at::Tensor Prepare(const Attention& a, at::Tensor qkv, const RopeTable* rope, bool keep);
// From the gradient of the prepared qkv to that of the original one, in place.
void PrepareBackward(const Attention& a, const at::Tensor& original, const RopeTable* rope,
                     at::Tensor& d);

AttentionShape ShapeOf(const Attention& a);

template <typename Float>
HeadRows<Float> PartRows(const Attention& a, Float* qkv, Part part) {
  return {qkv + PartBegin(a, part), a.width()};
}

}  // namespace graft::model
