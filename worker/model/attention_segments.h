// What attention_kernel.h does, by ATen's operations on whatever device the rows lie on, in
// whatever type: the scores of a block of queries at a time. Products are of the rows' own type,
// what stands between them is of SumType. Sinks are the caller's business (attention_flash.h).
//
// Legend: as attention.h.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "worker/model/attention.h"
#include "worker/model/attention_kernel.h"

namespace graft::model {

// fp32 of 16-bit rows, else the rows' own.
inline at::ScalarType SumType(const at::Tensor& rows) {
  return rows.element_size() < static_cast<int64_t>(sizeof(float)) ? at::kFloat
                                                                   : rows.scalar_type();
}

// Views, rows of heads.
struct SegmentRows {
  at::Tensor q;  // [T, H, D]
  at::Tensor k;  // [T, K, D]
  at::Tensor v;  // [T, K, E]
};

// Of rows that begin with q, and of rows of k and v alone; or of gradients of such.
SegmentRows SegmentRowsOf(const Attention& attention, const at::Tensor& q, const at::Tensor& kv);
// Of the fused projection.
SegmentRows SegmentRowsOf(const Attention& attention, const at::Tensor& qkv_TW);

// Writes the rows of the queries that see a key: o [T, H E], of any type, and lse [H, T] of
// SumType.
void SegmentsForward(const Attention& attention, const std::vector<AttentionSegment>& segments,
                     const SegmentRows& in, at::Tensor& o, at::Tensor& lse);
// Adds to the views in `d`. `o` and `lse` are those over all keys that a query sees.
void SegmentsBackward(const Attention& attention, const std::vector<AttentionSegment>& segments,
                      const SegmentRows& in, const at::Tensor& o, const at::Tensor& lse,
                      const at::Tensor& d_o, const SegmentRows& d);

}  // namespace graft::model
