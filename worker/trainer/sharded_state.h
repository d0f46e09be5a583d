// What a rank holds of a run's numbers, as parts of the whole tensors: for checkpoints, and for an
// output that is the same whatever the layout was.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/decoder.h"
#include "worker/model/decoder_build.h"
#include "worker/parallel/reducer.h"
#include "worker/parallel/world.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/optimizer.h"
#include "worker/trainer/rank_files.h"

namespace graft::trainer {

// Both null on one rank.
struct RankRefs {
  parallel::World* world = nullptr;
  parallel::Reducer* reducer = nullptr;
};

// Of the trained numbers, or of `others` that lie as they do.
TensorParts TrainedParts(model::Decoder& decoder, const RankRefs& ranks,
                         const at::Tensor& others = {});
// A part for each tensor ("exp_avg.<tensor>"); what has a shape of its own stays as it is.
TensorParts OptimizerParts(Optimizer& optimizer, model::Decoder& decoder, const RankRefs& ranks);

// The whole decoder on rank 0 with the trained numbers of all ranks, null on the others; brought
// together through a file in rank 0's `folder`; with the frozen weights where `with_frozen`.
// `options` are those that it was built with. Every rank calls it.
absl::StatusOr<std::unique_ptr<model::Decoder>> GatherDecoder(
    const ModelSource& model, model::BuildOptions options, model::Decoder& decoder,
    const RankRefs& ranks, const FileGang& gang, const std::string& folder, bool with_frozen);

}  // namespace graft::trainer
