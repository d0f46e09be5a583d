// Attention where the batch is cut over ranks (context.h): own queries, and the keys and values of
// one rank after the other. A row's outputs over some of the keys and the logarithm of their sum
// are enough to join them with those over the others, so no rank ever holds more than its own rows
// and those of one other.
#pragma once

#include <ATen/ATen.h>

#include <memory>

#include "worker/model/attention.h"
#include "worker/model/context.h"

namespace graft::model {

// As ApplyAttention (attention.h), of this rank's rows.
at::Tensor ApplyContextAttention(const Attention& attention, const at::Tensor& qkv_RW,
                                 const RopeTable* rope,
                                 const std::shared_ptr<const ContextCut>& context);

}  // namespace graft::model
