#include "worker/trainer/training_data.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace graft::trainer {
namespace {

absl::StatusOr<data::TokenizedDataset> Tokenize(const RunConfig& config, const ModelSource& model,
                                                const std::vector<std::string>& paths,
                                                int64_t limit) {
  const DatasetConfig& from = config.dataset;
  data::DatasetOptions rows;
  GRAFT_ASSIGN_OR_RETURN(rows.format, data::ParseRowFormat(from.format));
  rows.prompt_template = from.prompt_template;
  rows.max_rows = limit;
  GRAFT_ASSIGN_OR_RETURN(const data::Dataset dataset, data::Dataset::Open(paths, rows));
  GRAFT_RETURN_IF_ERROR(dataset.status());
  if (dataset.format() == data::RowFormat::kPreference) {
    return absl::InvalidArgumentError(
        absl::StrCat(paths.front(), " holds preference rows, which method sft does not learn"));
  }
  if (dataset.format() == data::RowFormat::kChat && !model.chat_template.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(paths.front(), " holds conversations, but ", model.path,
                     " has no chat template; set dataset.chat_template"));
  }
  data::TokenizeOptions options;
  if (model.chat_template.has_value()) options.chat = &*model.chat_template;
  options.bos_token = model.bos_token;
  options.eos_token = model.eos_token;
  options.eos_token_id = model.eos_id;
  options.max_seq_length = static_cast<int>(from.max_seq_length);
  options.model_context = static_cast<int>(model.description.spec.context);
  options.allow_empty_after_truncation = true;
  options.loss_on = from.loss_on == LossOn::kAll ? data::LossOn::kAll : data::LossOn::kAnswers;
  return data::TokenizeDataset(dataset, *model.tokenizer, options);
}

data::PlanOptions PlanOptionsOf(const RunConfig& config, const data::TokenizedDataset& set) {
  data::PlanOptions options;
  options.seed = static_cast<uint64_t>(config.seed);
  options.shuffle = config.dataset.shuffle;
  options.global_batch_size = static_cast<int>(config.batch.global);
  options.micro_batch_size = static_cast<int>(config.batch.micro);
  options.dp_size = static_cast<int>(config.parallelism.dp);
  options.packing = config.dataset.packing;
  options.max_seq_length = set.stats().max_seq_length > 0
                               ? set.stats().max_seq_length
                               : static_cast<int>(config.dataset.max_seq_length);
  return options;
}

absl::Status PlanTraining(const RunConfig& config, TrainingData& out) {
  data::PlanOptions options = PlanOptionsOf(config, out.training);
  const double epochs = config.schedule.epochs;
  const double rows = static_cast<double>(out.training.rows());
  out.steps_per_epoch = rows / static_cast<double>(config.batch.global);
  // Part of an epoch is a cap on the steps of a whole one; without epochs the cap alone counts.
  int64_t cap = config.schedule.max_steps;
  if (epochs > 0 && epochs != std::floor(epochs)) {
    const int64_t part =
        std::max<int64_t>(1, static_cast<int64_t>(std::ceil(epochs * out.steps_per_epoch)));
    cap = cap == 0 ? part : std::min(cap, part);
  }
  double whole = std::ceil(epochs);
  if (epochs <= 0) {
    whole = std::ceil(static_cast<double>(cap) / std::max(out.steps_per_epoch, 1e-9)) + 1;
  }
  options.epochs = static_cast<int>(std::min(whole, 1e9));
  options.max_steps = cap;
  GRAFT_ASSIGN_OR_RETURN(out.plan, data::BatchPlan::Create({{&out.training, 1.0, {}}}, options));
  out.total_steps = out.plan->steps();
  return absl::OkStatus();
}

}  // namespace

absl::Status ExpandFolders(DatasetConfig& dataset) {
  std::vector<std::string> training, validation;
  for (const std::string& path : dataset.training) {
    GRAFT_ASSIGN_OR_RETURN(const data::DatasetFiles files, data::FindDatasetFiles(path));
    training.insert(training.end(), files.training.begin(), files.training.end());
    validation.insert(validation.end(), files.validation.begin(), files.validation.end());
  }
  dataset.training = std::move(training);
  if (dataset.validation.empty()) {
    dataset.validation = std::move(validation);
    return absl::OkStatus();
  }
  std::vector<std::string> given;
  for (const std::string& path : dataset.validation) {
    GRAFT_ASSIGN_OR_RETURN(const data::DatasetFiles files, data::FindDatasetFiles(path));
    // A folder given for validation is all validation, whatever its files are called.
    given.insert(given.end(), files.training.begin(), files.training.end());
    given.insert(given.end(), files.validation.begin(), files.validation.end());
  }
  dataset.validation = std::move(given);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TrainingData>> PrepareData(const RunConfig& given,
                                                          const ModelSource& model) {
  RunConfig config = given;
  GRAFT_RETURN_IF_ERROR(ExpandFolders(config.dataset));
  auto out = std::make_unique<TrainingData>();
  GRAFT_ASSIGN_OR_RETURN(out->training,
                         Tokenize(config, model, config.dataset.training, config.dataset.limit));
  GRAFT_RETURN_IF_ERROR(PlanTraining(config, *out));
  if (config.dataset.validation.empty()) return out;
  GRAFT_ASSIGN_OR_RETURN(out->validation, Tokenize(config, model, config.dataset.validation,
                                                   config.dataset.validation_limit));
  data::PlanOptions options = PlanOptionsOf(config, *out->validation);
  options.shuffle = false;
  options.dp_size = 1;
  GRAFT_ASSIGN_OR_RETURN(out->validation_plan,
                         data::BatchPlan::Create({{&*out->validation, 1.0, {}}}, options));
  return out;
}

}  // namespace graft::trainer
