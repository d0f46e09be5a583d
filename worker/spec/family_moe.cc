// Families of experts: mixtral, qwen2_moe, qwen3_moe, olmoe, granitemoe, gpt_oss, deepseek_v3.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "worker/spec/family.h"

namespace graft::spec {
namespace {

// Which layers are of experts; their `ffn` becomes 0.
template <typename Predicate>
void SetExpertLayers(ConfigReader& c, Predicate is_moe, DecoderSpec& spec) {
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    if (!is_moe(static_cast<int64_t>(i))) continue;
    spec.layers[i].moe = true;
    spec.layers[i].ffn = 0;
  }
  if (spec.moe.experts * spec.num_layers() > kMaxExpertsTimesLayers) {
    c.FailInvalid(absl::StrCat(spec.moe.experts, " experts in ", spec.num_layers(),
                               " layers are more than ", kMaxExpertsTimesLayers));
  }
  if (spec.moe.experts_per_token > spec.moe.experts) {
    c.FailInvalid(absl::StrCat("num_experts_per_tok ", spec.moe.experts_per_token,
                               " is more than the ", spec.moe.experts, " experts"));
  }
}

void ReadExperts(ConfigReader& c, const char* count_key, int64_t count, int64_t per_token,
                 DecoderSpec& spec) {
  MoeSpec& m = spec.moe;
  m.experts = c.Int(count_key, 2, kMaxExperts, count);
  m.experts_per_token = c.Int("num_experts_per_tok", 1, kMaxExperts, per_token);
  m.expert = spec.mlp;
  m.aux_loss_coefficient = c.Double("router_aux_loss_coef", 0.001);
}

// The qwen rule: every decoder_sparse_step-th layer, but for those in mlp_only_layers.
void SetQwenExpertLayers(ConfigReader& c, DecoderSpec& spec) {
  const int64_t step = c.Int("decoder_sparse_step", 1, kMaxLayers, 1);
  const std::vector<int64_t> dense = c.Ints("mlp_only_layers");
  SetExpertLayers(
      c,
      [&](int64_t i) {
        return std::find(dense.begin(), dense.end(), i) == dense.end() && (i + 1) % step == 0;
      },
      spec);
}

bool Always(int64_t) { return true; }

}  // namespace

void FillMixtral(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{.context = 4096 * 32, .kv_heads = 8, .eps = 1e-5, .theta = 1000000};
  ReadTrunk(c, defaults, spec);
  ReadRope(c, defaults, spec);
  const int64_t window = SlidingWindow(c, 0);
  for (LayerSpec& layer : spec.layers) layer.sliding_window = window;
  ReadExperts(c, "num_local_experts", 8, 2, spec);
  spec.moe.expert_ffn = spec.layers[0].ffn;
  spec.moe.renormalise = true;
  SetExpertLayers(c, Always, spec);
  draft.names.router = "block_sparse_moe.gate";
  draft.names.experts = "block_sparse_moe.experts.";
  draft.names.expert_gate = "w1";
  draft.names.expert_up = "w3";
  draft.names.expert_down = "w2";
}

void FillQwen2Moe(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{.context = 32768, .kv_heads = 16};
  ReadTrunk(c, defaults, spec);
  ReadRope(c, defaults, spec);
  SetAttentionBias(spec.attention, c.Bool("qkv_bias", true), false);
  const bool slides = c.Bool("use_sliding_window", false);
  const int64_t last = c.Int("max_window_layers", 0, kMaxLayers, 28);
  ReadSlidingLayers(
      c, slides ? SlidingWindow(c, 4096) : 0,
      [&](int64_t i) { return slides && (i + 1) % 2 != 0 && i < last; }, spec);
  ReadExperts(c, "num_experts", 60, 4, spec);
  spec.moe.expert_ffn = c.Dimension("moe_intermediate_size", 1408);
  spec.moe.renormalise = c.Bool("norm_topk_prob", false);
  spec.moe.shared_ffn = c.Dimension("shared_expert_intermediate_size", 5632);
  spec.moe.shared_gate = true;
  SetQwenExpertLayers(c, spec);
}

