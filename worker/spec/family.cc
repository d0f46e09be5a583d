#include "worker/spec/family.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace graft::spec {
namespace {

struct RopeName {
  const char* name;
  RopeKind kind;
};
constexpr RopeName kRopeNames[] = {
    {"default", RopeKind::kDefault}, {"linear", RopeKind::kLinear},
    {"dynamic", RopeKind::kDynamic}, {"llama3", RopeKind::kLlama3},
    {"yarn", RopeKind::kYarn},       {"longrope", RopeKind::kLongRope},
    {"su", RopeKind::kLongRope},
};

struct ActivationName {
  const char* name;
  Activation activation;
};
constexpr ActivationName kActivations[] = {
    {"silu", Activation::kSilu},
    {"swish", Activation::kSilu},
    {"gelu", Activation::kGelu},
    {"gelu_new", Activation::kGeluTanh},
    {"gelu_pytorch_tanh", Activation::kGeluTanh},
    {"relu2", Activation::kReluSquared},
    {"relu", Activation::kRelu},
};

RopeKind KindNamed(ConfigReader& c, const std::string& name) {
  for (const RopeName& row : kRopeNames) {
    if (name == row.name) return row.kind;
  }
  c.Fail(absl::UnimplementedError(absl::StrCat(
      "config.json: the rotary embedding \"", name,
      "\" is not supported; the known are default, linear, dynamic, llama3, yarn, longrope")));
  return RopeKind::kDefault;
}

// The kinds that stretch the context, from their own parameters `p`.
void ReadScaling(ConfigReader& c, ConfigReader& p, RopeSpec& rope) {
  if (rope.kind == RopeKind::kDefault) return;
  rope.original_context =
      p.Int("original_max_position_embeddings", 1, kMaxContext, rope.max_context);
  // phi3 keeps it beside the others, where it comes first.
  rope.original_context =
      c.Int("original_max_position_embeddings", 1, kMaxContext, rope.original_context);
  const double ratio =
      static_cast<double>(rope.max_context) / static_cast<double>(rope.original_context);
  const bool by_ratio = rope.kind == RopeKind::kYarn || rope.kind == RopeKind::kLongRope;
  if (!by_ratio && !p.Has("factor")) c.FailInvalid("the rotary embedding's factor is missing");
  rope.factor = p.Double("factor", by_ratio ? ratio : 1);
  if (!(rope.factor > 0)) c.FailInvalid("the rotary embedding's factor is not above 0");
  if (rope.kind == RopeKind::kLlama3) {
    rope.low_freq_factor = p.Double("low_freq_factor", 1);
    rope.high_freq_factor = p.Double("high_freq_factor", 4);
    if (!(rope.low_freq_factor > 0) || !(rope.high_freq_factor > rope.low_freq_factor)) {
      c.FailInvalid("low_freq_factor and high_freq_factor are not 0 < low < high");
    }
  }
}

void ReadYarn(ConfigReader& c, ConfigReader& p, RopeSpec& rope) {
  rope.beta_fast = p.Double("beta_fast", 32);
  rope.beta_slow = p.Double("beta_slow", 1);
  rope.truncate = p.Bool("truncate", true);
  if (!(rope.beta_fast > 0) || !(rope.beta_slow > 0)) {
    c.FailInvalid("beta_fast and beta_slow of the rotary embedding are not above 0");
  }
  const double mscale = p.Double("mscale", 0);
  const double mscale_all_dim = p.Double("mscale_all_dim", 0);
  const double derived =
      mscale != 0 && mscale_all_dim != 0
          ? YarnMagnitude(rope.factor, mscale) / YarnMagnitude(rope.factor, mscale_all_dim)
          : YarnMagnitude(rope.factor, 1);
  rope.attention_factor = p.Double("attention_factor", derived);
}

void ReadLongRope(ConfigReader& c, ConfigReader& p, RopeSpec& rope) {
  rope.short_factor = p.Doubles("short_factor");
  rope.long_factor = p.Doubles("long_factor");
  const size_t wanted = static_cast<size_t>(rope.rotary_dim / 2);
  if (rope.short_factor.size() != wanted || rope.long_factor.size() != wanted) {
    c.FailInvalid(absl::StrCat("short_factor and long_factor of the rotary embedding have ",
                               rope.short_factor.size(), " and ", rope.long_factor.size(),
                               " numbers, not ", wanted));
  }
  const double derived =
      rope.factor <= 1 ? 1
                       : std::sqrt(1 + std::log(rope.factor) /
                                           std::log(static_cast<double>(rope.original_context)));
  rope.attention_factor = p.Double("attention_factor", derived);
}

void ReadIds(ConfigReader& c, DecoderSpec& spec) {
  const std::vector<int64_t> bos = c.IntOrInts("bos_token_id");
  if (!bos.empty()) spec.bos_id = bos[0];
  spec.pad_id = c.Int("pad_token_id", -1, kMaxDimension, -1);
  spec.eos_ids = c.IntOrInts("eos_token_id");
}

}  // namespace

