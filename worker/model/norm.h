// RMSNorm and LayerNorm over the last dimension, with a backward that keeps one number per row.
//
// Legend: T tokens, H hidden.
#pragma once

#include <ATen/ATen.h>

#include "worker/model/division.h"
#include "worker/model/parameter_store.h"
#include "worker/spec/decoder_spec.h"

namespace graft::model {

// Weights may be undefined (a norm without them, or no norm at all: `present` false).
struct Norm {
  bool present = false;
  spec::NormSpec spec;
  at::Tensor weight;  // fp32 [H]
  at::Tensor bias;
  Trained* weight_grad = nullptr;  // nullptr: frozen
  Trained* bias_grad = nullptr;
  // Set where the normalised dimension is cut over tensor-parallel ranks (RMS alone): its width
  // over all of them, and how many ranks hold the same columns.
  Exchange* across = nullptr;
  int64_t whole_columns = 0;
  int64_t copies = 1;
};

// What the backward needs beside the input. `mean` only for LayerNorm.
struct NormStats {
  at::Tensor rstd;
  at::Tensor mean;
};

// y_TH from x_TH; no autograd.
at::Tensor NormForward(const Norm& norm, const at::Tensor& x_TH, NormStats* stats);
// The same y from the statistics.
at::Tensor NormAgain(const Norm& norm, const at::Tensor& x_TH, const NormStats& stats);
// dx_TH, and the weights' gradients added to theirs. May reuse the memory of dy_TH.
at::Tensor NormBackward(const Norm& norm, const at::Tensor& dy_TH, const at::Tensor& x_TH,
                        const NormStats& stats);

// With autograd.
at::Tensor ApplyNorm(const Norm& norm, const at::Tensor& x_TH);

}  // namespace graft::model
