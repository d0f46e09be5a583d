#include "worker/spec/load.h"

#include <algorithm>
#include <map>
#include <memory>
#include <utility>

#include "absl/container/btree_set.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "worker/spec/family.h"
#include "worker/spec/gguf.h"
#include "worker/spec/gguf_model.h"
#include "worker/spec/safetensors.h"
#include "worker/spec/tensor_names.h"

namespace graft::spec {
namespace {

constexpr char kConfig[] = "config.json";
constexpr int64_t kTokenizerLookedAt = int64_t{2}
                                       << 20;  // bytes; added tokens stand before the model

std::string ShapeText(const std::vector<int64_t>& shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

absl::Status RefuseCode(const Json& config) {
  const Json* map = config.Find("auto_map");
  if (map == nullptr || map->is_null()) return absl::OkStatus();
  std::string first;
  if (map->is_object() && !map->as_object().empty()) {
    const auto& [key, value] = map->as_object()[0];
    first = absl::StrCat(" (", key, ": ", value.is_string() ? value.as_string() : "...", ")");
  }
  return absl::UnimplementedError(
      absl::StrCat("config.json: auto_map", first,
                   " asks for code of the checkpoint's own; Graft runs no code from checkpoints"));
}

// Only gpt_oss' MXFP4 is read; its experts are widened by the reader.
absl::Status RefuseQuantization(const Json& config) {
  const Json* quantization = config.Find("quantization_config");
  if (quantization == nullptr || quantization->is_null()) return absl::OkStatus();
  const std::string method = quantization->GetString("quant_method", "unknown");
  if (method == "mxfp4") return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("config.json: the quantisation \"", method,
                   "\" is not read; use the unquantised model or a GGUF file"));
}

// A vision model keeps its decoder's configuration within its own.
absl::Status RefuseCompound(const Json& config) {
  const Json* text = config.Find("text_config");
  if (text == nullptr || !text->is_object()) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("config.json: ", config.GetString("model_type", "the model"),
                   " is more than a text model; use the text model of that family (",
                   text->GetString("model_type", "text_config"), ") where it is published alone"));
}

absl::Status CheckArchitecture(const Json& config, const Family& family) {
  const Json* list = config.Find("architectures");
  if (list == nullptr || !list->is_array() || list->as_array().empty()) return absl::OkStatus();
  const Json& first = list->as_array()[0];
  if (first.is_string() && first.as_string() == family.architecture) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(
      "config.json: the architecture ", first.is_string() ? first.as_string() : "?",
      " is not supported; of the family ", family.model_type, " it is ", family.architecture));
}

// The sum of all parameters, and of those that one token passes.
absl::Status Count(const DecoderSpec& spec, const std::vector<Parameter>& parameters,
                   ModelFacts& facts) {
  for (const Parameter& p : parameters) {
    const int64_t n = p.elements();
    facts.parameters += n;
    const bool expert = absl::StrContains(p.name, ".moe.experts.");
    facts.active_parameters += expert ? n / spec.moe.experts * spec.moe.experts_per_token : n;
    if (facts.parameters > kMaxParameters) {
      return absl::InvalidArgumentError(absl::StrCat(
          "config.json: the sizes make a model of more than ", kMaxParameters, " parameters"));
    }
  }
  return absl::OkStatus();
}

