// Attention by the flash kernels that libtorch brings for GPUs, over all segments of a batch at
// once. They know no sinks; these are added behind: a sink takes a share of each query's sum, which
// changes the outputs by a factor and the logarithm of the sum by an addend, and with both of these
// changed the kernel's own backward gives the right gradients.
//
// Legend: as attention.h.
#pragma once

#include <ATen/ATen.h>

#include "worker/model/attention.h"

namespace graft::model {

// What a backward needs of the forward beside inputs and outputs.
struct FlashState {
  at::Tensor lse;           // fp32 [H, T]: the logarithm of each query's sum
  at::Tensor seed, offset;  // of the kernel's dropout, which is off; it wants them back
};

// Whether the kernels take it: 16 bits on a GPU, heads of equal width up to 256, no soft cap.
bool OnFlash(const Attention& attention, const at::Tensor& qkv_TW);

at::Tensor FlashForward(const Attention& attention, const at::Tensor& qkv_TW,
                        const SegmentStarts& starts, FlashState* state);
// The gradient of qkv; those of sinks are added to their entry.
at::Tensor FlashBackward(const Attention& attention, const at::Tensor& qkv_TW,
                         const at::Tensor& o_THE, const FlashState& state,
                         const at::Tensor& d_o_THE, const SegmentStarts& starts);

// Outputs [T, H E] and logarithms [H, T] without sinks become those with them.
void AddSinks(const at::Tensor& sinks_H, at::Tensor& o, at::Tensor& lse);
// The gradient of the sinks, [H] of lse's type, from what AddSinks made and the outputs' gradient.
at::Tensor SinkGradients(const at::Tensor& sinks_H, const at::Tensor& o, const at::Tensor& lse,
                         const at::Tensor& d_o);

}  // namespace graft::model
