// The rows of a run as token ids and the plan of its steps. Free of torch.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "worker/data/dataset/batches.h"
#include "worker/data/dataset/tokenized.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

struct TrainingData {
  data::TokenizedDataset training;
  absl::optional<data::TokenizedDataset> validation;
  absl::optional<data::BatchPlan> plan;
  absl::optional<data::BatchPlan> validation_plan;  // one epoch in the order of the files
  int64_t total_steps = 0;
  double steps_per_epoch = 0;
};

// Replaces folders by the files in them: those of the training list stand for their training files,
// and for their validation files where the run names none.
absl::Status ExpandFolders(DatasetConfig& dataset);

// Plans keep pointers to the sets, so both stand on the heap.
absl::StatusOr<std::unique_ptr<TrainingData>> PrepareData(const RunConfig& config,
                                                          const ModelSource& model);

}  // namespace graft::trainer
