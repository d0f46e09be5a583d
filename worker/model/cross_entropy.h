// The head and its loss in one: norm, projection to the vocabulary and cross entropy over the
// supervised rows alone, a chunk of rows at a time, so that the logits of a batch never exist.
// The gradient of x is made in the same pass (the denominator is known beforehand) and handed out
// by the backward.
//
// Legend: T tokens, N supervised ones, H hidden, V vocabulary.
#pragma once

#include <ATen/ATen.h>

#include <vector>

#include "worker/model/division.h"
#include "worker/model/linear.h"
#include "worker/model/norm.h"
#include "worker/model/parameter_store.h"

namespace graft::model {

struct Head {
  Norm norm;
  at::Tensor weight;  // [V, H]
  Trained* weight_grad = nullptr;
  Adapter adapter;  // its rank is 0 where there is none
  double logit_scale = 1;
  double logit_softcap = 0;
  // Tensor parallelism: `weight` holds the vocabulary's rows from `vocab_begin`, and x is cut by
  // tokens.
  Exchange* exchange = nullptr;
  int64_t vocab_begin = 0;
};

struct LossTargets {
  std::vector<int64_t> rows;     // which rows of x are supervised, ascending
  std::vector<int64_t> targets;  // their classes
  double denominator = 1;        // of the whole optimizer step
  double gradient_scale = 1;     // of every gradient, and not of the loss: for fp16
  double label_smoothing = 0;    // share of each target that goes to all of the vocabulary alike
};

// Sum of cross entropies over `rows` (of all tokens, also where x is cut) / denominator, as a
// scalar of fp64 in `loss`; the return value is a scalar tensor whose backward() starts the
// backward pass (its gradient must be 1).
at::Tensor HeadLoss(const Head& head, const at::Tensor& x_TH, const LossTargets& targets,
                    double* loss);

// Logits of all given rows, [T, V] in fp32; no gradients.
at::Tensor HeadLogits(const Head& head, const at::Tensor& x_TH);

}  // namespace graft::model
