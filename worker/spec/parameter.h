// The parameters of a decoder by canonical name, and where each one's numbers stand on disk.
//
// Canonical names. A linear's weight is [out, in]; an experts' weight [experts, out, in]:
//   embed.weight [vocab, hidden]   positions.weight [context, hidden]
//   final_norm.weight|bias         head.weight [vocab, hidden] (absent where tied to embed)
//   layers.N.attn_norm.weight|bias       layers.N.attn_post_norm...
//   layers.N.mlp_norm...                 layers.N.mlp_post_norm...
//   layers.N.attn.{q,k,v,o}.weight|bias  layers.N.attn.{q_norm,k_norm}.weight
//   layers.N.attn.sinks [heads]
//   layers.N.attn.{q_a,q_a_norm,q_b,kv_a,kv_a_norm,kv_b}.weight       (latent attention; q_a and
//   kv_a
//                                                                      may have a bias)
//   layers.N.mlp.{gate,up,down}.weight|bias
//   layers.N.moe.router.weight|bias      layers.N.moe.router.correction_bias [experts]
//   layers.N.moe.experts.{gate,up,down}.weight|bias
//   layers.N.moe.shared.{gate,up,down}.weight    layers.N.moe.shared_gate.weight [1, hidden]
//
// Every parameter has two homes: `source`, where the files at hand hold it (safetensors or GGUF),
// and `hub`, the tensor of the original Hub layout that it belongs to, which export, merging and
// adapters' names go by. For a safetensors folder the two are the same.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/strings/string_view.h"
#include "worker/spec/dtype.h"

namespace graft::spec {

// A tensor in a file.
struct TensorInfo {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // slowest first, in GGUF files too
  std::string file;            // as ModelFiles names it
  int64_t offset = 0;          // from the file's start
  int64_t bytes = 0;

  int64_t elements() const {
    int64_t count = 1;
    for (int64_t d : shape) count *= d;
    return count;
  }
};
// By name, in name order.
using TensorIndex = absl::btree_map<std::string, TensorInfo>;

// A part of a stored tensor, as a parameter uses it: the tensor's last two dimensions are exchanged
// when `transposed`; then of dimension `axis` the rows begin, begin + step, ... (`count` of them)
// are taken; then llama.cpp's order of rows is undone; then `add` is added to every number.
struct TensorSlice {
  std::string tensor;
  bool transposed = false;
  int axis = 0;
  int64_t begin = 0;
  int64_t count = 0;  // 0: the whole tensor
  int64_t step = 1;
  // > 0: the rows are those of this many heads, in the order llama.cpp stores them for its rotation
  // (pairs side by side); row order h * d + i + j * d / 2 <- h * d + 2 * i + j.
  int64_t permuted_heads = 0;
  double add = 0;
  // The tensor `<tensor>_blocks` with `<tensor>_scales` (gpt_oss' MXFP4): 32 numbers in 16 bytes,
  // of which the type is not DType::kMxfp4, whose bytes lie in another order. `transposed` then
  // tells how `<tensor>` itself would be stored; the blocks are [experts, out, in].
  bool mxfp4_blocks = false;

  bool whole() const {
    return !transposed && count == 0 && permuted_heads == 0 && add == 0 && !mxfp4_blocks;
  }
};

struct Parameter {
  std::string name;  // canonical
  std::vector<int64_t> shape;
  // One slice; or `experts` slices, one for each expert in turn, where files hold experts one by
  // one.
  std::vector<TensorSlice> source;
  std::vector<TensorSlice> hub;

  int64_t elements() const {
    int64_t count = 1;
    for (int64_t d : shape) count *= d;
    return count;
  }
};

// A linear of the Hub layout: what LoRA attaches to and what an adapter's keys are named after. A
// fused one (phi3's qkv_proj) holds several canonical linears, row after row.
struct HubLinear {
  std::string module;  // "model.layers.3.self_attn.qkv_proj"
  int64_t in = 0;
  int64_t out = 0;
  bool transposed = false;  // a Conv1D, stored [in, out] (peft: fan_in_fan_out)
  struct Part {
    std::string name;  // canonical, without ".weight": "layers.3.attn.q"
    TensorSlice rows;  // of the weight, after transposition
  };
  std::vector<Part> parts;
};

// A tensor of the Hub layout with the parameters that fill it.
struct HubTensor {
  std::string name;
  std::vector<int64_t> shape;  // as stored
  struct Piece {
    int parameter;  // index into the list
    int slice;      // of its `hub`
  };
  std::vector<Piece> pieces;
};

}  // namespace graft::spec
