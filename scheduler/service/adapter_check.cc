#include "scheduler/service/adapter_check.h"

#include <map>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "rpc/status.h"
#include "worker/spec/safetensors.h"

namespace graft::scheduler {
namespace {

constexpr char kConfig[] = "adapter_config.json";
constexpr char kWeights[] = "adapter_model.safetensors";
constexpr absl::string_view kTensorPrefix = "base_model.model.";
constexpr int64_t kMostRank = 4096;

absl::Status Mismatch(absl::string_view tensor, absl::string_view why) {
  return rpc::ErrorBuilder(
             absl::StatusCode::kFailedPrecondition,
             absl::StrCat("the adapter does not fit the base model: ", tensor, " ", why))
      .Reason("ADAPTER_MISMATCH")
      .Metadata("tensor", tensor)
      .Build();
}

absl::Status NoAdapter(absl::string_view why) {
  return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                           absl::StrCat("the fileset holds no LoRA adapter: ", why))
      .Reason("ADAPTER_MISMATCH")
      .Field("adapter.fileset", why)
      .Build();
}

absl::StatusOr<AdapterFacts> ReadConfig(const spec::ModelFiles& files) {
  for (const char* name : {kConfig, kWeights}) {
    if (!spec::HasFile(files, name)) return NoAdapter(absl::StrCat("it lacks ", name));
  }
  GRAFT_ASSIGN_OR_RETURN(const std::string text,
                         spec::ReadWhole(files, kConfig, spec::kMaxConfigBytes));
  const absl::StatusOr<Json> json = Json::Parse(text);
  if (!json.ok() || !json->is_object()) return NoAdapter(absl::StrCat(kConfig, " is no JSON"));
  if (json->GetString("peft_type") != "LORA") {
    return NoAdapter(absl::StrCat(kConfig, " has peft_type '", json->GetString("peft_type"),
                                  "'; LORA is known"));
  }
  AdapterFacts facts{.rank = static_cast<int>(json->GetInt("r")),
                     .alpha = json->GetDouble("lora_alpha"),
                     .rslora = json->GetBool("use_rslora"),
                     .dora = json->GetBool("use_dora")};
  if (facts.rank < 1 || facts.rank > kMostRank) {
    return NoAdapter(absl::StrCat(kConfig, " has rank ", facts.rank));
  }
  const Json* modules = json->Find("target_modules");
  if (modules != nullptr && modules->is_string()) {
    facts.target_modules.push_back(modules->as_string());
  } else if (modules != nullptr && modules->is_array()) {
    for (const Json& module : modules->as_array()) {
      if (module.is_string()) facts.target_modules.push_back(module.as_string());
    }
  }
  return facts;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

// What a linear's adapter consists of: the part of the tensor's name behind the module, and the
// shape that it must have.
std::map<std::string, std::vector<int64_t>> PartsOf(const spec::HubLinear& linear,
                                                    const AdapterFacts& facts) {
  std::map<std::string, std::vector<int64_t>> parts = {
      {".lora_A.weight", {facts.rank, linear.in}}, {".lora_B.weight", {linear.out, facts.rank}}};
  if (facts.dora) parts[".lora_magnitude_vector"] = {linear.out};
  return parts;
}

}  // namespace

absl::StatusOr<AdapterFacts> CheckAdapter(const spec::ModelFiles& adapter,
                                          const spec::ModelDescription& base) {
  GRAFT_ASSIGN_OR_RETURN(AdapterFacts facts, ReadConfig(adapter));
  GRAFT_ASSIGN_OR_RETURN(const auto source, adapter.Open(kWeights));
  const auto tensors = spec::ReadSafetensorsHeader(*source, kWeights);
  if (!tensors.ok()) return NoAdapter(tensors.status().message());
  std::map<std::string, spec::HubLinear> linears;
  for (spec::HubLinear& linear : spec::HubLinears(base)) linears[linear.module] = linear;
  std::map<std::string, std::set<std::string>> found;  // parts by module
  for (const auto& [name, info] : *tensors) {
    absl::string_view rest = name;
    if (!absl::ConsumePrefix(&rest, kTensorPrefix)) {
      return Mismatch(name, absl::StrCat("does not begin with ", kTensorPrefix));
    }
    size_t end = rest.find(".lora_");
    if (end == absl::string_view::npos) {
      return Mismatch(name, "is no tensor of LoRA; other trained parts are not supported");
    }
    const std::string module(rest.substr(0, end));
    const std::string part(rest.substr(end));
    const auto linear = linears.find(module);
    if (linear == linears.end()) {
      return Mismatch(name, absl::StrCat("is for ", module, ", which the base does not have"));
    }
    const auto parts = PartsOf(linear->second, facts);
    const auto wanted = parts.find(part);
    if (wanted == parts.end()) return Mismatch(name, "is of an unknown kind");
    if (info.shape != wanted->second) {
      return Mismatch(name, absl::StrCat("has shape ", ShapeText(info.shape), "; rank ", facts.rank,
                                         " on this base needs ", ShapeText(wanted->second)));
    }
    found[module].insert(part);
  }
  if (found.empty()) return NoAdapter(absl::StrCat(kWeights, " is empty"));
  for (const auto& [module, parts] : found) {
    for (const auto& [part, shape] : PartsOf(linears.at(module), facts)) {
      if (parts.contains(part)) continue;
      return Mismatch(absl::StrCat(kTensorPrefix, module, part), "is missing");
    }
  }
  return facts;
}

}  // namespace graft::scheduler
