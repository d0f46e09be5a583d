#include "worker/trainer/adapter_files.h"

#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "worker/trainer/tensor_files.h"

namespace graft::trainer {
namespace {

constexpr absl::string_view kPrefix = "base_model.model.";
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

Json PeftConfig(const RunConfig& config, const std::set<std::string>& targets,
                bool fan_in_fan_out) {
  Json modules = Json::MakeArray();
  for (const std::string& target : targets) modules.Append(target);
  const TuningConfig& t = config.tuning;
  Json json = Json::MakeObject();
  json.Set("alpha_pattern", Json::MakeObject());
  json.Set("auto_mapping", Json());
  json.Set("base_model_name_or_path",
           config.model.name.empty() ? config.model.path : config.model.name);
  json.Set("bias", "none");
  json.Set("fan_in_fan_out", fan_in_fan_out);
  json.Set("inference_mode", true);
  json.Set("init_lora_weights", true);
  json.Set("layers_pattern", Json());
  json.Set("layers_to_transform", Json());
  json.Set("lora_alpha", t.alpha);
  json.Set("lora_dropout", t.dropout);
  json.Set("modules_to_save", Json());
  json.Set("peft_type", "LORA");
  json.Set("r", t.rank);
  json.Set("rank_pattern", Json::MakeObject());
  json.Set("revision", Json());
  json.Set("target_modules", std::move(modules));
  json.Set("task_type", "CAUSAL_LM");
  json.Set("use_dora", t.dora);
  json.Set("use_rslora", t.rslora);
  return json;
}

NamedTensors AdapterTensors(model::Decoder& decoder) {
  NamedTensors tensors;
  for (const model::Adapter* adapter : model::Adapters(decoder)) {
    const std::string key = absl::StrCat(kPrefix, adapter->module);
    tensors.emplace_back(absl::StrCat(key, ".lora_A.weight"), adapter->a->value);
    tensors.emplace_back(absl::StrCat(key, ".lora_B.weight"), adapter->b->value);
    if (adapter->magnitude != nullptr) {
      tensors.emplace_back(absl::StrCat(key, ".lora_magnitude_vector"), adapter->magnitude->value);
    }
  }
  return tensors;
}

}  // namespace

absl::Status WriteAdapter(const std::string& folder, const RunConfig& config,
                          const std::vector<spec::HubLinear>& all, model::Decoder& decoder) {
  GRAFT_RETURN_IF_ERROR(MakeDirectories(folder));
  bool transposed = false;
  for (const spec::HubLinear& linear : all) transposed = transposed || linear.transposed;
  const auto targets = TargetModules(all, model::Adapters(decoder));
  GRAFT_RETURN_IF_ERROR(WriteTensors(folder, "adapter_model", AdapterTensors(decoder)).status());
  return WriteFileAtomically(JoinPath(folder, kConfig),
                             PeftConfig(config, targets, transposed).Dump(2) + "\n");
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
  // The tensors say which modules there are, whatever pattern chose them.
  GRAFT_ASSIGN_OR_RETURN(const spec::TensorIndex tensors, ListTensors(JoinPath(folder, kWeights)));
  for (const auto& [name, info] : tensors) {
    absl::string_view module = name;
    if (absl::ConsumePrefix(&module, kPrefix) && absl::ConsumeSuffix(&module, ".lora_A.weight")) {
      options.target_modules.emplace_back(module);
    }
  }
  if (options.target_modules.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(JoinPath(folder, kWeights), " holds no lora_A of a linear layer"));
  }
  return options;
}

absl::Status ReadAdapter(const std::string& folder, model::Decoder& decoder) {
  const std::string path = JoinPath(folder, kWeights);
  const NamedTensors wanted = AdapterTensors(decoder);
  std::set<std::string> known;
  for (const auto& [name, tensor] : wanted) known.insert(name);
  GRAFT_ASSIGN_OR_RETURN(const spec::TensorIndex tensors, ListTensors(path));
  for (const auto& [name, info] : tensors) {
    if (known.count(name) == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor ", name, " belongs to no adapted layer of this base model"));
    }
  }
  return ReadTensors(path, wanted);
}

}  // namespace graft::trainer
