// How a set of files names the tensors of a decoder, and how it folds canonical parameters into
// them. The defaults are those of the llama family on the Hub, which most others share.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/spec/decoder_spec.h"
#include "worker/spec/parameter.h"

namespace graft::spec {

enum class ExpertLayout : uint8_t {
  kOneByOne,    // experts.7.gate_proj.weight, ...
  kStacked,     // a tensor [experts, out, in] each for gate, up and down
  kFused,       // [experts, gate rows then up rows, in], and down
  kInterleaved  // [experts, in, gate and up columns in turn], and down, both transposed (gpt_oss)
};

// Modules, to which ".weight" and ".bias" are added, unless it says "tensor". Names of a layer's
// modules stand behind `layers` + the layer's number + ".". Empty: the model has none.
struct TensorNames {
  std::string embed = "model.embed_tokens";
  std::string positions;
  std::string final_norm = "model.norm";
  std::string head = "lm_head";
  std::string layers = "model.layers.";

  std::string attn_norm = "input_layernorm";
  std::string attn_post_norm;
  std::string mlp_norm = "post_attention_layernorm";
  std::string mlp_post_norm;

  std::string q = "self_attn.q_proj";
  std::string k = "self_attn.k_proj";
  std::string v = "self_attn.v_proj";
  std::string qkv;  // instead of q, k and v: their rows one after the other
  std::string o = "self_attn.o_proj";
  std::string q_norm = "self_attn.q_norm";
  std::string k_norm = "self_attn.k_norm";
  std::string sinks_tensor = "self_attn.sinks";
  std::string q_a = "self_attn.q_a_proj";
  std::string q_a_norm = "self_attn.q_a_layernorm";
  std::string q_b = "self_attn.q_b_proj";
  std::string kv_a = "self_attn.kv_a_proj_with_mqa";
  std::string kv_a_norm = "self_attn.kv_a_layernorm";
  std::string kv_b = "self_attn.kv_b_proj";

  std::string gate = "mlp.gate_proj";
  std::string up = "mlp.up_proj";
  std::string gate_up;  // instead of gate and up: gate's rows, then up's
  std::string down = "mlp.down_proj";

  std::string router = "mlp.gate";
  std::string correction_bias_tensor = "mlp.gate.e_score_correction_bias";
  ExpertLayout expert_layout = ExpertLayout::kOneByOne;
  std::string experts = "mlp.experts.";  // kOneByOne: before the expert's number
  std::string expert_gate = "gate_proj";
  std::string expert_up = "up_proj";
  std::string expert_gate_up;
  std::string expert_down = "down_proj";
  std::string expert_weight_suffix = ".weight";
  std::string expert_bias_suffix = ".bias";
  std::string shared_gate = "mlp.shared_expert.gate_proj";
  std::string shared_up = "mlp.shared_expert.up_proj";
  std::string shared_down = "mlp.shared_expert.down_proj";
  std::string shared_switch = "mlp.shared_expert_gate";

  bool linears_transposed = false;     // gpt2's Conv1D: [in, out]
  bool permuted_for_rotation = false;  // q's and k's rows are in llama.cpp's order
  double norm_add = 0;                 // what to add to the norms' weights (-1: gemma in GGUF)
};

// The parameters of the decoder with `hub` and `source` both as `names` tells. In the order of
// computation.
std::vector<Parameter> BuildParameters(const DecoderSpec& spec, const TensorNames& names);

// The tensors that the slices in `source` (or, with `hub`, in `hub`) are taken from, with the
// shapes that they must have. In name order.
std::vector<HubTensor> TensorsOf(const std::vector<Parameter>& parameters, bool hub);

}  // namespace graft::spec
