// What a run leaves behind: an adapter in PEFT's layout, or a whole model in the Hub's.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/decoder.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

// Whether WriteOutput can write what is trained: UNIMPLEMENTED where an embedding and a head that
// are one tensor in the Hub layout have become two.
absl::Status CheckOutput(const RunConfig& config, const model::Decoder& decoder);

// Writes to config.output.folder by config.tuning.kind: lora an adapter; lora_merged the model with
// the adapter added to its weights, after a probe batch has shown that both compute the same;
// all_weights the trained model.
absl::Status WriteOutput(const RunConfig& config, const ModelSource& model,
                         model::Decoder& decoder);

// A tensor as the Hub stores it, fp32, from its parameters by canonical name; blocks of a quantised
// tensor become plain numbers.
absl::StatusOr<at::Tensor> AssembleHubTensor(
    const spec::ModelDescription& description, const spec::HubTensor& tensor,
    const std::function<at::Tensor(const std::string&)>& parameter);

// The gradient of a parameter that is trained in full, by its canonical name.
at::Tensor GradientOf(model::Decoder& decoder, const std::string& name);

}  // namespace graft::trainer
