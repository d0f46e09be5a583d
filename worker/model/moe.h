// A mixture of experts in place of an MLP: a router gives each token to a few experts, whose
// answers are weighted and added; some families have a shared expert that every token passes.
//
// Routing is deterministic: tokens stand in their own order within an expert, and experts add to a
// token in the order of their numbers. Each expert is a pair of LinearGroups, so that LoRA, biases,
// dropout and trained weights are those of any other linear.
//
// Legend: T tokens, H hidden, E experts, k experts of a token, F inside of an expert.
#pragma once

#include <ATen/ATen.h>

#include <deque>

#include "worker/model/linear.h"
#include "worker/model/norm.h"
#include "worker/spec/decoder_spec.h"

namespace graft::model {

struct MoeBlock {
  const spec::MoeSpec* spec = nullptr;
  Norm norm;  // in front of everything here
  LinearGroup router;
  at::Tensor correction_bias;       // [E], for the choice alone; never trained by gradients
  std::deque<LinearGroup> gate_up;  // of each expert
  std::deque<LinearGroup> down;     // without its bias, which the router's weight scales too
  at::Tensor down_bias;             // [E, H], or undefined
  Trained* down_bias_grad = nullptr;
  bool has_shared = false;
  LinearGroup shared_gate_up;
  LinearGroup shared_down;
  LinearGroup shared_gate;  // of one row; parts are empty where the spec has none
  // Where the block is divided over ranks. `tensor`: tokens come and go cut, the inside of every
  // expert is cut. `exchange`: `gate_up` and `down` are some of the experts, the others' tokens go
  // to their ranks.
  Exchange* tensor = nullptr;
  ExpertExchange* exchange = nullptr;

  // Views of stacked tensors for each expert: what the groups above point to.
  std::deque<Trained> views;
  // The stacked tensors [E, out, in].
  at::Tensor gate_up_weight, gate_up_bias, down_weight;
};

// What the load-balancing loss of the routers needs over all layers of one pass:
//   coefficient * E * sum_e (share of choices)_e * (mean probability)_e
// as transformers has it. Filled by the forward; the backward of each layer reads it, when all
// layers have run. Where ranks have layers or tokens of their own, their sums are added in between.
struct RouterBalance {
  double coefficient = 0;
  double gradient_scale = 1;  // as LossTargets has it
  at::Tensor real;            // fp32 [T, 1], 0 for tokens that are filler; undefined: none is
  at::Tensor choices;         // fp32 [E], how often each expert was chosen
  at::Tensor probabilities;   // fp32 [E], summed over tokens and layers
  int64_t rows = 0;           // tokens x layers

  double Loss() const;
  // Choices, probabilities and rows as fp64 [2 E + 1], of no layer as well; and back.
  at::Tensor Sums(int64_t experts, at::Device device) const;
  void Take(const at::Tensor& sums);
};

// y_TH from x_TH, without the residual.
at::Tensor ApplyMoe(const MoeBlock& block, const at::Tensor& x_TH, const PassState& pass);

}  // namespace graft::model
