#include "worker/trainer/check_data.h"

#include <memory>

#include "base/status_macros.h"
#include "worker/trainer/model_source.h"
#include "worker/trainer/training_data.h"

namespace graft::trainer {

absl::StatusOr<Findings> CheckData(const RunConfig& config) {
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<ModelSource> model,
                         OpenModel(config.model.path, config.dataset.chat_template));
  GRAFT_ASSIGN_OR_RETURN(const std::unique_ptr<TrainingData> data, PrepareData(config, *model));
  const data::TokenStats& stats = data->stats;
  const data::BatchPlan::Cost cost = data->plan->EstimateCost();
  Findings findings{
      .format = std::string(data::RowFormatName(data->format)),
      .training_rows = data->training_rows,
      .validation_rows = data->validation_rows,
      .tokens = stats.tokens,
      .supervised_tokens = stats.supervised_tokens,
      .truncated_rows = stats.truncated_rows,
      .truncated_tokens = stats.truncated_tokens,
      .skipped_rows = stats.bad_rows + stats.dropped_overlong,
      .empty_rows = stats.dropped_empty,
      .longest_row = stats.longest,
      .max_seq_length = stats.max_seq_length,
      .steps = data->total_steps,
      .unpacked_steps = cost.steps_unpacked,
      .passes = config.dataset.packing ? cost.micro_batches_packed : cost.micro_batches_unpacked,
      .unpacked_passes = cost.micro_batches_unpacked};
  for (const data::DatasetWarning& warning : stats.warnings) {
    findings.warnings.push_back({warning.code, warning.message});
  }
  return findings;
}

}  // namespace graft::trainer
