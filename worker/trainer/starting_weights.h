// What a run begins with in place of fresh numbers (`start_from`): the trained numbers of another
// run's checkpoint, or of an adapter in PEFT's layout. Weights alone: steps count from 0, and the
// optimizer, the schedule and the data begin anew.
//
//   GRAFT_ASSIGN_OR_RETURN(StartingWeights start, StartingWeights::Open(config, model, options));
//   GRAFT_RETURN_IF_ERROR(start.Check(TrainedParts(decoder, ranks)));
//   ...the base is evaluated...
//   GRAFT_RETURN_IF_ERROR(start.Fill(TrainedParts(decoder, ranks)));
//
// Every rank reads the whole of an adapter, which is small, and its own share of a checkpoint.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/decoder.h"
#include "worker/model/decoder_build.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/run_config.h"
#include "worker/trainer/tensor_files.h"

namespace graft::trainer {

class StartingWeights {
 public:
  // INVALID_ARGUMENT where the folder's tensors are not those that this run trains, naming one;
  // NOT_FOUND where it is neither. `options` are those of the run's decoder.
  static absl::StatusOr<StartingWeights> Open(const RunConfig& config, const ModelSource& model,
                                              model::BuildOptions options);

  // Whether Fill would succeed, by names and shapes.
  absl::Status Check(const TensorParts& parts) const;
  absl::Status Fill(const TensorParts& parts) const;

 private:
  std::string checkpoint_;                   // its file of trained numbers, where all are trained
  std::unique_ptr<model::Decoder> adapted_;  // else: no more than what is trained, whole
};

}  // namespace graft::trainer
