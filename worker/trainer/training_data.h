// The rows of a run as token ids and the plan of its steps. Free of torch.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "worker/data/dataset/batches.h"
#include "worker/data/dataset/dataset.h"
#include "worker/data/dataset/tokenized.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

struct TrainingData {
  // One set of all training rows; one for each source where they have weights or limits.
  std::vector<data::TokenizedDataset> training;
  absl::optional<data::TokenizedDataset> validation;  // absent where rows are split off
  data::RowFormat format = data::RowFormat::kAuto;
  // Of the training rows, those split off included; and whatever is worth telling of both.
  data::TokenStats stats;
  absl::optional<data::BatchPlan> plan;
  absl::optional<data::BatchPlan> validation_plan;  // one epoch in the order of the files
  int64_t training_rows = 0;
  int64_t validation_rows = 0;
  // Rows of the training files that were split off for validation, ascending from 0; empty also
  // where they come from several sets.
  std::vector<int64_t> split_rows;
  int64_t total_steps = 0;
  double steps_per_epoch = 0;

  // Whether so many epochs, or such a part of one, end with the first `steps` steps; 0: one epoch.
  // The last step ends the last part.
  bool EndsPart(int64_t steps, double epochs) const;
};

// How rows are read, by the run's dataset section.
absl::StatusOr<data::DatasetOptions> RowOptionsOf(const DatasetConfig& dataset);

// Replaces folders by the files in them: those of the training list stand for their training files,
// and for their validation files where the run names none. Weights and limits belong to the list as
// it was. `warnings`, where given, gets what lies there and is not read.
absl::Status ExpandFolders(DatasetConfig& dataset,
                           std::vector<data::DatasetWarning>* warnings = nullptr);

// Plans keep pointers to the sets, so both stand on the heap.
absl::StatusOr<std::unique_ptr<TrainingData>> PrepareData(const RunConfig& config,
                                                          const ModelSource& model);

}  // namespace graft::trainer
