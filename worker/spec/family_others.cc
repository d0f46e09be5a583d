// phi3 (and phi4), nemotron, starcoder2, cohere, cohere2, glm4 and gpt2.
#include <cmath>

#include "worker/spec/family.h"

namespace graft::spec {

void FillPhi3(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{.context = 4096, .eps = 1e-5};
  ReadTrunk(c, defaults, spec);
  AddRope(c, {.yarn_is_longrope = true}, spec);
  const int64_t window = SlidingWindow(c, 0);
  for (LayerSpec& layer : spec.layers) layer.sliding_window = window;
  draft.names.qkv = "self_attn.qkv_proj";
  draft.names.gate_up = "mlp.gate_up_proj";
}

void FillNemotron(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{
      .context = 4096, .eps = 1e-5, .eps_key = "norm_eps", .activation = "relu2"};
  ReadTrunk(c, defaults, spec);
  // Older files call it rope_percent or leave it out.
  AddRope(c, {.partial = c.Double("rope_percent", 0.5)}, spec);
  spec.norm.kind = NormKind::kLayerNorm;
  spec.norm.plus_one = true;
  spec.norm.bias = true;
  spec.norm.scale_before_rounding = true;
  const bool bias = c.Bool("attention_bias", false);
  SetAttentionBias(spec.attention, bias, bias);
  spec.mlp.gated = false;
  spec.mlp.up_bias = spec.mlp.down_bias = c.Bool("mlp_bias", false);
}

void FillStarcoder2(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{.context = 4096,
                               .kv_heads = 2,
                               .eps = 1e-5,
                               .eps_key = "norm_epsilon",
                               .activation = "gelu_pytorch_tanh",
                               .tied = true};
  ReadTrunk(c, defaults, spec);
  ReadRope(c, defaults, spec);
  spec.norm.kind = NormKind::kLayerNorm;
  spec.norm.bias = true;
  spec.norm.scale_before_rounding = true;
  const bool bias = c.Bool("use_bias", true);
  SetAttentionBias(spec.attention, bias, bias);
  spec.mlp.gated = false;
  spec.mlp.up_bias = spec.mlp.down_bias = bias;
  const int64_t window = SlidingWindow(c, 0);
  for (LayerSpec& layer : spec.layers) layer.sliding_window = window;
  draft.names.up = "mlp.c_fc";
  draft.names.down = "mlp.c_proj";
}

namespace {

void ReadCohereTrunk(ConfigReader& c, const TrunkDefaults& defaults, DecoderSpec& spec) {
  ReadTrunk(c, defaults, spec);
  spec.norm.kind = NormKind::kLayerNorm;
  spec.norm.scale_before_rounding = true;
  spec.parallel_block = true;
  spec.logit_scale = c.Double("logit_scale", 0.0625);
  const bool bias = c.Bool("attention_bias", false);
  SetAttentionBias(spec.attention, bias, bias);
  AddRope(c, {.theta = defaults.theta, .interleaved = true}, spec);
}

}  // namespace

void FillCohere(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{
      .context = 8192, .eps = 1e-5, .eps_key = "layer_norm_eps", .tied = true, .theta = 500000};
  ReadCohereTrunk(c, defaults, spec);
  if (c.Bool("use_qk_norm", false)) {
    spec.attention.qk_norm = QkNorm::kPerHeadWeights;
    spec.attention.qk_norm_spec = spec.norm;
  }
}

void FillCohere2(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{
      .context = 8192, .eps = 1e-5, .eps_key = "layer_norm_eps", .tied = true};
  ReadCohereTrunk(c, defaults, spec);
  const int64_t pattern = c.Int("sliding_window_pattern", 1, kMaxLayers, 4);
  ReadSlidingLayers(
      c, SlidingWindow(c, 4096), [&](int64_t i) { return (i + 1) % pattern != 0; }, spec);
  // Layers that see everything are not rotated.
  for (LayerSpec& layer : spec.layers) layer.rope = layer.sliding_window > 0 ? 0 : -1;
}

void FillGlm4(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{.context = 131072, .kv_heads = 2, .head_dim = 128, .eps = 1.5625e-7};
  ReadTrunk(c, defaults, spec);
  AddRope(c, {.partial = 0.5, .interleaved = true}, spec);
  SetAttentionBias(spec.attention, c.Bool("attention_bias", true), false);
  spec.placement = {.before = true, .after = true};
  draft.names.attn_post_norm = "post_self_attn_layernorm";
  draft.names.mlp_post_norm = "post_mlp_layernorm";
  draft.names.gate_up = "mlp.gate_up_proj";
}

namespace {

void NameGpt2(TensorNames& names) {
  names.embed = "transformer.wte";
  names.positions = "transformer.wpe";
  names.final_norm = "transformer.ln_f";
  names.layers = "transformer.h.";
  names.attn_norm = "ln_1";
  names.mlp_norm = "ln_2";
  names.qkv = "attn.c_attn";
  names.o = "attn.c_proj";
  names.up = "mlp.c_fc";
  names.down = "mlp.c_proj";
  names.linears_transposed = true;
}

}  // namespace

void FillGpt2(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  spec.hidden = c.Dimension("n_embd");
  spec.vocab = c.Dimension("vocab_size");
  spec.context = c.Int("n_positions", 1, kMaxDimension, 1024);
  AttentionSpec& a = spec.attention;
  a.heads = a.kv_heads = c.Int("n_head", 1, kMaxHeads);
  a.head_dim = a.value_dim = spec.hidden / a.heads;
  if (a.head_dim < 1 || a.head_dim > kMaxHeadDim || spec.hidden % a.heads != 0) {
    c.FailInvalid("n_embd is no multiple of n_head");
    a.head_dim = a.value_dim = 1;
  }
  a.scale = c.Bool("scale_attn_weights", true) ? 1 / std::sqrt(static_cast<double>(a.head_dim)) : 1;
  a.scale_by_inverse_layer = c.Bool("scale_attn_by_inverse_layer_idx", false);
  SetAttentionBias(a, true, true);
  if (c.Bool("add_cross_attention", false)) {
    c.Fail(absl::UnimplementedError("config.json: add_cross_attention is not supported"));
  }
  const int64_t ffn = c.Dimension("n_inner", 4 * spec.hidden);
  spec.layers.assign(static_cast<size_t>(c.Int("n_layer", 1, kMaxLayers)),
                     LayerSpec{.ffn = ffn, .rope = -1});
  spec.norm = {.kind = NormKind::kLayerNorm,
               .bias = true,
               .scale_before_rounding = true,
               .eps = c.Double("layer_norm_epsilon", 1e-5)};
  spec.mlp.gated = false;
  spec.mlp.activation = ReadActivation(c, c.String("activation_function", "gelu_new"));
  spec.mlp.up_bias = spec.mlp.down_bias = true;
  spec.learned_positions = true;
  spec.tied_embeddings = c.Bool("tie_word_embeddings", true);
  spec.bos_id = c.Int("bos_token_id", -1, kMaxDimension, -1);
  spec.pad_id = c.Int("pad_token_id", -1, kMaxDimension, -1);
  spec.eos_ids = c.IntOrInts("eos_token_id");
  NameGpt2(draft.names);
}

}  // namespace graft::spec
