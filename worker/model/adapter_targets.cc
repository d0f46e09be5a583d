#include "worker/model/adapter_targets.h"

#include <algorithm>
#include <regex>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"

namespace graft::model {
namespace {

absl::Status CheckPatterns(const std::string& field, const std::vector<std::string>& wanted) {
  for (const std::string& w : wanted) {
    if (!absl::StartsWith(w, "re:")) continue;
    try {
      std::regex(w.substr(3));
    } catch (const std::regex_error& error) {
      return absl::InvalidArgumentError(
          absl::StrCat("tuning.", field, " \"", w, "\" is no regular expression: ", error.what()));
    }
  }
  return absl::OkStatus();
}

bool Matches(const std::string& module, const std::vector<std::string>& wanted) {
  if (wanted.empty()) return true;
  for (const std::string& w : wanted) {
    if (w == "all-linear") return true;
    if (absl::StartsWith(w, "re:")) {
      if (std::regex_match(module, std::regex(w.substr(3)))) return true;
    } else if (module == w || absl::EndsWith(module, absl::StrCat(".", w))) {
      return true;
    }
  }
  return false;
}

// The number in a module's name: 3 of "model.layers.3.mlp.up_proj"; -1: it is in no layer.
int64_t LayerOf(const std::string& module) {
  for (const absl::string_view part : absl::StrSplit(module, '.')) {
    int64_t layer = -1;
    if (absl::SimpleAtoi(part, &layer)) return layer;
  }
  return -1;
}

// peft's name of the module that holds a layer's stacked experts: beside the fused tensors that
// the Hub layout has, or "mlp.experts" where it stores experts one by one.
std::string ExpertsModule(const spec::Parameter& gate) {
  const std::string& tensor = gate.hub[0].tensor;
  if (gate.hub.size() > 1) {
    const size_t number = tensor.find("layers.") + 7;
    return absl::StrCat(tensor.substr(0, tensor.find('.', number)), ".mlp.experts");
  }
  if (gate.hub[0].transposed) return tensor.substr(0, tensor.rfind('.'));
  const std::string module = tensor.substr(0, tensor.rfind('.'));
  return absl::StrCat(module.substr(0, module.rfind('.')), ".experts");
}

}  // namespace

std::string ModuleOf(const spec::Parameter& parameter) {
  const std::string& tensor = parameter.hub[0].tensor;
  return tensor.substr(0, tensor.rfind('.'));
}

absl::StatusOr<AdapterTargets> AdapterTargets::Choose(const spec::ModelDescription& description,
                                                      const BuildOptions& options) {
  AdapterTargets targets(description, options);
  if (!targets.adapts()) return targets;
  GRAFT_RETURN_IF_ERROR(targets.ChooseLinears());
  GRAFT_RETURN_IF_ERROR(targets.CheckSpecialTargets());
  return targets;
}

absl::Status AdapterTargets::ChooseLinears() {
  const std::vector<std::string>& wanted = options_->lora.target_modules;
  GRAFT_RETURN_IF_ERROR(CheckPatterns("target_modules", wanted));
  GRAFT_RETURN_IF_ERROR(CheckPatterns("exclude_modules", options_->lora.exclude_modules));
  for (const int64_t layer : options_->lora.layers_to_transform) {
    if (layer >= 0 && layer < description_->spec.num_layers()) continue;
    return absl::InvalidArgumentError(absl::StrCat("tuning.layers_to_transform names layer ", layer,
                                                   "; this model has 0 to ",
                                                   description_->spec.num_layers() - 1));
  }
  std::set<std::string> suffixes;
  for (spec::HubLinear& linear : spec::HubLinears(*description_)) {
    suffixes.insert(linear.module.substr(linear.module.rfind('.') + 1));
    if (!Matches(linear.module, wanted) || LeftOut(linear.module)) continue;
    for (const spec::HubLinear::Part& part : linear.parts) adapted_.insert(part.name);
    linears_.push_back(std::move(linear));
  }
  if (!linears_.empty() || HasSpecialTargets()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("tuning.target_modules [", absl::StrJoin(wanted, ", "),
                   "] without exclude_modules and other layers matches no linear layer; this ",
                   "model has ", absl::StrJoin(suffixes, ", ")));
}

// Named one by one, and not by a pattern that means every linear.
bool AdapterTargets::Names(const std::string& module) const {
  std::vector<std::string> named;
  for (const std::string& w : options_->lora.target_modules) {
    if (w != "all-linear") named.push_back(w);
  }
  return !named.empty() && Matches(module, named) && !LeftOut(module);
}

bool AdapterTargets::LeftOut(const std::string& module) const {
  const std::vector<std::string>& excluded = options_->lora.exclude_modules;
  const std::vector<int64_t>& layers = options_->lora.layers_to_transform;
  if (!excluded.empty() && Matches(module, excluded)) return true;
  return !layers.empty() &&
         std::find(layers.begin(), layers.end(), LayerOf(module)) == layers.end();
}

std::string AdapterTargets::HeadModule() const {
  const spec::Parameter* own = description_->Find("head.weight");
  return own == nullptr ? kTiedHead : ModuleOf(*own);
}

bool AdapterTargets::AdaptsEmbedding() const {
  return adapts() && Names(ModuleOf(*description_->Find("embed.weight")));
}

bool AdapterTargets::AdaptsHead() const { return adapts() && Names(HeadModule()); }

ExpertsTargets AdapterTargets::Experts(int64_t layer) const {
  const spec::Parameter* gate =
      description_->Find(absl::StrCat("layers.", layer, ".moe.experts.gate.weight"));
  ExpertsTargets targets;
  if (gate == nullptr || !adapts()) return targets;
  targets.module = ExpertsModule(*gate);
  targets.interleaved = gate->hub.size() == 1 && gate->hub[0].transposed;
  const bool both = Names(targets.module);
  targets.gate_up = both || Names(targets.module + ".gate_up_proj");
  targets.down = both || Names(targets.module + ".down_proj");
  return targets;
}

bool AdapterTargets::AdaptsSomeExperts() const {
  for (int64_t i = 0; i < description_->spec.num_layers(); ++i) {
    const ExpertsTargets targets = Experts(i);
    if (targets.gate_up || targets.down) return true;
  }
  return false;
}

bool AdapterTargets::HasSpecialTargets() const {
  return AdaptsEmbedding() || AdaptsHead() || AdaptsSomeExperts();
}

bool AdapterTargets::Saves(const std::string& module) const {
  if (!adapts()) return false;
  const std::vector<std::string>& wanted = options_->lora.modules_to_save;
  return std::any_of(wanted.begin(), wanted.end(),
                     [&](const std::string& end) { return absl::EndsWith(module, end); });
}

bool AdapterTargets::SavesTiedEnd() const {
  if (description_->Find("head.weight") != nullptr) return false;
  return Saves(kTiedHead) || Saves(ModuleOf(*description_->Find("embed.weight")));
}

bool AdapterTargets::PartsTiedEnds() const {
  const bool tied = description_->Find("head.weight") == nullptr;
  return SavesTiedEnd() || (tied && (AdaptsEmbedding() || AdaptsHead()));
}

bool AdapterTargets::TrainsAllBiases() const {
  return adapts() && options_->lora.bias == TrainedBias::kAll;
}

bool AdapterTargets::TrainsBias(const std::string& part) const {
  if (!adapts() || options_->lora.bias == TrainedBias::kNone) return false;
  return TrainsAllBiases() || AdaptsPart(part);
}

absl::Status AdapterTargets::CheckSpecialTargets() const {
  const LoraOptions& lora = options_->lora;
  if (!HasSpecialTargets() && lora.modules_to_save.empty()) return absl::OkStatus();
  if ((AdaptsHead() || AdaptsSomeExperts()) && (lora.dora || lora.dropout > 0)) {
    return absl::UnimplementedError(
        "tuning.dora and tuning.dropout do not go with adapters of the head or of experts");
  }
  if (AdaptsEmbedding() && lora.dora) {
    return absl::UnimplementedError("tuning.dora does not go with an adapter of the embedding");
  }
  return CheckSaved();
}

absl::Status AdapterTargets::CheckSaved() const {
  std::set<std::string> known = {HeadModule(), ModuleOf(*description_->Find("embed.weight"))};
  for (const spec::Parameter& p : description_->parameters) {
    if (absl::StrContains(p.name, "norm.weight")) known.insert(ModuleOf(p));
  }
  for (const std::string& wanted : options_->lora.modules_to_save) {
    const bool found = std::any_of(known.begin(), known.end(), [&](const std::string& module) {
      return absl::EndsWith(module, wanted);
    });
    if (!found) {
      return absl::UnimplementedError(absl::StrCat(
          "tuning.modules_to_save \"", wanted,
          "\": beside adapters the embedding, the head and norms can be trained whole"));
    }
  }
  return absl::OkStatus();
}

}  // namespace graft::model
