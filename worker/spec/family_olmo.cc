// olmo2 and olmo3: norms after the blocks, and q and k normalised over their full width.
#include "worker/spec/family.h"

namespace graft::spec {
namespace {

void ReadOlmoTrunk(ConfigReader& c, const TrunkDefaults& defaults, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  ReadTrunk(c, defaults, spec);
  spec.norm.scale_before_rounding = true;
  spec.placement = {.before = false, .after = true};
  draft.names.attn_post_norm = "post_attention_layernorm";
  draft.names.mlp_post_norm = "post_feedforward_layernorm";
  const bool bias = c.Bool("attention_bias", false);
  SetAttentionBias(spec.attention, bias, bias);
  spec.attention.qk_norm = QkNorm::kFullWidth;
  spec.attention.qk_norm_spec = spec.norm;
}

}  // namespace

void FillOlmo2(ConfigReader& c, Draft& draft) {
  const TrunkDefaults defaults{.eps = 1e-5};
  ReadOlmoTrunk(c, defaults, draft);
  ReadRope(c, defaults, draft.spec);
}

void FillOlmo3(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{.eps = 1e-5, .theta = 500000};
  ReadOlmoTrunk(c, defaults, draft);
  const int64_t window = SlidingWindow(c, 4096);
  ReadSlidingLayers(
      c, window, [](int64_t i) { return (i + 1) % 4 != 0; }, spec);
  const int full = AddRope(c, {.theta = defaults.theta, .layer_type = "full_attention"}, spec);
  const int local = AddRope(
      c, {.theta = defaults.theta, .layer_type = "sliding_attention", .legacy_scaling = false},
      spec);
  const std::vector<std::string> types = c.Strings("layer_types");
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    const bool sliding = types.size() > i ? types[i] == "sliding_attention" : (i + 1) % 4 != 0;
    spec.layers[i].rope = sliding ? local : full;
  }
}

}  // namespace graft::spec
