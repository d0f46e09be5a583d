#include "worker/spec/gguf_model.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "worker/spec/config_reader.h"
#include "worker/spec/rope.h"

namespace graft::spec {
namespace {

// What tells llama.cpp's architectures apart, beyond the keys that all share.
struct GgufArchitecture {
  const char* name;
  const char* model_type;
  bool permuted = false;  // q's and k's rows in the order of its own rotation
  double norm_add = 0;    // gemma and nemotron: 1 was added to the norms' weights
  bool fused_qkv = false;
  bool fused_gate_up = false;    // in ffn_up
  const char* sliding = "none";  // none, all (each layer) or own (the family's pattern)
};
constexpr GgufArchitecture kArchitectures[] = {
    {"llama", "llama", true},
    {"command-r", "cohere"},
    {"cohere2", "cohere2", false, 0, false, false, "own"},
    {"gemma", "gemma", false, -1},
    {"gemma2", "gemma2", false, -1, false, false, "own"},
    {"gemma3", "gemma3_text", false, -1, false, false, "own"},
    {"gpt-oss", "gpt_oss", false, 0, false, false, "own"},
    {"gpt2", "gpt2", false, 0, true},
    {"granite", "granite", true},
    {"granitemoe", "granitemoe", true},
    {"nemotron", "nemotron", false, -1},
    {"olmo2", "olmo2"},
    {"olmoe", "olmoe"},
    {"phi3", "phi3", false, 0, true, true, "all"},
    {"qwen2", "qwen2"},
    {"qwen2moe", "qwen2_moe"},
    {"qwen3", "qwen3"},
    {"qwen3moe", "qwen3_moe"},
    {"smollm3", "smollm3", true},
    {"starcoder2", "starcoder2", false, 0, false, false, "all"},
};

struct KeyPair {
  const char* gguf;  // behind "<architecture>."
  const char* config;
};
constexpr KeyPair kKeys[] = {
    {"embedding_length", "hidden_size"},
    {"block_count", "num_hidden_layers"},
    {"attention.head_count", "num_attention_heads"},
    {"attention.head_count_kv", "num_key_value_heads"},
    {"attention.key_length", "head_dim"},
    {"context_length", "max_position_embeddings"},
    {"feed_forward_length", "intermediate_size"},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps"},
    {"attn_logit_softcapping", "attn_logit_softcapping"},
    {"final_logit_softcapping", "final_logit_softcapping"},
    {"attention.clamp_kqv", "clip_qkv"},
    {"embedding_scale", "embedding_multiplier"},
    {"residual_scale", "residual_multiplier"},
    {"attention.scale", "attention_multiplier"},
    {"expert_used_count", "num_experts_per_tok"},
    {"expert_feed_forward_length", "moe_intermediate_size"},
    {"expert_shared_feed_forward_length", "shared_expert_intermediate_size"},
};

const GgufArchitecture* FindArchitecture(absl::string_view name) {
  for (const GgufArchitecture& row : kArchitectures) {
    if (name == row.name) return &row;
  }
  return nullptr;
}

class Converter {
 public:
  Converter(const GgufHeader& gguf, const GgufArchitecture& arch, const ByteSource& source)
      : gguf_(gguf), arch_(arch), source_(source) {}

  absl::StatusOr<Json> Convert() && {
    config_.Set("model_type", ModelType());
    for (const KeyPair& pair : kKeys) Copy(pair.gguf, pair.config);
    GRAFT_RETURN_IF_ERROR(Vocabulary());
    config_.Set("tie_word_embeddings", !Has("output.weight"));
    config_.Set("attention_bias", Has("blk.0.attn_q.bias") || Has("blk.0.attn_qkv.bias"));
    config_.Set("mlp_bias", Has("blk.0.ffn_up.bias"));
    Tokens();
    Particular();
    GRAFT_RETURN_IF_ERROR(Rope());
    return std::move(config_);
  }

