// llama (2, 3.x), mistral, smollm3 and granite: the trunk that the others vary.
#include "worker/spec/family.h"

namespace graft::spec {

void FillLlama(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults;
  ReadTrunk(c, defaults, spec);
  ReadRope(c, defaults, spec);
  const bool bias = c.Bool("attention_bias", false);
  SetAttentionBias(spec.attention, bias, bias);
  spec.mlp.up_bias = spec.mlp.down_bias = c.Bool("mlp_bias", false);
}

void FillMistral(ConfigReader& c, Draft& draft) {
  const TrunkDefaults defaults{.context = 4096 * 32, .kv_heads = 8};
  ReadTrunk(c, defaults, draft.spec);
  ReadRope(c, defaults, draft.spec);
  const int64_t window = SlidingWindow(c, 4096);
  for (LayerSpec& layer : draft.spec.layers) layer.sliding_window = window;
}

void FillSmolLm3(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{.context = 32768, .kv_heads = 4, .tied = true, .theta = 2000000};
  ReadTrunk(c, defaults, spec);
  ReadRope(c, defaults, spec);
  const bool bias = c.Bool("attention_bias", false);
  SetAttentionBias(spec.attention, bias, bias);
  spec.mlp.up_bias = spec.mlp.down_bias = c.Bool("mlp_bias", false);
  // 1 where a layer is rotated, whatever the key's name says.
  std::vector<int64_t> rotated = c.Ints("no_rope_layers");
  const int64_t interval = c.Int("no_rope_layer_interval", 1, kMaxLayers, 4);
  if (rotated.empty()) {
    for (int64_t i = 0; i < spec.num_layers(); ++i) rotated.push_back((i + 1) % interval != 0);
  }
  if (rotated.size() < spec.layers.size()) {
    c.FailInvalid("no_rope_layers has fewer entries than there are layers");
    return;
  }
  for (size_t i = 0; i < spec.layers.size(); ++i) spec.layers[i].rope = rotated[i] != 0 ? 0 : -1;
  const int64_t window = c.Bool("use_sliding_window", false) ? SlidingWindow(c, 0) : 0;
  ReadSlidingLayers(
      c, window, [&](int64_t i) { return rotated[static_cast<size_t>(i)] == 0; }, spec);
}

void FillGranite(ConfigReader& c, Draft& draft) {
  FillLlama(c, draft);
  DecoderSpec& spec = draft.spec;
  spec.embedding_scale = c.Double("embedding_multiplier", 1);
  spec.residual_scale = c.Double("residual_multiplier", 1);
  spec.attention.scale = c.Double("attention_multiplier", 1);
  const double divisor = c.Double("logits_scaling", 1);
  if (!(divisor > 0)) c.FailInvalid("logits_scaling is not above 0");
  spec.logit_scale = 1 / divisor;
}

}  // namespace graft::spec
