#include "worker/trainer/adapter_files.h"

#include <functional>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "worker/trainer/model_export.h"
#include "worker/trainer/tensor_files.h"

namespace graft::trainer {
namespace {

constexpr absl::string_view kTensorPrefix = "base_model.model.";
constexpr char kWeights[] = "adapter_model.safetensors";
constexpr char kConfig[] = "adapter_config.json";

std::string Suffix(absl::string_view module) {
  return std::string(module.substr(module.rfind('.') + 1));
}

// The adapted modules as suffixes where no other linear ends so, else by their whole names.
std::set<std::string> TargetModules(const std::vector<spec::HubLinear>& all,
                                    const std::vector<const model::Adapter*>& adapters) {
  std::set<std::string> modules, suffixes;
  for (const model::Adapter* adapter : adapters) {
    modules.insert(adapter->module);
    suffixes.insert(Suffix(adapter->module));
  }
  for (const spec::HubLinear& linear : all) {
    if (suffixes.count(Suffix(linear.module)) > 0 && modules.count(linear.module) == 0) {
      return modules;
    }
  }
  return suffixes;
}

Json StringsOf(const std::set<std::string>& strings) {
  Json array = Json::MakeArray();
  for (const std::string& s : strings) array.Append(s);
  return array;
}

const char* BiasName(LoraBias bias) {
  if (bias == LoraBias::kNone) return "none";
  return bias == LoraBias::kAll ? "all" : "lora_only";
}

Json PeftConfig(const RunConfig& config, const std::set<std::string>& modules,
                const std::set<std::string>& parameters, bool fan_in_fan_out) {
  const TuningConfig& t = config.tuning;
  const std::set<std::string> saved(t.modules_to_save.begin(), t.modules_to_save.end());
  Json json = Json::MakeObject();
  json.Set("alpha_pattern", Json::MakeObject());
  json.Set("auto_mapping", Json());
  json.Set("base_model_name_or_path",
           config.model.name.empty() ? config.model.path : config.model.name);
  json.Set("bias", BiasName(t.bias));
  json.Set("fan_in_fan_out", fan_in_fan_out);
  json.Set("inference_mode", true);
  json.Set("init_lora_weights", true);
  json.Set("layers_pattern", Json());
  json.Set("layers_to_transform", Json());
  json.Set("lora_alpha", t.alpha);
  json.Set("lora_dropout", t.dropout);
  json.Set("modules_to_save", saved.empty() ? Json() : StringsOf(saved));
  json.Set("peft_type", "LORA");
  json.Set("r", t.rank);
  json.Set("rank_pattern", Json::MakeObject());
  json.Set("revision", Json());
  json.Set("target_modules", StringsOf(modules));
  if (!parameters.empty()) json.Set("target_parameters", StringsOf(parameters));
  json.Set("task_type", "CAUSAL_LM");
  json.Set("use_dora", t.dora);
  json.Set("use_rslora", t.rslora);
  return json;
}

// A tensor of the file. Where it does not lie so in memory `stored` is a copy, and `take` carries
// a changed one back.
struct FileTensor {
  std::string key;
  at::Tensor stored;
  std::function<void(const at::Tensor&)> take;
};

// peft keeps B of all experts as [out, r * E], the experts in turn, and the outputs in the order of
// the parameter that it adapts.
at::Tensor ToPeftB(const model::ExpertsAdapter& adapter) {
  at::Tensor b = adapter.b->value;
  const int64_t experts = b.size(0), out = b.size(1), rank = b.size(2);
  if (adapter.interleaved) {
    b = b.view({experts, 2, out / 2, rank}).transpose(1, 2).reshape({experts, out, rank});
  }
  return b.permute({1, 2, 0}).reshape({out, rank * experts}).contiguous();
}

void FromPeftB(const at::Tensor& stored, const model::ExpertsAdapter& adapter) {
  at::Tensor& b = adapter.b->value;
  const int64_t experts = b.size(0), out = b.size(1), rank = b.size(2);
  at::Tensor own = stored.view({out, rank, experts}).permute({2, 0, 1});
  if (adapter.interleaved) {
    own = own.reshape({experts, out / 2, 2, rank}).transpose(1, 2).reshape({experts, out, rank});
  }
  b.copy_(own);
}

// Biases that are trained beside the adapters, as tensors of the Hub layout.
absl::Status AddBiases(const spec::ModelDescription& description, model::Decoder& decoder,
                       std::vector<FileTensor>* tensors) {
  if (decoder.trained_biases.empty()) return absl::OkStatus();
  std::set<std::string> adapted;
  for (const model::Adapter* adapter : model::Adapters(decoder)) adapted.insert(adapter->module);
  for (const spec::HubTensor& tensor : spec::HubTensors(description)) {
    const auto& first = description.parameters[tensor.pieces.front().parameter];
    if (decoder.trained_biases.count(first.name) == 0) continue;
    GRAFT_ASSIGN_OR_RETURN(at::Tensor stored,
                           AssembleHubTensor(description, tensor, [&](const std::string& name) {
                             return decoder.Parameter(name);
                           }));
    const std::string module(absl::StripSuffix(tensor.name, ".bias"));
    const char* suffix = adapted.count(module) > 0 ? ".base_layer.bias" : ".bias";
    const auto take = [&description, &decoder, tensor](const at::Tensor& read) {
      for (const spec::HubTensor::Piece& piece : tensor.pieces) {
        const spec::Parameter& p = description.parameters[piece.parameter];
        const spec::TensorSlice& slice = p.hub[piece.slice];
        decoder.parameters.at(p.name).copy_(
            slice.count > 0 ? read.slice(0, slice.begin, slice.begin + slice.count) : read);
      }
    };
    tensors->push_back({absl::StrCat(kTensorPrefix, module, suffix), std::move(stored), take});
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<FileTensor>> FileTensors(const spec::ModelDescription& description,
                                                    model::Decoder& decoder) {
  std::vector<FileTensor> tensors;
  for (const model::Adapter* adapter : model::Adapters(decoder)) {
    const std::string key = absl::StrCat(kTensorPrefix, adapter->module);
    tensors.push_back({absl::StrCat(key, ".lora_A.weight"), adapter->a->value, nullptr});
    tensors.push_back({absl::StrCat(key, ".lora_B.weight"), adapter->b->value, nullptr});
    if (adapter->magnitude != nullptr) {
      tensors.push_back(
          {absl::StrCat(key, ".lora_magnitude_vector"), adapter->magnitude->value, nullptr});
    }
  }
  if (const model::Adapter& embed = decoder.embed_adapter; embed.rank > 0) {
    const std::string key = absl::StrCat(kTensorPrefix, embed.module);
    tensors.push_back({absl::StrCat(key, ".lora_embedding_A"), embed.a->value, nullptr});
    tensors.push_back({absl::StrCat(key, ".lora_embedding_B"), embed.b->value, nullptr});
  }
  for (const model::ExpertsAdapter& adapter : decoder.experts_adapters) {
    const std::string key = absl::StrCat(kTensorPrefix, adapter.module);
    const at::Tensor& a = adapter.a->value;
    tensors.push_back({absl::StrCat(key, ".lora_A.weight"), a.flatten(0, 1), nullptr});
    tensors.push_back({absl::StrCat(key, ".lora_B.weight"), ToPeftB(adapter),
                       [&adapter](const at::Tensor& read) { FromPeftB(read, adapter); }});
  }
  for (const auto& [name, tensor] : decoder.saved_modules) {
    tensors.push_back({absl::StrCat(kTensorPrefix, name), tensor, nullptr});
  }
  GRAFT_RETURN_IF_ERROR(AddBiases(description, decoder, &tensors));
  return tensors;
}

// "experts.gate_up_proj", whatever the layer.
std::set<std::string> TargetParameters(const model::Decoder& decoder) {
  std::set<std::string> parameters;
  for (const model::ExpertsAdapter& adapter : decoder.experts_adapters) {
    parameters.insert(adapter.gate_up ? "experts.gate_up_proj" : "experts.down_proj");
  }
  return parameters;
}

void AppendStrings(const Json& json, absl::string_view key, std::vector<std::string>* to) {
  const Json* list = json.Find(key);
  if (list == nullptr || !list->is_array()) return;
  for (const Json& item : list->as_array()) {
    if (item.is_string()) to->push_back(item.as_string());
  }
}

}  // namespace

absl::Status WriteAdapter(const std::string& folder, const RunConfig& config,
                          const spec::ModelDescription& description, model::Decoder& decoder) {
  GRAFT_RETURN_IF_ERROR(MakeDirectories(folder));
  const std::vector<spec::HubLinear> all = spec::HubLinears(description);
  bool transposed = false;
  for (const spec::HubLinear& linear : all) transposed = transposed || linear.transposed;
  std::set<std::string> modules = TargetModules(all, model::Adapters(decoder));
  if (decoder.embed_adapter.rank > 0) modules.insert(Suffix(decoder.embed_adapter.module));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<FileTensor> tensors, FileTensors(description, decoder));
  NamedTensors named;
  for (const FileTensor& t : tensors) named.emplace_back(t.key, t.stored);
  GRAFT_RETURN_IF_ERROR(WriteTensors(folder, "adapter_model", named).status());
  const Json json = PeftConfig(config, modules, TargetParameters(decoder), transposed);
  return WriteFileAtomically(JoinPath(folder, kConfig), json.Dump(2) + "\n");
}

absl::StatusOr<model::LoraOptions> ReadAdapterOptions(const std::string& folder) {
  const std::string path = JoinPath(folder, kConfig);
  GRAFT_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, spec::kMaxConfigBytes));
  auto json = Json::Parse(text);
  if (!json.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", json.status().message()));
  }
  if (const std::string type = json->GetString("peft_type"); type != "LORA") {
    return absl::UnimplementedError(
        absl::StrCat(path, ": peft_type is \"", type, "\"; only LORA is read"));
  }
  for (const char* pattern : {"rank_pattern", "alpha_pattern"}) {
    const Json* value = json->Find(pattern);
    if (value != nullptr && value->is_object() && !value->as_object().empty()) {
      return absl::UnimplementedError(absl::StrCat(path, ": ", pattern, " is not read"));
    }
  }
  model::LoraOptions options;
  options.rank = json->GetInt("r");
  options.alpha = json->GetDouble("lora_alpha");
  options.rslora = json->GetBool("use_rslora");
  options.dora = json->GetBool("use_dora");
  if (options.rank < 1) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": r is ", options.rank));
  }
  const std::string bias = json->GetString("bias");
  options.bias = bias == "all"         ? model::TrainedBias::kAll
                 : bias == "lora_only" ? model::TrainedBias::kAdapted
                                       : model::TrainedBias::kNone;
  AppendStrings(*json, "modules_to_save", &options.modules_to_save);
  AppendStrings(*json, "target_parameters", &options.target_modules);
  // The tensors say which modules there are, whatever pattern chose them.
  GRAFT_ASSIGN_OR_RETURN(const spec::TensorIndex tensors, ListTensors(JoinPath(folder, kWeights)));
  for (const auto& [name, info] : tensors) {
    absl::string_view module = name;
    if (!absl::ConsumePrefix(&module, kTensorPrefix)) continue;
    if (absl::ConsumeSuffix(&module, ".lora_A.weight")) {
      const bool stacked =
          absl::EndsWith(module, ".experts") || absl::EndsWith(module, ".experts.base_layer");
      if (!stacked) options.target_modules.emplace_back(module);
    } else if (absl::ConsumeSuffix(&module, ".lora_embedding_A")) {
      options.target_modules.emplace_back(module);
    }
  }
  if (options.target_modules.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(JoinPath(folder, kWeights), " holds no lora_A of a linear layer"));
  }
  return options;
}

absl::Status ReadAdapter(const std::string& folder, const spec::ModelDescription& description,
                         model::Decoder& decoder) {
  const std::string path = JoinPath(folder, kWeights);
  GRAFT_ASSIGN_OR_RETURN(const std::vector<FileTensor> wanted, FileTensors(description, decoder));
  std::set<std::string> known;
  NamedTensors named;
  for (const FileTensor& t : wanted) {
    known.insert(t.key);
    named.emplace_back(t.key, t.stored);
  }
  GRAFT_ASSIGN_OR_RETURN(const spec::TensorIndex tensors, ListTensors(path));
  for (const auto& [name, info] : tensors) {
    // peft may add the frozen table of an adapted embedding.
    if (known.count(name) == 0 && !absl::EndsWith(name, ".base_layer.weight")) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor ", name, " belongs to no adapted layer of this base model"));
    }
  }
  GRAFT_RETURN_IF_ERROR(ReadTensors(path, named));
  for (const FileTensor& t : wanted) {
    if (t.take != nullptr) t.take(t.stored);
  }
  return absl::OkStatus();
}

}  // namespace graft::trainer
