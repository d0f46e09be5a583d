// qwen2 and qwen3 without experts.
#include "worker/spec/family.h"

namespace graft::spec {
namespace {

// From layer max_window_layers on, where windows are used at all.
void ReadQwenWindows(ConfigReader& c, DecoderSpec& spec) {
  const bool slides = c.Bool("use_sliding_window", false);
  const int64_t first = c.Int("max_window_layers", 0, kMaxLayers, 28);
  ReadSlidingLayers(
      c, slides ? SlidingWindow(c, 4096) : 0, [&](int64_t i) { return slides && i >= first; },
      spec);
}

}  // namespace

void FillQwen2(ConfigReader& c, Draft& draft) {
  const TrunkDefaults defaults{.context = 32768, .kv_heads = 32};
  ReadTrunk(c, defaults, draft.spec);
  ReadRope(c, defaults, draft.spec);
  SetAttentionBias(draft.spec.attention, true, false);
  ReadQwenWindows(c, draft.spec);
}

void FillQwen3(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{.context = 32768, .kv_heads = 32, .head_dim = 128};
  ReadTrunk(c, defaults, spec);
  ReadRope(c, defaults, spec);
  const bool bias = c.Bool("attention_bias", false);
  SetAttentionBias(spec.attention, bias, bias);
  spec.attention.qk_norm = QkNorm::kPerHead;
  spec.attention.qk_norm_spec = spec.norm;
  ReadQwenWindows(c, spec);
}

}  // namespace graft::spec
