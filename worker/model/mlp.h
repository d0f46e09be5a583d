// The inside of an MLP and its way out: down(act(gate) * up) + residual, or down(act(up)) +
// residual. Only [gate, up] is kept for the backward; their product, as large again, is made anew.
//
// Legend: T tokens, F columns of the inside.
#pragma once

#include <ATen/ATen.h>

#include "worker/model/linear.h"
#include "worker/spec/decoder_spec.h"

namespace graft::model {

// act(gate) * up of [T, 2F], or act of [T, F], by ATen's own operations (with autograd).
at::Tensor Activate(const spec::MlpSpec& mlp, const at::Tensor& inner);

// The halves of that product without autograd; dy is of the product.
at::Tensor MlpProduct(const spec::MlpSpec& mlp, const at::Tensor& inner);
at::Tensor MlpProductBackward(const spec::MlpSpec& mlp, const at::Tensor& inner,
                              const at::Tensor& dy);

// `inner` is [T, 2F] with the gate first, or [T, F] where the MLP is not gated. `residual` may be
// undefined.
at::Tensor ApplyDown(const spec::MlpSpec& mlp, const LinearGroup& down, const at::Tensor& inner,
                     const at::Tensor& residual, const PassState& pass);

}  // namespace graft::model
