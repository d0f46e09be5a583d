// What a run leaves behind: an adapter in PEFT's layout, or a whole model in the Hub's.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "worker/model/decoder.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

// Writes to config.output.folder by config.tuning.kind: lora an adapter; lora_merged the model with
// the adapter added to its weights, after a probe batch has shown that both compute the same;
// all_weights the trained model.
absl::Status WriteOutput(const RunConfig& config, const ModelSource& model,
                         model::Decoder& decoder);

}  // namespace graft::trainer