// Spec and parameters; `stored` renames the tensors at hand, where they are not the Hub's.
absl::StatusOr<ModelDescription> Describe(const Json& config, const TensorNames* stored) {
  if (!config.is_object()) return absl::InvalidArgumentError("config.json: it is no object");
  GRAFT_RETURN_IF_ERROR(RefuseCode(config));
  GRAFT_RETURN_IF_ERROR(RefuseQuantization(config));
  GRAFT_RETURN_IF_ERROR(RefuseCompound(config));
  GRAFT_ASSIGN_OR_RETURN(const Family* family, FindFamily(config.GetString("model_type")));
  GRAFT_RETURN_IF_ERROR(CheckArchitecture(config, *family));
  Draft draft;
  draft.spec.model_type = family->model_type;
  ConfigReader reader(config);
  family->fill(reader, draft);
  GRAFT_RETURN_IF_ERROR(reader.status());
  ModelDescription model;
  model.format = FileFormat::kConfigOnly;
  model.facts.architecture = family->architecture;
  model.facts.name = config.GetString("_name_or_path");
  model.parameters = BuildParameters(draft.spec, draft.names);
  if (stored != nullptr) {
    std::vector<Parameter> sources = BuildParameters(draft.spec, *stored);
    for (size_t i = 0; i < sources.size(); ++i) {
      model.parameters[i].source = std::move(sources[i].source);
    }
  }
  GRAFT_RETURN_IF_ERROR(Count(draft.spec, model.parameters, model.facts));
  model.spec = std::move(draft.spec);
  model.config = config;
  return model;
}

// --- Whether the tensors at hand are those that the configuration asks for ---

std::vector<int64_t> WithoutOnes(const std::vector<int64_t>& shape) {
  std::vector<int64_t> dimensions;
  for (int64_t d : shape) {
    if (d != 1) dimensions.push_back(d);
  }
  return dimensions;
}

// Dimensions of 1 may be left out (llama.cpp does); then the info is given the shape asked for.
absl::Status CheckShape(const std::string& name, const std::vector<int64_t>& shape,
                        TensorInfo& info) {
  // Blocks lie along the last dimension, which must then stay.
  const bool same_rows =
      !IsQuantized(info.dtype) || (!info.shape.empty() && info.shape.back() == shape.back());
  if (same_rows && WithoutOnes(info.shape) == WithoutOnes(shape)) {
    info.shape = shape;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat(info.file, ": tensor ", name, " has the shape ", ShapeText(info.shape),
                   "; the configuration asks for ", ShapeText(shape)));
}

// gpt_oss' experts, in place of `tensor`: blocks [experts, out, in / 32, 16] and a scale for each.
absl::Status CheckMxfp4(TensorIndex& index, const HubTensor& tensor) {
  const auto blocks = index.find(tensor.name + "_blocks");
  const auto scales = index.find(tensor.name + "_scales");
  if (scales == index.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", tensor.name, "_scales is missing in the model's files"));
  }
  const std::vector<int64_t> groups = {tensor.shape[0], tensor.shape[2], tensor.shape[1] / 32};
  std::vector<int64_t> bytes = groups;
  bytes.push_back(16);
  GRAFT_RETURN_IF_ERROR(CheckShape(blocks->first, bytes, blocks->second));
  GRAFT_RETURN_IF_ERROR(CheckShape(scales->first, groups, scales->second));
  if (blocks->second.dtype != DType::kU8 || scales->second.dtype != DType::kU8 ||
      tensor.shape[1] % 32 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor ", blocks->first,
                     " is not MXFP4: blocks and scales are U8, and rows "
                     "are multiples of 32"));
  }
  return absl::OkStatus();
}

// Some checkpoints lack the prefix that the module names have (gpt2's "transformer.").
void DropMissingPrefix(const TensorIndex& index, std::vector<Parameter>& parameters) {
  const std::string& embed = parameters[0].source[0].tensor;
  const size_t dot = embed.find('.');
  if (dot == std::string::npos || index.contains(embed)) return;
  const std::string prefix = embed.substr(0, dot + 1);
  if (!index.contains(embed.substr(dot + 1))) return;
  for (Parameter& p : parameters) {
    for (TensorSlice& s : p.source) s.tensor = std::string(absl::StripPrefix(s.tensor, prefix));
  }
}

void ListUnused(ModelDescription& model) {
  absl::btree_set<std::string> used;
  for (const Parameter& p : model.parameters) {
    for (const TensorSlice& s : p.source) {
      if (s.mxfp4_blocks) {
        used.insert(s.tensor + "_blocks");
        used.insert(s.tensor + "_scales");
      } else {
        used.insert(s.tensor);
      }
    }
  }
  for (const auto& [name, info] : model.tensors) {
    if (!used.contains(name)) model.unused_tensors.push_back(name);
  }
}

