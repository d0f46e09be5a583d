// What a family file gives: from config.json to the normal form, and how the Hub names its tensors.
// To add a family: write Fill...() in family_x.cc, add its row to the table in family.cc, its case
// to tests/parity/spec/make_golden.py, and, where llama.cpp knows it, its row to gguf_names.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/spec/config_reader.h"
#include "worker/spec/decoder_spec.h"
#include "worker/spec/tensor_names.h"

namespace graft::spec {

struct Draft {
  DecoderSpec spec;
  TensorNames names;
};

struct Family {
  const char* model_type;
  const char* architecture;
  void (*fill)(ConfigReader& c, Draft& draft);
};

// In the order of their names.
const std::vector<Family>& Families();
// UNIMPLEMENTED with the list of known families.
absl::StatusOr<const Family*> FindFamily(absl::string_view model_type);

// --- What family files share ---

// Defaults of a configuration class, for the keys that config.json leaves out.
struct TrunkDefaults {
  int64_t context = 2048;
  int64_t kv_heads = 0;  // 0: as many as heads
  int64_t head_dim = 0;  // 0: hidden / heads
  double eps = 1e-6;
  const char* eps_key = "rms_norm_eps";
  const char* activation = "silu";
  const char* activation_key = "hidden_act";
  bool tied = false;
  double theta = 10000;
};

// Sizes, heads, layers (each with the dense MLP and rope 0), the norm's eps, the activation, ids.
void ReadTrunk(ConfigReader& c, const TrunkDefaults& defaults, DecoderSpec& spec);

struct RopeDefaults {
  double theta = 10000;
  int64_t width = 0;  // of which `partial` is rotated; 0: the head's
  double partial = 1;
  bool interleaved = false;
  // The key of rope_parameters that holds this rotation ("full_attention"), where they are by
  // layer type; and the older keys that such files wrote instead.
  const char* layer_type = nullptr;
  const char* legacy_theta_key = "rope_theta";
  bool legacy_scaling = true;     // rope_scaling belongs to this rotation
  bool yarn_is_longrope = false;  // phi3's older files
  const char* kind = "default";   // where nothing tells it
};
// Reads a rotation from rope_parameters (transformers 5) or rope_scaling and rope_theta (before),
// appends it and returns its index.
int AddRope(ConfigReader& c, const RopeDefaults& defaults, DecoderSpec& spec);
// The same for the usual case: one rotation for all layers.
inline void ReadRope(ConfigReader& c, const TrunkDefaults& trunk, DecoderSpec& spec) {
  AddRope(c, {.theta = trunk.theta}, spec);
}
// The rotation's parameters, wherever the configuration keeps them; nullptr where it keeps none.
const Json* RopeParameters(const ConfigReader& c, const char* layer_type, bool legacy_scaling);
// 0.1 * mscale * ln(scale) + 1, or 1.
double YarnMagnitude(double scale, double mscale);

// Gives layers a sliding window: those that layer_types calls sliding_attention, else those that
// `by_default` picks. Without a window nothing happens.
void ReadSlidingLayers(ConfigReader& c, int64_t window,
                       const std::function<bool(int64_t layer)>& by_default, DecoderSpec& spec);
// The `sliding_window` key: `fallback` where it is absent, 0 where it is null.
int64_t SlidingWindow(ConfigReader& c, int64_t fallback);

void SetAttentionBias(AttentionSpec& attention, bool qkv, bool o);
Activation ReadActivation(ConfigReader& c, absl::string_view name);

// --- The families ---
void FillLlama(ConfigReader& c, Draft& draft);
void FillMistral(ConfigReader& c, Draft& draft);
void FillMixtral(ConfigReader& c, Draft& draft);
void FillQwen2(ConfigReader& c, Draft& draft);
void FillQwen2Moe(ConfigReader& c, Draft& draft);
void FillQwen3(ConfigReader& c, Draft& draft);
void FillQwen3Moe(ConfigReader& c, Draft& draft);
void FillGemma(ConfigReader& c, Draft& draft);
void FillGemma2(ConfigReader& c, Draft& draft);
void FillGemma3(ConfigReader& c, Draft& draft);
void FillPhi3(ConfigReader& c, Draft& draft);
void FillGptOss(ConfigReader& c, Draft& draft);
void FillOlmo2(ConfigReader& c, Draft& draft);
void FillOlmo3(ConfigReader& c, Draft& draft);
void FillOlmoe(ConfigReader& c, Draft& draft);
void FillSmolLm3(ConfigReader& c, Draft& draft);
void FillGranite(ConfigReader& c, Draft& draft);
void FillGraniteMoe(ConfigReader& c, Draft& draft);
void FillNemotron(ConfigReader& c, Draft& draft);
void FillStarcoder2(ConfigReader& c, Draft& draft);
void FillCohere(ConfigReader& c, Draft& draft);
void FillCohere2(ConfigReader& c, Draft& draft);
void FillGlm4(ConfigReader& c, Draft& draft);
void FillDeepseekV3(ConfigReader& c, Draft& draft);
void FillGpt2(ConfigReader& c, Draft& draft);

}  // namespace graft::spec
