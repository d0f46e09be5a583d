// A decoder-only language model in normal form: what a generic implementation needs to know to
// compute it, as numbers, booleans and enums. A family file (family_llama.cc, ...) fills it in from
// config.json or from GGUF metadata; no code behind it asks for the family's name.
//
// One layer, in the order of computation (x is the residual stream):
//   a = placement.before ? attn_norm(x) : x
//   a = o(attention(q(a), k(a), v(a)))            then  placement.after ? attn_post_norm(a) : a
//   parallel:  m = mlp(attn_norm(x));  x = x + residual_scale * (a + m)
//   else:      x = x + residual_scale * a;  m = placement.before ? mlp_norm(x) : x
//              m = mlp(m);  placement.after ? mlp_post_norm(m) : m;  x = x + residual_scale * m
//
// The names of parameters that belong to it are listed in parameter.h. Plain values; copy freely.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace graft::spec {

enum class NormKind : uint8_t { kRms, kLayerNorm };

// y = normalise(x) * w + b, computed in fp32.
struct NormSpec {
  NormKind kind = NormKind::kRms;
  // The factor is 1 + w (gemma, nemotron).
  bool plus_one = false;
  bool bias = false;
  // True: normalise in fp32, multiply by the weight in fp32, then round to the activations' type
  // (gemma, gpt_oss, olmo2). False: round first, then multiply (llama). Equal in fp32.
  bool scale_before_rounding = false;
  double eps = 1e-6;
};

// Where a block's norms stand. {true, false} is pre-norm, {false, true} is olmo2's post-norm, both
// is the sandwich of gemma2 and glm4.
struct NormPlacement {
  bool before = true;
  bool after = false;
};

enum class RopeKind : uint8_t { kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongRope };
// As config.json names it: "llama3".
std::string RopeKindName(RopeKind kind);

// A rotary position embedding. rope.h computes its frequencies.
struct RopeSpec {
  RopeKind kind = RopeKind::kDefault;
  double theta = 10000;
  // The leading dimensions of each head that are rotated; all of them unless partial.
  int64_t rotary_dim = 0;
  // Pairs are (2i, 2i+1) rather than (i, i + rotary_dim/2).
  bool interleaved = false;
  double factor = 1;
  // The context of pre-training, where the kind depends on it.
  int64_t original_context = 0;
  int64_t max_context = 0;
  double low_freq_factor = 1;   // llama3
  double high_freq_factor = 4;  // llama3
  double beta_fast = 32;        // yarn
  double beta_slow = 1;         // yarn
  bool truncate = true;         // yarn
  // cos and sin are multiplied by it (yarn, longrope; 1 else). Resolved by the family file.
  double attention_factor = 1;
  std::vector<double> short_factor;  // longrope, rotary_dim / 2 numbers
  std::vector<double> long_factor;
};

enum class QkNorm : uint8_t {
  kNone,
  kPerHead,         // over head_dim, one weight [head_dim] for all heads (qwen3, gemma3)
  kPerHeadWeights,  // over head_dim, a weight for each head [heads, head_dim] (cohere)
  kFullWidth,       // over heads * head_dim before the split into heads (olmo2)
};

struct AttentionSpec {
  int64_t heads = 0;
  int64_t kv_heads = 0;
  // Of q and k. With mla it is qk_nope_dim + qk_rope_dim.
  int64_t head_dim = 0;
  int64_t value_dim = 0;  // of v; head_dim but for mla
  double scale = 0;       // of q.k, before the softcap
  double softcap = 0;     // scores = softcap * tanh(scores / softcap); 0 is none
  bool sinks = false;     // a learned logit per head that joins the softmax and is dropped
  // divides the scores of layer i by i + 1 (gpt2's scale_attn_by_inverse_layer_idx)
  bool scale_by_inverse_layer = false;
  bool q_bias = false;
  bool k_bias = false;
  bool v_bias = false;
  bool o_bias = false;
  QkNorm qk_norm = QkNorm::kNone;  // before the rotation
  NormSpec qk_norm_spec;
  double clip_qkv = 0;  // q, k and v are clamped to [-clip_qkv, clip_qkv] after the norm; 0: not

  // Multi-head latent attention (deepseek): q = q_b(q_a_norm(q_a(x))) or, without q_lora_rank,
  // q(x); [c, k_rope] = kv_a(x); [k_nope, v] = kv_b(kv_a_norm(c)) per head; k_rope is shared by the
  // heads. Only the last qk_rope_dim dimensions of q and k are rotated.
  bool mla = false;
  int64_t q_lora_rank = 0;
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_dim = 0;
  int64_t qk_rope_dim = 0;
  NormSpec latent_norm;
};

