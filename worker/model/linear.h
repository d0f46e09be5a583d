// One matrix product for several linears that read the same input (q, k and v; gate and up), with
// LoRA beside them, a norm in front and a residual behind, and a hand-written backward:
//
//   y_TO = norm(x_TH) W_OH^T + bias + sum over adapters of scale * dropout(norm(x)) A^T B^T +
//   residual
//
// What is kept for the backward is x itself, a number per row of the norm, and the adapters' inner
// rows; norm(x) is made again. No gradient of a frozen weight is formed. Gradients of trained
// tensors are added in place to their Trained entry, so accumulating micro-batches costs no copy.
//
// Life cycle: filled by group_build.cc, then constant but for the numbers. Must outlive every
// graph that it took part in.
//
// Legend: T tokens, H inputs, O outputs of all parts, R ranks of all adapters, r rank of one.
#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "worker/model/division.h"
#include "worker/model/norm.h"
#include "worker/model/parameter_store.h"
#include "worker/model/quantized.h"

namespace graft::model {

// An adapter over some of the group's rows.
struct Adapter {
  std::string module;  // in the Hub layout: "model.layers.0.self_attn.q_proj"
  int64_t rank = 0;
  double scale = 0;
  Trained* a = nullptr;          // [r, H]
  Trained* b = nullptr;          // [out, r]
  Trained* magnitude = nullptr;  // [out], DoRA alone
  // Where B's rows go. In order; one piece unless a fused module spreads over the group.
  struct Rows {
    int64_t group_begin;
    int64_t b_begin;
    int64_t count;
  };
  std::vector<Rows> rows;
};

struct LinearGroup {
  struct Part {
    std::string name;  // canonical: "layers.0.attn.q"
    int64_t begin = 0;
    int64_t rows = 0;
  };

  int64_t in = 0;
  int64_t out = 0;
  std::vector<Part> parts;
  at::Tensor weight;       // [O, H], fp32 or what it is kept in
  QuantizedMatrix blocks;  // instead of `weight`, where the base stays quantised
  at::Tensor bias;         // [O] fp32, or undefined
  Norm norm;               // in front; may be absent
  std::vector<Adapter> adapters;
  // The adapters' A one after another, [R, H]; undefined where they do not lie so in the store.
  at::Tensor joined_a;
  at::Tensor joined_a_grad;
  double dropout = 0;  // of the adapters' input
  uint64_t layer = 0;  // makes the dropout of two groups differ
  // Tensor parallelism. `gather`: the input comes cut by tokens and is gathered behind the norm.
  // `scatter`: the product is a partial sum; the ranks' sum is handed back cut by tokens, and bias
  // and residual are added to that. `whole_in` is the width of the input over all ranks.
  Exchange* gather = nullptr;
  Exchange* scatter = nullptr;
  int64_t whole_in = 0;
  int64_t in_begin = 0;  // of this rank's columns among them
  // All of it, when the group is trained in full: `weight` is then a view of the store.
  Trained* weight_grad = nullptr;
  Trained* bias_grad = nullptr;
  // Rows of the bias that stay as they are although `bias_grad` is there: of linears that have no
  // adapter, where the biases of adapted ones alone are trained.
  std::vector<std::pair<int64_t, int64_t>> frozen_bias;  // begin, count
};

struct RouterBalance;  // moe.h

// What differs from one pass to the next.
struct PassState {
  bool training = false;      // dropout applies
  uint64_t dropout_seed = 0;  // of this micro-batch; masks are made from it again in the backward
  RouterBalance* balance = nullptr;  // where the routers' load-balancing loss is wanted
  bool count_balance = true;         // false where a forward runs for the second time
};

// The weight in the type of the computation: itself, or widened for this one use.
at::Tensor WideWeight(const LinearGroup& group, at::ScalarType type);

// `residual` may be undefined. With gradients enabled the graph keeps x (and not the residual).
at::Tensor ApplyLinear(const LinearGroup& group, const at::Tensor& x_TH, const at::Tensor& residual,
                       const PassState& pass);

// The halves of it, for functions that fuse more around (mlp.cc). `kept` is what the backward needs
// of the forward: the adapters' inner rows [T, R], undefined without adapters.
at::Tensor LinearForward(const LinearGroup& group, const at::Tensor& x_TH,
                         const at::Tensor& residual, const PassState& pass, at::Tensor* kept_TR);
// dx_TH (undefined unless `need_dx`) with x as LinearForward got it.
at::Tensor LinearBackward(const LinearGroup& group, const at::Tensor& dy_TO, const at::Tensor& x_TH,
                          const at::Tensor& kept_TR, const PassState& pass, bool need_dx);

}  // namespace graft::model
