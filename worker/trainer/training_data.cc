#include "worker/trainer/training_data.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "worker/data/dataset/duplicates.h"
#include "worker/data/dataset/token_cache.h"

namespace graft::trainer {
namespace {

// Rows that are read, encoded and counted as one set.
struct Source {
  std::vector<std::string> paths;
  double weight = 1;
  int64_t limit = 0;
  std::string skipped_name;  // of the file of rows left out
};

// The sets that the training rows make: one where nothing tells the sources apart.
absl::StatusOr<std::vector<Source>> SourcesOf(const DatasetConfig& from) {
  const bool apart = !from.weights.empty() || !from.limits.empty();
  std::vector<Source> sources;
  for (size_t i = 0; i < from.training.size(); ++i) {
    GRAFT_ASSIGN_OR_RETURN(const data::DatasetFiles files,
                           data::FindDatasetFiles(from.training[i]));
    if (sources.empty() || apart) {
      Source& source = sources.emplace_back();
      if (!from.weights.empty()) source.weight = from.weights[i];
      source.limit = from.limits.empty() ? from.limit : from.limits[i];
      source.skipped_name = i == 0 ? "training.jsonl" : absl::StrCat("training-", i + 1, ".jsonl");
    }
    std::vector<std::string>& paths = sources.back().paths;
    paths.insert(paths.end(), files.training.begin(), files.training.end());
  }
  return sources;
}

data::TokenizeOptions TokenizeOptionsOf(const DatasetConfig& from, const ModelSource& model) {
  data::TokenizeOptions options;
  if (model.chat_template.has_value()) options.chat = &*model.chat_template;
  options.bos_token = model.bos_token;
  options.eos_token = model.eos_token;
  options.eos_token_id = model.eos_id;
  options.apply_chat_template = from.apply_chat_template;
  options.system = from.system_prompt;
  options.max_seq_length = static_cast<int>(from.max_seq_length);
  options.model_context = static_cast<int>(model.description.spec.context);
  options.on_bad_row =
      from.on_bad_row == OnBadRow::kSkip ? data::OnBadRow::kSkip : data::OnBadRow::kFail;
  options.loss_on = from.loss_on == LossOn::kAll          ? data::LossOn::kAll
                    : from.loss_on == LossOn::kLastAnswer ? data::LossOn::kLastAnswer
                                                          : data::LossOn::kAnswers;
  return options;
}

// The tokens of `rows`, kept ones where the run has a folder for them.
absl::StatusOr<data::TokenizedDataset> TokensOf(const DatasetConfig& from, const ModelSource& model,
                                                const data::Dataset& rows, int threads) {
  data::TokenizeOptions options = TokenizeOptionsOf(from, model);
  options.threads = threads;
  if (from.token_cache.empty()) return data::TokenizeDataset(rows, *model.tokenizer, options);
  GRAFT_ASSIGN_OR_RETURN(
      data::CachedTokens made,
      data::TokenizeCached(rows, *model.tokenizer, options,
                           {.tokenizer_digest = Sha256::HexOf(model.tokenizer->ToJson()),
                            .template_digest = Sha256::HexOf(model.chat_template_text)},
                           from.token_cache));
  if (!made.kept.ok()) {
    LOG_WARNING("the tokens could not be kept",
                {{"file", made.path}, {"reason", made.kept.ToString()}});
  }
  return std::move(made.data);
}

absl::Status KeepSkippedRows(const RunConfig& config, const Source& source,
                             const data::Dataset& rows, const data::TokenStats& stats) {
  const std::string& folder = config.dataset.skipped_rows;
  if (folder.empty() || config.parallelism.rank != 0) return absl::OkStatus();
  if (rows.report().bad_rows == 0 && stats.refused.empty()) return absl::OkStatus();
  GRAFT_RETURN_IF_ERROR(MakeDirectories(folder));
  return rows.WriteSkippedRows(JoinPath(folder, source.skipped_name), stats.refused,
                               stats.problems);
}

// Encodes one set and adds its account to that of the run.
absl::StatusOr<data::TokenizedDataset> Read(const RunConfig& config, const ModelSource& model,
                                            const Source& source, data::TokenStats& sum) {
  const int threads = config.threads > 0
                          ? static_cast<int>(config.threads)
                          : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  GRAFT_ASSIGN_OR_RETURN(data::DatasetOptions options, RowOptionsOf(config.dataset));
  options.max_rows = source.limit;
  options.threads = threads;
  GRAFT_ASSIGN_OR_RETURN(const data::Dataset rows, data::Dataset::Open(source.paths, options));
  GRAFT_RETURN_IF_ERROR(rows.status());
  if (rows.format() == data::RowFormat::kPreference) {
    return absl::InvalidArgumentError(absl::StrCat(
        source.paths.front(), " holds preference rows, which method sft does not learn"));
  }
  const bool needs_template =
      rows.format() == data::RowFormat::kChat || config.dataset.apply_chat_template;
  if (needs_template && !model.chat_template.has_value()) {
    return absl::InvalidArgumentError(
        absl::StrCat(source.paths.front(), " holds conversations, but ", model.path,
                     " has no chat template; set dataset.chat_template"));
  }
  GRAFT_ASSIGN_OR_RETURN(data::TokenizedDataset tokens,
                         TokensOf(config.dataset, model, rows, threads));
  GRAFT_RETURN_IF_ERROR(KeepSkippedRows(config, source, rows, tokens.stats()));
  data::TokenStats all = tokens.stats();
  all.bad_rows += rows.report().bad_rows;
  all.warnings.insert(all.warnings.end(), rows.report().warnings.begin(),
                      rows.report().warnings.end());
  sum.Add(all);
  return tokens;
}

data::PlanOptions PlanOptionsOf(const RunConfig& config, const data::TokenStats& stats) {
  data::PlanOptions options;
  options.seed = static_cast<uint64_t>(config.seed);
  options.shuffle = config.dataset.shuffle;
  options.global_batch_size = static_cast<int>(config.batch.global);
  options.micro_batch_size = static_cast<int>(config.batch.micro);
  options.dp_size = static_cast<int>(config.parallelism.dp);
  options.packing = config.dataset.packing;
  options.packing_max_samples = config.dataset.packing_max_samples;
  options.max_seq_length = stats.max_seq_length > 0
                               ? stats.max_seq_length
                               : static_cast<int>(config.dataset.max_seq_length);
  return options;
}

// The sets as the plans take them.
struct Sets {
  std::vector<data::WeightedDataset> training, validation;
};

Sets SetsOf(const RunConfig& config, const std::vector<Source>& sources, TrainingData& data) {
  Sets sets;
  const double share = data.validation.has_value() ? 0 : config.dataset.validation_split;
  for (size_t i = 0; i < data.training.size(); ++i) {
    const data::TokenizedDataset& tokens = data.training[i];
    data::WeightedDataset training = {&tokens, sources[i].weight, {}};
    if (share > 0) {
      data::RowSplit split =
          data::SplitRows(tokens.rows(), {.fraction = share,
                                          .max_rows = config.dataset.validation_limit > 0
                                                          ? config.dataset.validation_limit
                                                          : std::numeric_limits<int64_t>::max(),
                                          .seed = static_cast<uint64_t>(config.seed)});
      if (!split.validation.empty()) {
        if (sources.size() == 1) {
          for (const uint32_t row : split.validation) {
            data.split_rows.push_back(tokens.source_row(row * tokens.sequences_per_row()));
          }
        }
        sets.validation.push_back({&tokens, 1, std::move(split.validation)});
        training.rows = std::move(split.training);
      }
    }
    sets.training.push_back(std::move(training));
  }
  if (data.validation.has_value()) sets.validation.push_back({&*data.validation, 1, {}});
  if (share > 0 && sets.validation.empty()) {
    data.stats.warnings.push_back(
        {"too_few_rows_to_split",
         absl::StrCat("dataset.validation_split ", share, " takes no row: too few are there")});
  }
  return sets;
}

int64_t RowsOf(const std::vector<data::WeightedDataset>& sets) {
  int64_t rows = 0;
  for (const data::WeightedDataset& set : sets) {
    rows += set.rows.empty() ? set.data->rows() : static_cast<int64_t>(set.rows.size());
  }
  return rows;
}

void WarnOfDuplicates(const Sets& sets, TrainingData& data) {
  std::vector<data::RowSet> training, validation;
  for (const auto& set : sets.training) training.push_back({set.data, set.rows});
  for (const auto& set : sets.validation) validation.push_back({set.data, set.rows});
  for (data::DatasetWarning& warning : data::FindDuplicates(training, validation).Warnings()) {
    data.stats.warnings.push_back(std::move(warning));
  }
}

absl::Status PlanTraining(const RunConfig& config, std::vector<data::WeightedDataset> sets,
                          TrainingData& out) {
  data::PlanOptions options = PlanOptionsOf(config, out.stats);
  const double epochs = config.schedule.epochs;
  double per_epoch = 0;
  for (const data::WeightedDataset& set : sets) {
    per_epoch += std::max(1.0, std::round(set.weight * static_cast<double>(RowsOf({set}))));
  }
  out.steps_per_epoch = per_epoch / static_cast<double>(config.batch.global);
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
  GRAFT_ASSIGN_OR_RETURN(out.plan, data::BatchPlan::Create(std::move(sets), options));
  out.total_steps = out.plan->steps();
  return absl::OkStatus();
}

absl::Status PlanValidation(const RunConfig& config, std::vector<data::WeightedDataset> sets,
                            TrainingData& out) {
  data::PlanOptions options = PlanOptionsOf(config, out.stats);
  options.shuffle = false;
  options.dp_size = 1;
  GRAFT_ASSIGN_OR_RETURN(out.validation_plan, data::BatchPlan::Create(std::move(sets), options));
  return absl::OkStatus();
}

}  // namespace

bool TrainingData::EndsPart(int64_t steps, double epochs) const {
  if (steps == total_steps) return true;
  constexpr double kRounding = 1e-9;
  const double part = steps_per_epoch * (epochs > 0 ? epochs : 1);
  const auto parts = [part](int64_t done) {
    return std::floor(static_cast<double>(done) / part + kRounding);
  };
  return parts(steps) > parts(steps - 1);
}

absl::StatusOr<data::DatasetOptions> RowOptionsOf(const DatasetConfig& dataset) {
  data::DatasetOptions options;
  GRAFT_ASSIGN_OR_RETURN(options.format, data::ParseRowFormat(dataset.format));
  options.fields.messages = dataset.fields.messages;
  options.fields.tools = dataset.fields.tools;
  options.fields.prompt = dataset.fields.prompt;
  options.fields.completion = dataset.fields.completion;
  options.fields.text = dataset.fields.text;
  options.prompt_template = dataset.prompt_template;
  options.on_bad_row =
      dataset.on_bad_row == OnBadRow::kSkip ? data::OnBadRow::kSkip : data::OnBadRow::kFail;
  return options;
}

absl::Status ExpandFolders(DatasetConfig& dataset, std::vector<data::DatasetWarning>* warnings) {
  std::vector<std::string> training, validation, given;
  const auto find = [&](const std::string& path) -> absl::StatusOr<data::DatasetFiles> {
    GRAFT_ASSIGN_OR_RETURN(data::DatasetFiles files, data::FindDatasetFiles(path));
    if (warnings != nullptr) {
      warnings->insert(warnings->end(), files.warnings.begin(), files.warnings.end());
    }
    return files;
  };
  for (const std::string& path : dataset.training) {
    GRAFT_ASSIGN_OR_RETURN(const data::DatasetFiles files, find(path));
    training.insert(training.end(), files.training.begin(), files.training.end());
    validation.insert(validation.end(), files.validation.begin(), files.validation.end());
  }
  for (const std::string& path : dataset.validation) {
    GRAFT_ASSIGN_OR_RETURN(const data::DatasetFiles files, find(path));
    // A folder given for validation is all validation, whatever its files are called.
    given.insert(given.end(), files.training.begin(), files.training.end());
    given.insert(given.end(), files.validation.begin(), files.validation.end());
  }
  dataset.training = std::move(training);
  dataset.validation = dataset.validation.empty() ? std::move(validation) : std::move(given);
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<TrainingData>> PrepareData(const RunConfig& config,
                                                          const ModelSource& model) {
  auto out = std::make_unique<TrainingData>();
  DatasetConfig files = config.dataset;
  GRAFT_RETURN_IF_ERROR(ExpandFolders(files, &out->stats.warnings));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<Source> sources, SourcesOf(config.dataset));
  for (const Source& source : sources) {
    GRAFT_ASSIGN_OR_RETURN(data::TokenizedDataset tokens, Read(config, model, source, out->stats));
    out->training.push_back(std::move(tokens));
  }
  out->format = out->training.front().format();
  if (!files.validation.empty()) {
    data::TokenStats apart;
    const Source source = {files.validation, 1, config.dataset.validation_limit,
                           "validation.jsonl"};
    GRAFT_ASSIGN_OR_RETURN(out->validation, Read(config, model, source, apart));
    if (const int64_t skipped = apart.bad_rows + apart.dropped_empty; skipped > 0) {
      out->stats.warnings.push_back(
          {"validation_rows_skipped", absl::StrCat(skipped, " validation rows are left out")});
    }
  }
  Sets sets = SetsOf(config, sources, *out);
  out->training_rows = RowsOf(sets.training);
  out->validation_rows = RowsOf(sets.validation);
  if (config.parallelism.rank == 0) WarnOfDuplicates(sets, *out);
  if (!sets.validation.empty()) {
    GRAFT_RETURN_IF_ERROR(PlanValidation(config, std::move(sets.validation), *out));
  }
  GRAFT_RETURN_IF_ERROR(PlanTraining(config, std::move(sets.training), *out));
  return out;
}

}  // namespace graft::trainer