 private:
  bool Has(absl::string_view tensor) const { return gguf_.tensors.contains(tensor); }
  const Json* Key(absl::string_view key) const {
    return gguf_.Find(absl::StrCat(arch_.name, ".", key));
  }
  double Number(absl::string_view key, double fallback) const {
    const Json* value = Key(key);
    return value != nullptr && value->is_number() ? value->as_double() : fallback;
  }
  std::string ModelType() const {
    const bool experts = Number("expert_count", 0) > 0;
    return absl::string_view(arch_.name) == "llama" && experts ? "mixtral" : arch_.model_type;
  }

  void Copy(absl::string_view key, absl::string_view to) {
    const Json* value = Key(key);
    if (value == nullptr) return;
    // Some keys are arrays with a number for each layer; they agree in every family here.
    if (value->is_array() && !value->as_array().empty()) value = &value->as_array()[0];
    if (value->is_number()) config_.Set(to, *value);
  }

  absl::Status Vocabulary() {
    const auto it = gguf_.tensors.find("token_embd.weight");
    if (it == gguf_.tensors.end() || it->second.shape.size() != 2) {
      return absl::InvalidArgumentError("tensor token_embd.weight is missing or no matrix");
    }
    config_.Set("vocab_size", it->second.shape[0]);
    return absl::OkStatus();
  }

  void Tokens() {
    for (const char* name : {"bos", "eos"}) {
      const Json* id = gguf_.Find(absl::StrCat("tokenizer.ggml.", name, "_token_id"));
      config_.Set(absl::StrCat(name, "_token_id"), id == nullptr ? Json() : *id);
    }
    const Json* pad = gguf_.Find("tokenizer.ggml.padding_token_id");
    config_.Set("pad_token_id", pad == nullptr ? Json() : *pad);
  }

  // What single families call differently.
  void Particular() {
    const std::string type = ModelType();
    const Json eps(Number("attention.layer_norm_epsilon", 1e-5));
    for (const char* key : {"layer_norm_eps", "norm_eps", "norm_epsilon", "layer_norm_epsilon"}) {
      if (Key("attention.layer_norm_epsilon") != nullptr) config_.Set(key, eps);
    }
    if (const double experts = Number("expert_count", 0); experts > 0) {
      const Json count(static_cast<int64_t>(experts));
      config_.Set("num_experts", count);
      config_.Set("num_local_experts", count);
      config_.Set("norm_topk_prob", type == "qwen3_moe");
    }
    if (Key("logit_scale") != nullptr) {
      const double scale = Number("logit_scale", 1);
      config_.Set(type == "cohere" || type == "cohere2" ? "logit_scale" : "logits_scaling", scale);
    }
    if (type == "cohere") config_.Set("use_qk_norm", Has("blk.0.attn_q_norm.weight"));
    if (type == "gpt2") NameGpt2Keys();
    // Its files hold the tied table twice.
    if (type == "gpt2") config_.Set("tie_word_embeddings", true);
    if (type == "gemma2" || type == "gemma3_text")
      config_.Set("query_pre_attn_scalar", QueryScalar());
    if (type == "starcoder2") config_.Set("use_bias", Has("blk.0.attn_output.bias"));
    const std::string sliding = arch_.sliding;
    if (sliding != "none") Copy("attention.sliding_window", "sliding_window");
    if (sliding == "all" && Key("attention.sliding_window") == nullptr) {
      config_.Set("sliding_window", Json());
    }
  }

  void NameGpt2Keys() {
    constexpr KeyPair kGpt2[] = {{"embedding_length", "n_embd"},
                                 {"block_count", "n_layer"},
                                 {"attention.head_count", "n_head"},
                                 {"context_length", "n_positions"},
                                 {"feed_forward_length", "n_inner"}};
    for (const KeyPair& pair : kGpt2) Copy(pair.gguf, pair.config);
  }

  // llama.cpp knows the models of these families by their layers: the 27B ones divide the hidden
  // size by the heads, all others use the head's size.
  Json QueryScalar() const {
    const double layers = Number("block_count", 0);
    const double heads = std::max(1.0, Number("attention.head_count", 1));
    const bool largest = ModelType() == "gemma2" ? layers == 46 : layers == 62;
    return Json(static_cast<int64_t>(largest ? Number("embedding_length", 0) / heads
                                             : Number("attention.key_length", 256)));
  }