const std::vector<Family>& Families() {
  static const std::vector<Family>* const families = new std::vector<Family>{
      {"cohere", "CohereForCausalLM", FillCohere},
      {"cohere2", "Cohere2ForCausalLM", FillCohere2},
      {"deepseek_v3", "DeepseekV3ForCausalLM", FillDeepseekV3},
      {"gemma", "GemmaForCausalLM", FillGemma},
      {"gemma2", "Gemma2ForCausalLM", FillGemma2},
      {"gemma3_text", "Gemma3ForCausalLM", FillGemma3},
      {"glm4", "Glm4ForCausalLM", FillGlm4},
      {"gpt2", "GPT2LMHeadModel", FillGpt2},
      {"gpt_oss", "GptOssForCausalLM", FillGptOss},
      {"granite", "GraniteForCausalLM", FillGranite},
      {"granitemoe", "GraniteMoeForCausalLM", FillGraniteMoe},
      {"llama", "LlamaForCausalLM", FillLlama},
      {"mistral", "MistralForCausalLM", FillMistral},
      {"mixtral", "MixtralForCausalLM", FillMixtral},
      {"nemotron", "NemotronForCausalLM", FillNemotron},
      {"olmo2", "Olmo2ForCausalLM", FillOlmo2},
      {"olmo3", "Olmo3ForCausalLM", FillOlmo3},
      {"olmoe", "OlmoeForCausalLM", FillOlmoe},
      {"phi3", "Phi3ForCausalLM", FillPhi3},
      {"qwen2", "Qwen2ForCausalLM", FillQwen2},
      {"qwen2_moe", "Qwen2MoeForCausalLM", FillQwen2Moe},
      {"qwen3", "Qwen3ForCausalLM", FillQwen3},
      {"qwen3_moe", "Qwen3MoeForCausalLM", FillQwen3Moe},
      {"smollm3", "SmolLM3ForCausalLM", FillSmolLm3},
      {"starcoder2", "Starcoder2ForCausalLM", FillStarcoder2},
  };
  return *families;
}

absl::StatusOr<const Family*> FindFamily(absl::string_view model_type) {
  for (const Family& family : Families()) {
    if (model_type == family.model_type) return &family;
  }
  const std::string known = absl::StrJoin(Families(), ", ", [](std::string* out, const Family& f) {
    absl::StrAppend(out, f.model_type);
  });
  return absl::UnimplementedError(absl::StrCat("the model family \"", model_type,
                                               "\" is not supported; the known are ", known));
}

Activation ReadActivation(ConfigReader& c, absl::string_view name) {
  for (const ActivationName& row : kActivations) {
    if (name == row.name) return row.activation;
  }
  c.Fail(absl::UnimplementedError(
      absl::StrCat("config.json: the activation \"", name,
                   "\" is not supported; the known are silu, gelu, gelu_new, gelu_pytorch_tanh, "
                   "relu, relu2")));
  return Activation::kSilu;
}

void ReadTrunk(ConfigReader& c, const TrunkDefaults& defaults, DecoderSpec& spec) {
  spec.hidden = c.Dimension("hidden_size");
  spec.vocab = c.Dimension("vocab_size");
  spec.context = c.Int("max_position_embeddings", 1, kMaxContext, defaults.context);
  AttentionSpec& a = spec.attention;
  a.heads = c.Int("num_attention_heads", 1, kMaxHeads);
  const int64_t kv_heads = defaults.kv_heads > 0 ? defaults.kv_heads : a.heads;
  a.kv_heads = c.Int("num_key_value_heads", 1, kMaxHeads, kv_heads);
  if (a.heads % a.kv_heads != 0) {
    c.FailInvalid(absl::StrCat("num_attention_heads ", a.heads,
                               " is no multiple of num_key_value_heads ", a.kv_heads));
  }
  const int64_t derived = defaults.head_dim > 0 ? defaults.head_dim : spec.hidden / a.heads;
  a.head_dim = c.Int("head_dim", 1, kMaxHeadDim, derived);
  if (a.head_dim < 1 || a.head_dim > kMaxHeadDim) {
    c.FailInvalid(absl::StrCat("hidden_size ", spec.hidden, " does not give ", a.heads, " heads"));
    a.head_dim = 1;
  }
  a.value_dim = a.head_dim;
  a.scale = 1 / std::sqrt(static_cast<double>(a.head_dim));
  const int64_t ffn = c.Dimension("intermediate_size");
  spec.layers.assign(static_cast<size_t>(c.Int("num_hidden_layers", 1, kMaxLayers)),
                     LayerSpec{.ffn = ffn});
  spec.norm.eps = c.Double(defaults.eps_key, defaults.eps);
  spec.mlp.activation = ReadActivation(c, c.String(defaults.activation_key, defaults.activation));
  spec.tied_embeddings = c.Bool("tie_word_embeddings", defaults.tied);
  ReadIds(c, spec);
}