// A GGUF file has no configuration that could say what else the model does, so that a tensor which
// nothing here reads means another model.
absl::Status RefuseUnused(const ModelDescription& model) {
  for (const std::string& name : model.unused_tensors) {
    const bool read_before = absl::StartsWith(name, "rope_f");  // frequencies and factors
    if (read_before || (name == "output.weight" && model.spec.tied_embeddings)) continue;
    return absl::UnimplementedError(
        absl::StrCat("tensor ", name, " belongs to no ", model.spec.model_type,
                     " model that is known here; use the model's safetensors files"));
  }
  return absl::OkStatus();
}

absl::Status Match(ModelDescription& model) {
  DropMissingPrefix(model.tensors, model.parameters);
  for (const HubTensor& tensor : TensorsOf(model.parameters, /*hub=*/false)) {
    const auto it = model.tensors.find(tensor.name);
    if (it != model.tensors.end()) {
      GRAFT_RETURN_IF_ERROR(CheckShape(tensor.name, tensor.shape, it->second));
      if (!IsFloating(it->second.dtype)) {
        return absl::InvalidArgumentError(
            absl::StrCat(it->second.file, ": tensor ", tensor.name, " is of the type ",
                         DTypeName(it->second.dtype), ", which holds no weights"));
      }
      continue;
    }
    if (tensor.shape.size() != 3 || !model.tensors.contains(tensor.name + "_blocks")) {
      return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " ",
                                                     ShapeText(tensor.shape),
                                                     " is missing in the model's files"));
    }
    GRAFT_RETURN_IF_ERROR(CheckMxfp4(model.tensors, tensor));
    for (const HubTensor::Piece& piece : tensor.pieces) {
      model.parameters[static_cast<size_t>(piece.parameter)]
          .source[static_cast<size_t>(piece.slice)]
          .mxfp4_blocks = true;
    }
  }
  ListUnused(model);
  return absl::OkStatus();
}

void SetPrecision(ModelDescription& model) {
  std::map<DType, int64_t> elements;
  for (const auto& [name, info] : model.tensors) {
    model.facts.weight_bytes += info.bytes;
    if (IsFloating(info.dtype)) elements[info.dtype] += info.elements();
    // The packed blocks of gpt_oss count two numbers a byte.
    if (absl::EndsWith(name, "_blocks")) elements[DType::kMxfp4] += 2 * info.elements();
  }
  int64_t most = -1;
  for (const auto& [type, count] : elements) {
    if (count <= most) continue;
    most = count;
    model.facts.precision = std::string(DTypeName(type));
    model.facts.quantized = IsQuantized(type);
  }
}

// --- Facts of the files beside the weights ---

// tokenizer_config.json's chat_template: a string, or a list of named ones.
std::string TemplateOf(const Json& tokenizer_config) {
  const Json* value = tokenizer_config.Find("chat_template");
  if (value == nullptr) return "";
  if (value->is_string()) return value->as_string();
  if (!value->is_array()) return "";
  for (const Json& named : value->as_array()) {
    if (named.GetString("name") == "default") return named.GetString("template");
  }
  return "";
}

void SetTemplateFacts(ModelFacts& facts) {
  facts.supports_tools = absl::StrContains(facts.chat_template, "tools");
  facts.supports_system = absl::StrContains(facts.chat_template, "system");
}

// The type of "model" in the beginning of tokenizer.json, whose vocabulary behind it is long.
std::string TokenizerKind(absl::string_view text) {
  constexpr absl::string_view kModel = "\"model\"", kType = "\"type\"";
  for (size_t at = text.find(kModel); at != text.npos; at = text.find(kModel, at + 1)) {
    absl::string_view rest = text.substr(at + kModel.size());
    const auto skip = [&rest](absl::string_view token) {
      rest = absl::StripLeadingAsciiWhitespace(rest);
      return absl::ConsumePrefix(&rest, token);
    };
    if (!skip(":") || !skip("{") || !skip(kType) || !skip(":") || !skip("\"")) continue;
    return absl::AsciiStrToLower(rest.substr(0, rest.find('"')));
  }
  return "";
}