  absl::StatusOr<std::vector<float>> Floats(const std::string& tensor) const {
    const auto it = gguf_.tensors.find(tensor);
    if (it == gguf_.tensors.end()) return std::vector<float>();
    const TensorInfo& info = it->second;
    if (info.dtype != DType::kF32 || info.elements() > kMaxHeadDim) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", tensor, ": not a short F32 vector"));
    }
    std::vector<float> values(static_cast<size_t>(info.elements()));
    GRAFT_RETURN_IF_ERROR(
        source_.ReadAt(info.offset, info.bytes, reinterpret_cast<char*>(values.data())));
    return values;
  }

  static Json Numbers(const std::vector<float>& values) {
    Json array = Json::MakeArray();
    for (float v : values) array.Append(static_cast<double>(v));
    return array;
  }

  double HeadDim() const {
    const double heads = std::max(1.0, Number("attention.head_count", 1));
    return Number("attention.key_length", std::floor(Number("embedding_length", 0) / heads));
  }

  absl::Status Rope() {
    Json rope = Json::MakeObject();
    rope.Set("rope_theta", Number("rope.freq_base", 10000));
    const double rotated = Number("rope.dimension_count", HeadDim());
    if (rotated > 0 && rotated < HeadDim()) {
      rope.Set("partial_rotary_factor", rotated / HeadDim());
    }
    GRAFT_RETURN_IF_ERROR(Scaling(rope));
    if (ModelType() == "gemma3_text") {
      Json local = Json::MakeObject();
      local.Set("rope_type", "default").Set("rope_theta", Number("rope.freq_base_swa", 10000));
      Json both = Json::MakeObject();
      both.Set("full_attention", std::move(rope)).Set("sliding_attention", std::move(local));
      rope = std::move(both);
    }
    config_.Set("rope_parameters", std::move(rope));
    return absl::OkStatus();
  }

  absl::Status Scaling(Json& rope) {
    const double original =
        Number("rope.scaling.original_context_length", Number("context_length", 2048));
    GRAFT_ASSIGN_OR_RETURN(const std::vector<float> short_factor,
                           Floats("rope_factors_short.weight"));
    GRAFT_ASSIGN_OR_RETURN(const std::vector<float> long_factor,
                           Floats("rope_factors_long.weight"));
    if (!short_factor.empty() && !long_factor.empty()) {
      rope.Set("rope_type", "longrope");
      rope.Set("short_factor", Numbers(short_factor)).Set("long_factor", Numbers(long_factor));
      rope.Set("original_max_position_embeddings", static_cast<int64_t>(original));
      if (Key("rope.scaling.attn_factor") != nullptr) {
        rope.Set("attention_factor", Number("rope.scaling.attn_factor", 1));
      }
      return absl::OkStatus();
    }
    GRAFT_ASSIGN_OR_RETURN(const std::vector<float> divisors, Floats("rope_freqs.weight"));
    if (!divisors.empty()) return Llama3(divisors, rope);
    const Json* type = Key("rope.scaling.type");
    const std::string kind = type != nullptr && type->is_string() ? type->as_string() : "none";
    if (kind == "none") return absl::OkStatus();
    rope.Set("rope_type", kind).Set("factor", Number("rope.scaling.factor", 1));
    rope.Set("original_max_position_embeddings", static_cast<int64_t>(original));
    if (ModelType() == "gpt_oss") rope.Set("truncate", false);
    return absl::OkStatus();
  }

