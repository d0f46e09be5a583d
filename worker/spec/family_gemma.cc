// gemma, gemma2 and gemma3's text model.
#include <cmath>

#include "worker/spec/family.h"

namespace graft::spec {
namespace {

void ReadGemmaTrunk(ConfigReader& c, const TrunkDefaults& defaults, DecoderSpec& spec) {
  ReadTrunk(c, defaults, spec);
  spec.norm.plus_one = true;
  spec.norm.scale_before_rounding = true;
  spec.embedding_scale = std::sqrt(static_cast<double>(spec.hidden));
  spec.embedding_scale_rounded = true;
  const bool bias = c.Bool("attention_bias", false);
  SetAttentionBias(spec.attention, bias, bias);
  if (c.Bool("use_bidirectional_attention", false)) {
    c.Fail(absl::UnimplementedError(
        "config.json: use_bidirectional_attention makes an encoder, which is not supported"));
  }
}

// The sandwich of norms, the attention's scale and the softcaps.
void ReadSandwich(ConfigReader& c, double attention_softcap, double logit_softcap, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  spec.placement = {.before = true, .after = true};
  draft.names.attn_post_norm = "post_attention_layernorm";
  draft.names.mlp_norm = "pre_feedforward_layernorm";
  draft.names.mlp_post_norm = "post_feedforward_layernorm";
  const double scalar = c.Double("query_pre_attn_scalar", 256);
  if (!(scalar > 0)) c.FailInvalid("query_pre_attn_scalar is not above 0");
  spec.attention.scale = 1 / std::sqrt(scalar);
  const auto softcap = [&](const char* key, double fallback) {
    const Json* value = c.json().Find(key);
    return value != nullptr && value->is_null() ? 0.0 : c.Double(key, fallback);
  };
  spec.attention.softcap = softcap("attn_logit_softcapping", attention_softcap);
  spec.logit_softcap = softcap("final_logit_softcapping", logit_softcap);
}

}  // namespace

void FillGemma(ConfigReader& c, Draft& draft) {
  const TrunkDefaults defaults{.context = 8192,
                               .kv_heads = 16,
                               .head_dim = 256,
                               .activation = "gelu_pytorch_tanh",
                               .tied = true};
  ReadGemmaTrunk(c, defaults, draft.spec);
  // The first files say "gelu" and mean tanh's approximation.
  if (draft.spec.mlp.activation == Activation::kGelu) {
    draft.spec.mlp.activation = Activation::kGeluTanh;
  }
  ReadRope(c, defaults, draft.spec);
}

void FillGemma2(ConfigReader& c, Draft& draft) {
  const TrunkDefaults defaults{.context = 8192,
                               .kv_heads = 4,
                               .head_dim = 256,
                               .activation = "gelu_pytorch_tanh",
                               .activation_key = "hidden_activation",
                               .tied = true};
  ReadGemmaTrunk(c, defaults, draft.spec);
  ReadRope(c, defaults, draft.spec);
  ReadSandwich(c, 50, 30, draft);
  ReadSlidingLayers(
      c, SlidingWindow(c, 4096), [](int64_t i) { return (i + 1) % 2 != 0; }, draft.spec);
}

void FillGemma3(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{.context = 131072,
                               .kv_heads = 4,
                               .head_dim = 256,
                               .activation = "gelu_pytorch_tanh",
                               .activation_key = "hidden_activation",
                               .tied = true};
  ReadGemmaTrunk(c, defaults, spec);
  ReadSandwich(c, 0, 0, draft);
  spec.attention.qk_norm = QkNorm::kPerHead;
  spec.attention.qk_norm_spec = spec.norm;
  const int64_t pattern = c.Int("sliding_window_pattern", 1, kMaxLayers, 6);
  ReadSlidingLayers(
      c, SlidingWindow(c, 4096), [&](int64_t i) { return (i + 1) % pattern != 0; }, spec);
  const int global = AddRope(c, {.theta = 1000000, .layer_type = "full_attention"}, spec);
  const int local = AddRope(c,
                            {.theta = 10000,
                             .layer_type = "sliding_attention",
                             .legacy_theta_key = "rope_local_base_freq",
                             .legacy_scaling = false},
                            spec);
  // Layer types decide, also where the window is switched off.
  const std::vector<std::string> types = c.Strings("layer_types");
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const bool sliding = types.size() > i ? types[i] == "sliding_attention"
                                          : (static_cast<int64_t>(i) + 1) % pattern != 0;
    spec.layers[i].rope = sliding ? local : global;
  }
}

}  // namespace graft::spec