enum class Activation : uint8_t {
  kSilu,
  kGeluTanh,
  kGelu,         // with erf
  kReluSquared,  // nemotron
  kRelu,
  // gate' = min(gate, clamp); up' = clamp(up, -clamp, clamp);
  // gate' * sigmoid(alpha * gate') * (up' + 1)  (gpt_oss). Gated only.
  kClampedSwiglu,
};

// down(act(gate(x)) * up(x)), or down(act(up(x))) where it is not gated.
struct MlpSpec {
  bool gated = true;
  Activation activation = Activation::kSilu;
  bool up_bias = false;  // of gate and up
  bool down_bias = false;
  double clamp = 0;  // kClampedSwiglu
  double alpha = 0;  // kClampedSwiglu
};

enum class RouterScore : uint8_t {
  kSoftmaxThenTopK,  // softmax over all experts, then the k largest
  kTopKThenSoftmax,  // the k largest logits, softmax over them
  kSigmoidThenTopK,  // sigmoid of each; weights are the raw scores of the chosen
};

struct MoeSpec {
  int64_t experts = 0;  // 0: the model has none
  int64_t experts_per_token = 0;
  int64_t expert_ffn = 0;
  MlpSpec expert;
  RouterScore score = RouterScore::kSoftmaxThenTopK;
  bool renormalise = false;  // the chosen weights are divided by their sum + renormalise_eps
  double renormalise_eps = 0;
  double routed_scale = 1;       // then multiplied by this
  bool router_bias = false;      // of the router's linear
  bool correction_bias = false;  // added to the scores for the choice alone (deepseek_v3)
  // Experts in `groups` equal groups; only the `groups_per_token` best may be chosen from, a
  // group's score being the sum of its two best. 1: no groups.
  int64_t groups = 1;
  int64_t groups_per_token = 1;
  // The router's logits are computed in fp32 (deepseek_v3) rather than in the activations' type.
  bool router_fp32 = false;
  int64_t shared_ffn = 0;           // of the expert that every token passes; 0: none
  bool shared_gate = false;         // its output is multiplied by sigmoid(shared_gate(x))
  double aux_loss_coefficient = 0;  // as configured; whether it is used is the trainer's choice
};

struct LayerSpec {
  int64_t ffn = 0;  // of the dense MLP; 0 where `moe`
  bool moe = false;
  int64_t sliding_window =
      0;         // a query sees the last `sliding_window` keys, itself included; 0: all
  int rope = 0;  // index into DecoderSpec::ropes; -1: not rotated
};

struct DecoderSpec {
  // The family's name (config.json's model_type), for messages and for export only.
  std::string model_type;

  int64_t hidden = 0;
  int64_t vocab = 0;
  int64_t context = 0;  // the longest sequence, as the configuration states it
  std::vector<LayerSpec> layers;
  std::vector<RopeSpec> ropes;  // empty where no layer is rotated (gpt2)

  AttentionSpec attention;
  MlpSpec mlp;
  MoeSpec moe;

  NormSpec norm;  // of the blocks and of the end
  NormPlacement placement;
  // Attention and MLP read the same normalised input and are added together (cohere).
  bool parallel_block = false;

  bool learned_positions = false;  // an embedding [context, hidden] is added (gpt2)
  // The embedding's rows times this.
  double embedding_scale = 1;
  // The scale is rounded to the embedding's type first (gemma).
  bool embedding_scale_rounded = false;
  double residual_scale = 1;
  double logit_scale = 1;
  double logit_softcap = 0;  // after the scale; 0 is none
  bool tied_embeddings = false;

  int64_t bos_id = -1;  // -1: none
  int64_t pad_id = -1;
  std::vector<int64_t> eos_ids;  // any of them ends a sequence

  int64_t num_layers() const { return static_cast<int64_t>(layers.size()); }
  int64_t q_width() const { return attention.heads * attention.head_dim; }
  int64_t kv_width() const { return attention.kv_heads * attention.head_dim; }
  bool is_moe() const { return moe.experts > 0; }
};

// What people ask about a model.
struct ModelFacts {
  std::string architecture;  // "LlamaForCausalLM", or the GGUF's "llama"
  std::string name;          // as the files state it; may be empty
  int64_t parameters = 0;
  int64_t active_parameters = 0;  // that one token passes; fewer than `parameters` with experts
  int64_t weight_bytes = 0;       // in the files
  // "F32", "BF16", "Q4_K"...: the type most of the parameters are stored in.
  std::string precision;
  bool quantized = false;
  bool has_tokenizer = false;
  std::string chat_template;     // empty: none
  bool supports_tools = false;   // the template reads `tools`
  bool supports_system = false;  // the template knows the role
  std::string tokenizer;         // bpe, unigram, wordpiece, wordlevel; empty: not known
};

}  // namespace graft::spec
