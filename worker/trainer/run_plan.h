// What is known of a run before its first step: whether this trainer can do it, what is built of
// the model, how much memory it takes, and what makes it this run and no other. Pure functions.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "worker/data/dataset/batches.h"
#include "worker/model/build_options.h"
#include "worker/model/decoder.h"
#include "worker/spec/estimate.h"
#include "worker/trainer/compute_device.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/precision.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

// What the run asks of ChooseCompute(): "auto" is fp32 where CPUs divide a model between them,
// whose kernels for that are.
Precision WantedPrecision(const RunConfig& config, const DeviceTypes& types);

// UNIMPLEMENTED, by name, for what does not go together.
absl::Status CheckSupported(const RunConfig& config);

// But for the division over ranks.
model::BuildOptions BuildOptionsOf(const RunConfig& config, const ComputeChoice& compute,
                                   const spec::ModelFacts& facts);

model::Recompute RecomputeOf(ActivationCheckpointing kept);

// The part of a plan that layouts are judged by.
spec::TrainingPlan PlanOf(const RunConfig& config, const ComputeChoice& compute);

// By the same model of memory as the scheduler's, for this very run.
spec::MemoryEstimate EstimateMemory(const RunConfig& config, const ComputeChoice& compute,
                                    const ModelSource& model, const data::BatchPlan& batches);

// What a checkpoint and the run that goes on from it must share. Folders, intervals and the number
// of steps may differ; what changes the numbers may not.
std::string IdentityOf(const RunConfig& config, const ComputeChoice& compute, int64_t rows);

}  // namespace graft::trainer