void FillQwen3Moe(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{.context = 32768, .kv_heads = 4};
  ReadTrunk(c, defaults, spec);
  ReadRope(c, defaults, spec);
  const bool bias = c.Bool("attention_bias", false);
  SetAttentionBias(spec.attention, bias, bias);
  spec.attention.qk_norm = QkNorm::kPerHead;
  spec.attention.qk_norm_spec = spec.norm;
  const int64_t window = c.Bool("use_sliding_window", false) ? SlidingWindow(c, 4096) : 0;
  for (LayerSpec& layer : spec.layers) layer.sliding_window = window;
  // transformers 5 writes num_local_experts, older files num_experts.
  ReadExperts(c, c.Has("num_experts") ? "num_experts" : "num_local_experts", 128, 8, spec);
  spec.moe.expert_ffn = c.Dimension("moe_intermediate_size", 768);
  spec.moe.renormalise = c.Bool("norm_topk_prob", false);
  SetQwenExpertLayers(c, spec);
}

void FillOlmoe(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{.context = 4096, .eps = 1e-5};
  ReadTrunk(c, defaults, spec);
  ReadRope(c, defaults, spec);
  const bool bias = c.Bool("attention_bias", false);
  SetAttentionBias(spec.attention, bias, bias);
  spec.attention.qk_norm = QkNorm::kFullWidth;
  spec.attention.qk_norm_spec = spec.norm;
  spec.attention.clip_qkv = c.Double("clip_qkv", 0);
  ReadExperts(c, c.Has("num_experts") ? "num_experts" : "num_local_experts", 64, 8, spec);
  spec.moe.expert_ffn = spec.layers[0].ffn;
  spec.moe.renormalise = c.Bool("norm_topk_prob", false);
  SetExpertLayers(c, Always, spec);
}

void FillGraniteMoe(ConfigReader& c, Draft& draft) {
  FillGranite(c, draft);
  DecoderSpec& spec = draft.spec;
  spec.mlp.up_bias = spec.mlp.down_bias = false;
  ReadExperts(c, "num_local_experts", 8, 2, spec);
  spec.moe.expert_ffn = spec.layers[0].ffn;
  spec.moe.score = RouterScore::kTopKThenSoftmax;
  SetExpertLayers(c, Always, spec);
  draft.names.router = "block_sparse_moe.router.layer";
  draft.names.expert_layout = ExpertLayout::kFused;
  draft.names.expert_gate_up = "block_sparse_moe.input_linear";
  draft.names.expert_down = "block_sparse_moe.output_linear";
}

void FillGptOss(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{
      .context = 131072, .kv_heads = 8, .head_dim = 64, .eps = 1e-5, .theta = 150000};
  ReadTrunk(c, defaults, spec);
  AddRope(c, {.theta = defaults.theta}, spec);
  spec.norm.scale_before_rounding = true;
  const bool bias = c.Bool("attention_bias", true);
  SetAttentionBias(spec.attention, bias, bias);
  spec.attention.sinks = true;
  ReadSlidingLayers(
      c, SlidingWindow(c, 128), [](int64_t i) { return (i + 1) % 2 != 0; }, spec);
  spec.mlp.activation = Activation::kClampedSwiglu;
  spec.mlp.up_bias = spec.mlp.down_bias = true;
  spec.mlp.clamp = c.Double("swiglu_limit", 7);
  spec.mlp.alpha = c.Double("swiglu_alpha", 1.702);
  ReadExperts(c, "num_local_experts", 128, 4, spec);
  spec.moe.expert_ffn = spec.layers[0].ffn;
  spec.moe.score = RouterScore::kTopKThenSoftmax;
  spec.moe.router_bias = true;
  SetExpertLayers(c, Always, spec);
  draft.names.router = "mlp.router";
  draft.names.expert_layout = ExpertLayout::kInterleaved;
  draft.names.expert_gate_up = "mlp.experts.gate_up_proj";
  draft.names.expert_down = "mlp.experts.down_proj";
  draft.names.expert_weight_suffix = "";
  draft.names.expert_bias_suffix = "_bias";
}

