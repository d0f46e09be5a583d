// LoRA adapters in PEFT's layout: adapter_config.json and adapter_model.safetensors, with the keys
// that peft writes ("base_model.model.<module>.lora_A.weight").
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/decoder_build.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

// Writes both files into `folder`. Linears are named by suffix where that means the same modules;
// stacked experts are "target_parameters", as peft adapts them.
absl::Status WriteAdapter(const std::string& folder, const RunConfig& config,
                          const spec::ModelDescription& description, model::Decoder& decoder);

// What an adapter's files say about how to build a decoder for it.
absl::StatusOr<model::LoraOptions> ReadAdapterOptions(const std::string& folder);

// Fills the decoder's adapters, which were built with these options. INVALID_ARGUMENT where a
// tensor is missing, of another shape, or belongs to no module.
absl::Status ReadAdapter(const std::string& folder, const spec::ModelDescription& description,
                         model::Decoder& decoder);

}  // namespace graft::trainer