  // llama.cpp keeps the quotients of llama3's frequencies, not its parameters. Those in use share
  // all but the factor, so it is taken from the largest quotient and the rest is checked.
  absl::Status Llama3(const std::vector<float>& divisors, Json& rope) {
    RopeSpec spec;
    spec.theta = rope.GetDouble("rope_theta", 10000);
    spec.rotary_dim = static_cast<int64_t>(divisors.size()) * 2;
    spec.factor = *std::max_element(divisors.begin(), divisors.end());
    spec.original_context = 8192;
    const std::vector<float> plain = RopeInverseFrequencies(spec, 0);
    spec.kind = RopeKind::kLlama3;
    const std::vector<float> scaled = RopeInverseFrequencies(spec, 0);
    for (size_t i = 0; i < divisors.size(); ++i) {
      if (!(std::fabs(plain[i] / scaled[i] - divisors[i]) <= 1e-3 * divisors[i])) {
        return absl::UnimplementedError(
            "tensor rope_freqs.weight holds frequencies other than llama3's with an original "
            "context of 8192; use the model's safetensors files");
      }
    }
    if (spec.factor <= 1) return absl::OkStatus();
    rope.Set("rope_type", "llama3").Set("factor", spec.factor);
    rope.Set("low_freq_factor", 1.0).Set("high_freq_factor", 4.0);
    rope.Set("original_max_position_embeddings", int64_t{8192});
    return absl::OkStatus();
  }

  const GgufHeader& gguf_;
  const GgufArchitecture& arch_;
  const ByteSource& source_;
  Json config_ = Json::MakeObject();
};

std::string ArchitectureName(const GgufHeader& gguf) {
  const Json* name = gguf.Find("general.architecture");
  return name != nullptr && name->is_string() ? name->as_string() : "";
}

}  // namespace

absl::StatusOr<Json> ConfigOfGguf(const GgufHeader& gguf, const ByteSource& source) {
  const std::string name = ArchitectureName(gguf);
  const GgufArchitecture* arch = FindArchitecture(name);
  if (arch == nullptr) {
    const std::string known = absl::StrJoin(
        kArchitectures, ", ",
        [](std::string* out, const GgufArchitecture& a) { absl::StrAppend(out, a.name); });
    return absl::UnimplementedError(absl::StrCat("the GGUF architecture \"", name,
                                                 "\" is not supported; the known are ", known));
  }
  if (const Json* splits = gguf.Find("split.count");
      splits != nullptr && splits->is_int() && splits->as_int() > 1) {
    return absl::UnimplementedError(absl::StrCat("the model is split into ", splits->as_int(),
                                                 " GGUF files; merge them into one"));
  }
  return Converter(gguf, *arch, source).Convert();
}

TensorNames NamesOfGguf(const GgufHeader& gguf, const Json& config) {
  const GgufArchitecture* arch = FindArchitecture(ArchitectureName(gguf));
  TensorNames n;
  n.embed = "token_embd";
  n.positions = "position_embd";
  n.final_norm = "output_norm";
  n.head = "output";
  n.layers = "blk.";
  n.attn_norm = "attn_norm";
  n.attn_post_norm = "post_attention_norm";
  n.mlp_norm = config.GetString("model_type") == "gpt_oss" ? "post_attention_norm" : "ffn_norm";
  n.mlp_post_norm = "post_ffw_norm";
  n.q = "attn_q";
  n.k = "attn_k";
  n.v = "attn_v";
  if (arch->fused_qkv) n.qkv = "attn_qkv";
  n.o = "attn_output";
  n.q_norm = "attn_q_norm";
  n.k_norm = "attn_k_norm";
  n.sinks_tensor = "attn_sinks.weight";
  n.gate = "ffn_gate";
  n.up = "ffn_up";
  if (arch->fused_gate_up) n.gate_up = "ffn_up";
  n.down = "ffn_down";
  n.router = "ffn_gate_inp";
  n.expert_layout = ExpertLayout::kStacked;
  n.expert_gate = "ffn_gate_exps";
  n.expert_up = "ffn_up_exps";
  n.expert_down = "ffn_down_exps";
  n.shared_gate = "ffn_gate_shexp";
  n.shared_up = "ffn_up_shexp";
  n.shared_down = "ffn_down_shexp";
  n.shared_switch = "ffn_gate_inp_shexp";
  n.permuted_for_rotation = arch->permuted;
  n.norm_add = arch->norm_add;
  return n;
}

}  // namespace graft::spec
