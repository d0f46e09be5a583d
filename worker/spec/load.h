// Reads what a model is from its files, without its weights: config.json and the headers of its
// safetensors files, or the header of a GGUF file.
//
//   GRAFT_ASSIGN_OR_RETURN(auto files, LocalModelFiles(path));
//   GRAFT_ASSIGN_OR_RETURN(ModelDescription model, ReadModel(*files));
//
// Refused, with a message that names what is wrong: an unknown family (with the known ones), code
// in the checkpoint (auto_map), a quantisation other than those read here, a tensor that is missing
// or of another shape than the configuration asks for, a file that is cut off.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/json.h"
#include "worker/spec/byte_source.h"
#include "worker/spec/decoder_spec.h"
#include "worker/spec/parameter.h"

namespace graft::spec {

enum class FileFormat : uint8_t { kSafetensors, kGguf, kConfigOnly };

struct ModelDescription {
  DecoderSpec spec;
  ModelFacts facts;
  FileFormat format = FileFormat::kSafetensors;
  // In the order of computation: embed, layers, final_norm, head.
  std::vector<Parameter> parameters;
  // Every tensor of the files, used or not.
  TensorIndex tensors;
  // Of a safetensors folder the tensors that this decoder does not have, in name order: buffers,
  // layers for multi-token prediction, the copy of a tied head. A GGUF file with such is refused.
  std::vector<std::string> unused_tensors;
  // config.json as it stands; for a GGUF the configuration that a Hub folder of this model would
  // have, so that an export is a complete folder.
  Json config;

  // nullptr where there is none of this canonical name.
  const Parameter* Find(absl::string_view name) const;
};

absl::StatusOr<ModelDescription> ReadModel(const ModelFiles& files);

// From config.json alone, without any weights: `tensors` is empty and `source` equals `hub`.
// For random-weight models, tests and estimates.
absl::StatusOr<ModelDescription> DescribeConfig(const Json& config);

// The names of the families that ReadModel knows, sorted: "cohere", "gemma", ...
std::vector<std::string> KnownFamilies();

// Every tensor of a full export in the Hub layout, in name order.
std::vector<HubTensor> HubTensors(const ModelDescription& model);
// Every linear that LoRA can attach to, in the order of computation; without experts, embed and
// head.
std::vector<HubLinear> HubLinears(const ModelDescription& model);

}  // namespace graft::spec