absl::StatusOr<std::string> ReadTokenizerKind(const ModelFiles& files) {
  if (!HasFile(files, "tokenizer.json")) return std::string();
  GRAFT_ASSIGN_OR_RETURN(const auto source, files.Open("tokenizer.json"));
  std::string begin(static_cast<size_t>(std::min(source->size(), kTokenizerLookedAt)), '\0');
  GRAFT_RETURN_IF_ERROR(source->ReadAt(0, static_cast<int64_t>(begin.size()), begin.data()));
  return TokenizerKind(begin);
}

absl::Status ReadSideFacts(const ModelFiles& files, ModelFacts& facts) {
  facts.has_tokenizer = HasFile(files, "tokenizer.json") || HasFile(files, "tokenizer.model");
  GRAFT_ASSIGN_OR_RETURN(facts.tokenizer, ReadTokenizerKind(files));
  if (HasFile(files, "chat_template.jinja")) {
    GRAFT_ASSIGN_OR_RETURN(facts.chat_template,
                           ReadWhole(files, "chat_template.jinja", kMaxConfigBytes));
  } else if (HasFile(files, "tokenizer_config.json")) {
    GRAFT_ASSIGN_OR_RETURN(const std::string text,
                           ReadWhole(files, "tokenizer_config.json", kMaxConfigBytes));
    absl::StatusOr<Json> json = Json::Parse(text);
    if (!json.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tokenizer_config.json: ", json.status().message()));
    }
    facts.chat_template = TemplateOf(*json);
  }
  SetTemplateFacts(facts);
  return absl::OkStatus();
}

// generation_config.json may name more ends of a sequence than config.json does.
absl::Status ReadGenerationConfig(const ModelFiles& files, DecoderSpec& spec) {
  if (!HasFile(files, "generation_config.json")) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(const std::string text,
                         ReadWhole(files, "generation_config.json", kMaxConfigBytes));
  absl::StatusOr<Json> json = Json::Parse(text, {.allow_nan = true});
  if (!json.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("generation_config.json: ", json.status().message()));
  }
  ConfigReader reader(*json);
  for (int64_t id : reader.IntOrInts("eos_token_id")) {
    if (std::find(spec.eos_ids.begin(), spec.eos_ids.end(), id) == spec.eos_ids.end()) {
      spec.eos_ids.push_back(id);
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelDescription> ReadSafetensorsModel(const ModelFiles& files) {
  GRAFT_ASSIGN_OR_RETURN(const std::string text, ReadWhole(files, kConfig, kMaxConfigBytes));
  absl::StatusOr<Json> config = Json::Parse(text, {.allow_nan = true});
  if (!config.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: ", config.status().message()));
  }
  GRAFT_ASSIGN_OR_RETURN(ModelDescription model, Describe(*config, nullptr));
  GRAFT_ASSIGN_OR_RETURN(model.tensors, ReadSafetensorsFolder(files));
  GRAFT_RETURN_IF_ERROR(Match(model));
  model.format = FileFormat::kSafetensors;
  SetPrecision(model);
  GRAFT_RETURN_IF_ERROR(ReadSideFacts(files, model.facts));
  GRAFT_RETURN_IF_ERROR(ReadGenerationConfig(files, model.spec));
  return model;
}

std::string GgufString(const GgufHeader& gguf, absl::string_view key) {
  const Json* value = gguf.Find(key);
  return value != nullptr && value->is_string() ? value->as_string() : "";
}

absl::StatusOr<ModelDescription> ReadGgufModel(const ModelFiles& files, const std::string& file) {
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<ByteSource> source, files.Open(file));
  GRAFT_ASSIGN_OR_RETURN(GgufHeader gguf, ReadGguf(*source, file));
  const auto in_file = [&file](const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(file, ": ", status.message()));
  };
  absl::StatusOr<Json> config = ConfigOfGguf(gguf, *source);
  if (!config.ok()) return in_file(config.status());
  const TensorNames names = NamesOfGguf(gguf, *config);
  absl::StatusOr<ModelDescription> model = Describe(*config, &names);
  if (!model.ok()) return in_file(model.status());
  Json architectures = Json::MakeArray();
  architectures.Append(model->facts.architecture);
  model->config.Set("architectures", std::move(architectures));
  model->tensors = std::move(gguf.tensors);
  if (absl::Status status = Match(*model); !status.ok()) return in_file(status);
  if (absl::Status status = RefuseUnused(*model); !status.ok()) return in_file(status);
  model->format = FileFormat::kGguf;
  SetPrecision(*model);
  model->facts.name = GgufString(gguf, "general.name");
  model->facts.has_tokenizer = gguf.Find("tokenizer.ggml.tokens") != nullptr;
  model->facts.chat_template = GgufString(gguf, "tokenizer.chat_template");
  SetTemplateFacts(model->facts);
  // SentencePiece's, "llama", merges pairs as well.
  if (model->facts.has_tokenizer) {
    const std::string kind = GgufString(gguf, "tokenizer.ggml.model");
    model->facts.tokenizer = kind == "t5" ? "unigram" : kind == "bert" ? "wordpiece" : "bpe";
  }
  return model;
}

}  // namespace