double YarnMagnitude(double scale, double mscale) {
  return scale <= 1 ? 1 : 0.1 * mscale * std::log(scale) + 1;
}

const Json* RopeParameters(const ConfigReader& c, const char* layer_type, bool legacy_scaling) {
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* value = c.json().Find(key);
    if (value == nullptr || !value->is_object() || value->as_object().empty()) continue;
    if (layer_type != nullptr) {
      const Json* own = value->Find(layer_type);
      if (own != nullptr && own->is_object()) return own;
      if (value->Find("full_attention") != nullptr || !legacy_scaling) continue;
    }
    return value;
  }
  return nullptr;
}

int AddRope(ConfigReader& c, const RopeDefaults& defaults, DecoderSpec& spec) {
  static const Json* const kEmpty = new Json(Json::MakeObject());
  const Json* found = RopeParameters(c, defaults.layer_type, defaults.legacy_scaling);
  ConfigReader p(found == nullptr ? *kEmpty : *found);
  RopeSpec rope;
  std::string kind = p.String("rope_type", p.String("type", defaults.kind));
  if (kind == "yarn" && defaults.yarn_is_longrope) kind = "longrope";
  rope.kind = KindNamed(c, kind);
  rope.interleaved = defaults.interleaved;
  rope.max_context = spec.context;
  rope.theta = p.Double("rope_theta", c.Double(defaults.legacy_theta_key, defaults.theta));
  if (!(rope.theta > 1)) c.FailInvalid("rope_theta is not above 1");
  const int64_t width = defaults.width > 0 ? defaults.width : spec.attention.head_dim;
  const double partial =
      p.Double("partial_rotary_factor", c.Double("partial_rotary_factor", defaults.partial));
  if (!(partial > 0 && partial <= 1)) c.FailInvalid("partial_rotary_factor is not within 0 to 1");
  rope.rotary_dim = static_cast<int64_t>(static_cast<double>(width) * partial);
  if (rope.rotary_dim < 2 || rope.rotary_dim % 2 != 0) {
    c.FailInvalid(absl::StrCat("the rotary embedding turns ", rope.rotary_dim,
                               " dimensions, which must be even"));
  }
  ReadScaling(c, p, rope);
  if (rope.kind == RopeKind::kYarn) ReadYarn(c, p, rope);
  if (rope.kind == RopeKind::kLongRope) ReadLongRope(c, p, rope);
  c.Fail(p.status());
  spec.ropes.push_back(std::move(rope));
  return static_cast<int>(spec.ropes.size()) - 1;
}

int64_t SlidingWindow(ConfigReader& c, int64_t fallback) {
  const Json* value = c.json().Find("sliding_window");
  if (value != nullptr && value->is_null()) return 0;
  return c.Int("sliding_window", 0, kMaxContext, fallback);
}

void ReadSlidingLayers(ConfigReader& c, int64_t window,
                       const std::function<bool(int64_t layer)>& by_default, DecoderSpec& spec) {
  const std::vector<std::string> types = c.Strings("layer_types");
  if (!types.empty() && types.size() < spec.layers.size()) {
    c.FailInvalid(absl::StrCat("layer_types has ", types.size(), " entries for ",
                               spec.layers.size(), " layers"));
    return;
  }
  for (size_t i = 0; i < spec.layers.size(); ++i) {
    bool sliding = by_default(static_cast<int64_t>(i));
    if (!types.empty()) {
      sliding = types[i] == "sliding_attention";
      if (!sliding && types[i] != "full_attention") {
        c.Fail(absl::UnimplementedError(
            absl::StrCat("config.json: the layer type \"", types[i],
                         "\" is not supported; the known are full_attention, sliding_attention")));
      }
    }
    spec.layers[i].sliding_window = sliding ? window : 0;
  }
}

void SetAttentionBias(AttentionSpec& attention, bool qkv, bool o) {
  attention.q_bias = attention.k_bias = attention.v_bias = qkv;
  attention.o_bias = o;
}

std::string RopeKindName(RopeKind kind) {
  for (const RopeName& one : kRopeNames) {
    if (one.kind == kind) return one.name;
  }
  return "";
}

}  // namespace graft::spec