namespace {

void ReadLatentAttention(ConfigReader& c, DecoderSpec& spec) {
  AttentionSpec& a = spec.attention;
  a.mla = true;
  a.q_lora_rank = c.Has("q_lora_rank") ? c.Dimension("q_lora_rank") : 0;
  a.kv_lora_rank = c.Dimension("kv_lora_rank", 512);
  a.qk_nope_dim = c.Int("qk_nope_head_dim", 1, kMaxHeadDim, 128);
  a.qk_rope_dim = c.Int("qk_rope_head_dim", 1, kMaxHeadDim, 64);
  a.value_dim = c.Int("v_head_dim", 1, kMaxHeadDim, 128);
  a.head_dim = a.qk_nope_dim + a.qk_rope_dim;
  a.latent_norm = spec.norm;
  a.latent_norm.eps = 1e-6;  // not configurable there
  const bool bias = c.Bool("attention_bias", false);
  SetAttentionBias(a, bias, bias);
  a.scale = 1 / std::sqrt(static_cast<double>(a.head_dim));
  const Json* rope = RopeParameters(c, nullptr, true);
  if (rope == nullptr || spec.ropes[0].kind == RopeKind::kDefault) return;
  const double all_dim = rope->GetDouble("mscale_all_dim");
  if (all_dim == 0) return;
  const double magnitude = YarnMagnitude(spec.ropes[0].factor, all_dim);
  a.scale *= magnitude * magnitude;
}

}  // namespace

void FillDeepseekV3(ConfigReader& c, Draft& draft) {
  DecoderSpec& spec = draft.spec;
  const TrunkDefaults defaults{.context = 4096};
  ReadTrunk(c, defaults, spec);
  const int64_t rope_dim = c.Int("qk_rope_head_dim", 2, kMaxHeadDim, 64);
  AddRope(c, {.width = rope_dim, .interleaved = c.Bool("rope_interleave", true)}, spec);
  ReadLatentAttention(c, spec);
  ReadExperts(c, "n_routed_experts", 256, 8, spec);
  MoeSpec& m = spec.moe;
  m.expert_ffn = c.Dimension("moe_intermediate_size", 2048);
  m.score = RouterScore::kSigmoidThenTopK;
  m.correction_bias = true;
  m.router_fp32 = true;
  m.renormalise = c.Bool("norm_topk_prob", true);
  m.renormalise_eps = 1e-20;
  m.routed_scale = c.Double("routed_scaling_factor", 2.5);
  m.groups = c.Int("n_group", 1, kMaxExperts, 8);
  m.groups_per_token = c.Int("topk_group", 1, kMaxExperts, 4);
  m.shared_ffn = m.expert_ffn * c.Int("n_shared_experts", 0, kMaxExperts, 1);
  if (m.experts % m.groups != 0 || m.groups_per_token > m.groups) {
    c.FailInvalid(absl::StrCat("n_group ", m.groups, " and topk_group ", m.groups_per_token,
                               " do not fit ", m.experts, " experts"));
  }
  const int64_t dense = c.Int("first_k_dense_replace", 0, kMaxLayers, 3);
  SetExpertLayers(
      c, [&](int64_t i) { return i >= dense; }, spec);
  draft.names.shared_gate = "mlp.shared_experts.gate_proj";
  draft.names.shared_up = "mlp.shared_experts.up_proj";
  draft.names.shared_down = "mlp.shared_experts.down_proj";
}

}  // namespace graft::spec