const Parameter* ModelDescription::Find(absl::string_view name) const {
  for (const Parameter& p : parameters) {
    if (p.name == name) return &p;
  }
  return nullptr;
}

absl::StatusOr<ModelDescription> ReadModel(const ModelFiles& files) {
  if (HasFile(files, kConfig)) {
    const std::vector<std::string> names = files.Names();
    const bool safetensors = std::any_of(names.begin(), names.end(), [](const std::string& name) {
      return absl::EndsWith(name, ".safetensors");
    });
    if (safetensors || FindGguf(files).empty()) return ReadSafetensorsModel(files);
  }
  const std::string gguf = FindGguf(files);
  if (gguf.empty()) {
    return absl::NotFoundError(
        "the files are no model: there is neither a config.json with safetensors files nor a "
        "single .gguf file");
  }
  return ReadGgufModel(files, gguf);
}

absl::StatusOr<ModelDescription> DescribeConfig(const Json& config) {
  return Describe(config, nullptr);
}

std::vector<std::string> KnownFamilies() {
  std::vector<std::string> names;
  for (const Family& family : Families()) names.push_back(family.model_type);
  return names;
}

std::vector<HubTensor> HubTensors(const ModelDescription& model) {
  return TensorsOf(model.parameters, /*hub=*/true);
}

std::vector<HubLinear> HubLinears(const ModelDescription& model) {
  std::vector<HubLinear> linears;
  for (const Parameter& p : model.parameters) {
    const bool linear =
        p.shape.size() == 2 && absl::EndsWith(p.name, ".weight") &&
        (absl::StrContains(p.name, ".attn.") || absl::StrContains(p.name, ".mlp.") ||
         absl::StrContains(p.name, ".moe.shared")) &&
        !absl::EndsWith(p.name, "_norm.weight");
    if (!linear) continue;
    const TensorSlice& slice = p.hub[0];
    const std::string module(absl::StripSuffix(slice.tensor, ".weight"));
    if (linears.empty() || linears.back().module != module) {
      linears.push_back(
          {.module = module, .in = p.shape[1], .out = 0, .transposed = slice.transposed});
    }
    linears.back().out += p.shape[0];
    linears.back().parts.push_back({std::string(absl::StripSuffix(p.name, ".weight")), slice});
  }
  return linears;
}

}  // namespace graft::spec
