#include "worker/trainer/run_config.h"

#include <algorithm>

#include "base/status_macros.h"

namespace graft::trainer {

// Found by argument-dependent lookup from json_fields.h.
template <typename V>
void VisitFields(V& v, ModelConfig& c) {
  v("path", c.path);
  v("name", c.name);
}

template <typename V>
void VisitFields(V& v, RowFieldsConfig& c) {
  v("messages", c.messages);
  v("tools", c.tools);
  v("prompt", c.prompt);
  v("completion", c.completion);
  v("text", c.text);
}

template <typename V>
void VisitFields(V& v, DatasetConfig& c) {
  v("training", c.training);
  v("weights", c.weights);
  v("limits", c.limits);
  v("validation", c.validation);
  v("validation_split", c.validation_split);
  v("format", c.format);
  v("fields", c.fields);
  v("prompt_template", c.prompt_template);
  v("chat_template", c.chat_template);
  v("max_seq_length", c.max_seq_length);
  v("packing", c.packing);
  v("packing_max_samples", c.packing_max_samples);
  v("shuffle", c.shuffle);
  v("loss_on", c.loss_on);
  v("limit", c.limit);
  v("validation_limit", c.validation_limit);
  v("apply_chat_template", c.apply_chat_template);
  v("system_prompt", c.system_prompt);
  v("on_bad_row", c.on_bad_row);
  v("skipped_rows", c.skipped_rows);
  v("token_cache", c.token_cache);
}

template <typename V>
void VisitFields(V& v, TuningConfig& c) {
  v("kind", c.kind);
  v("rank", c.rank);
  v("alpha", c.alpha);
  v("dropout", c.dropout);
  v("target_modules", c.target_modules);
  v("exclude_modules", c.exclude_modules);
  v("layers_to_transform", c.layers_to_transform);
  v("modules_to_save", c.modules_to_save);
  v("rslora", c.rslora);
  v("dora", c.dora);
  v("bias", c.bias);
  v("init", c.init);
  v("init_seed", c.init_seed);
}

template <typename V>
void VisitFields(V& v, ScheduleConfig& c) {
  v("kind", c.kind);
  v("learning_rate", c.learning_rate);
  v("warmup_steps", c.warmup_steps);
  v("warmup_ratio", c.warmup_ratio);
  v("num_cycles", c.num_cycles);
  v("power", c.power);
  v("min_lr_rate", c.min_lr_rate);
  v("decay_steps", c.decay_steps);
  v("decay_ratio", c.decay_ratio);
  v("epochs", c.epochs);
  v("max_steps", c.max_steps);
}

template <typename V>
void VisitFields(V& v, BatchConfig& c) {
  v("global", c.global);
  v("micro", c.micro);
}

template <typename V>
void VisitFields(V& v, OptimizerConfig& c) {
  v("kind", c.kind);
  v("beta1", c.beta1);
  v("beta2", c.beta2);
  v("epsilon", c.epsilon);
  v("weight_decay", c.weight_decay);
  v("momentum", c.momentum);
  v("clip_norm", c.clip_norm);
}

template <typename V>
void VisitFields(V& v, EvaluationConfig& c) {
  v("interval", c.interval);
  v("interval_epochs", c.interval_epochs);
  v("patience", c.patience);
  v("patience_epochs", c.patience_epochs);
  v("min_delta", c.min_delta);
  v("restore_best", c.restore_best);
  v("sample_prompts", c.sample_prompts);
  v("sample_rows", c.sample_rows);
  v("sample_tokens", c.sample_tokens);
  v("at_start", c.at_start);
  v("report_rows", c.report_rows);
  v("report_tokens", c.report_tokens);
}

template <typename V>
void VisitFields(V& v, SftConfig& c) {
  v("label_smoothing", c.label_smoothing);
  v("neftune_noise_alpha", c.neftune_noise_alpha);
}

template <typename V>
void VisitFields(V& v, GuardConfig& c) {
  v("skip_nonfinite", c.skip_nonfinite);
  v("max_skipped", c.max_skipped);
  v("spike_factor", c.spike_factor);
}

template <typename V>
void VisitFields(V& v, ParallelismConfig& c) {
  v("tp", c.tp);
  v("pp", c.pp);
  v("cp", c.cp);
  v("ep", c.ep);
  v("dp", c.dp);
  v("rank", c.rank);
  v("world", c.world);
  v("rendezvous", c.rendezvous);
  v("address", c.address);
  v("attempt", c.attempt);
  v("chunks", c.chunks);
  v("zero", c.zero);
  v("shared_memory", c.shared_memory);
}

template <typename V>
void VisitFields(V& v, OutputConfig& c) {
  v("folder", c.folder);
  v("precision", c.precision);
  v("max_shard_bytes", c.max_shard_bytes);
}

template <typename V>
void VisitFields(V& v, CheckpointConfig& c) {
  v("folder", c.folder);
  v("interval", c.interval);
  v("interval_epochs", c.interval_epochs);
  v("interval_seconds", c.interval_seconds);
  v("keep_last", c.keep_last);
  v("keep_best", c.keep_best);
}

template <typename V>
void VisitFields(V& v, RunConfig& c) {
  v("version", c.version);
  v("method", c.method);
  v("sft", c.sft);
  v("model", c.model);
  v("dataset", c.dataset);
  v("tuning", c.tuning);
  v("schedule", c.schedule);
  v("batch", c.batch);
  v("optimizer", c.optimizer);
  v("evaluation", c.evaluation);
  v("guards", c.guards);
  v("parallelism", c.parallelism);
  v("output", c.output);
  v("checkpoint", c.checkpoint);
  v("resume_from", c.resume_from);
  v("start_from", c.start_from);
  v("seed", c.seed);
  v("threads", c.threads);
  v("device", c.device);
  v("precision", c.precision);
  v("activation_checkpointing", c.activation_checkpointing);
  v("events_fd", c.events_fd);
  v("log_interval", c.log_interval);
}

namespace {

struct Range {
  const char* field;
  double value;
  double least;
  double most;
};

// Beyond these a value is a slip, not a wish.
constexpr double kMost = 1e15;

absl::Status CheckRanges(const RunConfig& c) {
  const Range ranges[] = {
      {"sft.label_smoothing", c.sft.label_smoothing, 0, 1},
      {"sft.neftune_noise_alpha", c.sft.neftune_noise_alpha, 0, 1e6},
      {"dataset.max_seq_length", static_cast<double>(c.dataset.max_seq_length), 2, 1 << 24},
      {"dataset.limit", static_cast<double>(c.dataset.limit), 0, kMost},
      {"dataset.validation_split", c.dataset.validation_split, 0, 0.5},
      {"dataset.validation_limit", static_cast<double>(c.dataset.validation_limit), 0, kMost},
      {"tuning.rank", static_cast<double>(c.tuning.rank), 1, 65536},
      {"tuning.dropout", c.tuning.dropout, 0, 0.999},
      {"schedule.learning_rate", c.schedule.learning_rate, 0, 1e3},
      {"schedule.warmup_steps", static_cast<double>(c.schedule.warmup_steps), 0, kMost},
      {"schedule.warmup_ratio", c.schedule.warmup_ratio, 0, 1},
      {"schedule.decay_ratio", c.schedule.decay_ratio, 0, 1},
      {"schedule.epochs", c.schedule.epochs, 0, 1e6},
      {"schedule.max_steps", static_cast<double>(c.schedule.max_steps), 0, kMost},
      {"batch.global", static_cast<double>(c.batch.global), 1, 1 << 24},
      {"batch.micro", static_cast<double>(c.batch.micro), 1, 1 << 20},
      {"optimizer.beta1", c.optimizer.beta1, 0, 1},
      {"optimizer.beta2", c.optimizer.beta2, 0, 1},
      {"optimizer.epsilon", c.optimizer.epsilon, 0, 1},
      {"optimizer.weight_decay", c.optimizer.weight_decay, 0, 1e3},
      {"optimizer.clip_norm", c.optimizer.clip_norm, 0, kMost},
      {"evaluation.interval", static_cast<double>(c.evaluation.interval), 0, kMost},
      {"evaluation.interval_epochs", c.evaluation.interval_epochs, 0, kMost},
      {"dataset.packing_max_samples", static_cast<double>(c.dataset.packing_max_samples), 0, kMost},
      {"evaluation.patience", static_cast<double>(c.evaluation.patience), 0, kMost},
      {"evaluation.patience_epochs", c.evaluation.patience_epochs, 0, kMost},
      {"evaluation.sample_rows", static_cast<double>(c.evaluation.sample_rows), 0, 1000},
      {"evaluation.sample_tokens", static_cast<double>(c.evaluation.sample_tokens), 1, 1 << 20},
      {"checkpoint.interval", static_cast<double>(c.checkpoint.interval), 0, kMost},
      {"checkpoint.interval_epochs", c.checkpoint.interval_epochs, 0, kMost},
      {"checkpoint.interval_seconds", c.checkpoint.interval_seconds, 0, kMost},
      {"checkpoint.keep_last", static_cast<double>(c.checkpoint.keep_last), 1, kMost},
      {"output.max_shard_bytes", static_cast<double>(c.output.max_shard_bytes), 1 << 20, kMost},
      {"threads", static_cast<double>(c.threads), 0, 4096},
      {"events_fd", static_cast<double>(c.events_fd), 1, 1 << 20},
      {"log_interval", static_cast<double>(c.log_interval), 1, kMost},
  };
  for (const Range& range : ranges) {
    if (!(range.value >= range.least && range.value <= range.most)) {
      return absl::InvalidArgumentError(absl::StrCat(
          range.field, " is ", range.value, "; allowed are ", range.least, " to ", range.most));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSources(const DatasetConfig& c) {
  for (const auto& [name, count] :
       {std::make_pair("weights", c.weights.size()), std::make_pair("limits", c.limits.size())}) {
    if (count == 0 || count == c.training.size()) continue;
    return absl::InvalidArgumentError(absl::StrCat("dataset.", name, " has ", count,
                                                   " values for the ", c.training.size(),
                                                   " of dataset.training; give one each"));
  }
  for (size_t i = 0; i < c.weights.size(); ++i) {
    if (c.weights[i] > 0 && c.weights[i] <= 1e6) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("dataset.weights[", i, "] is ", c.weights[i], "; allowed is 0 < w <= 1e6"));
  }
  for (size_t i = 0; i < c.limits.size(); ++i) {
    if (c.limits[i] >= 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("dataset.limits[", i, "] is ", c.limits[i], "; 0 means all rows"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateRunConfig(const RunConfig& c) {
  GRAFT_RETURN_IF_ERROR(CheckRanges(c));
  if (c.model.path.empty()) return absl::InvalidArgumentError("model.path is missing");
  if (c.dataset.training.empty()) return absl::InvalidArgumentError("dataset.training is empty");
  if (c.schedule.decay_steps > 0 && c.schedule.decay_ratio > 0) {
    return absl::InvalidArgumentError(
        "schedule.decay_steps and schedule.decay_ratio are both set; leave one out");
  }
  if (c.schedule.warmup_steps > 0 && c.schedule.warmup_ratio > 0) {
    return absl::InvalidArgumentError(
        "schedule.warmup_steps and schedule.warmup_ratio are both set; leave one out");
  }
  if (c.schedule.epochs <= 0 && c.schedule.max_steps <= 0) {
    return absl::InvalidArgumentError("schedule.epochs and schedule.max_steps are both 0");
  }
  GRAFT_RETURN_IF_ERROR(CheckSources(c.dataset));
  const bool validates = !c.dataset.validation.empty() || c.dataset.validation_split > 0;
  if (c.evaluation.patience > 0 && c.evaluation.patience_epochs > 0) {
    return absl::InvalidArgumentError(
        "evaluation.patience and patience_epochs are both set; choose one");
  }
  if ((c.evaluation.patience > 0 || c.evaluation.patience_epochs > 0) && !validates) {
    return absl::InvalidArgumentError(
        "evaluation.patience needs dataset.validation, which is empty, or "
        "dataset.validation_split");
  }
  const std::string& precision = c.output.precision;
  if (precision != "auto" && precision != "float32" && precision != "bfloat16" &&
      precision != "float16") {
    return absl::InvalidArgumentError(absl::StrCat(
        "output.precision is \"", precision, "\"; known are auto, float32, bfloat16, float16"));
  }
  const ParallelismConfig& p = c.parallelism;
  if (p.tp < 1 || p.pp < 1 || p.cp < 1 || p.ep < 1 || p.dp < 1 || p.world < 1) {
    return absl::InvalidArgumentError("parallelism: tp, pp, cp, ep, dp and world are at least 1");
  }
  if (p.world != p.tp * p.cp * p.dp * p.pp || p.rank < 0 || p.rank >= p.world) {
    return absl::InvalidArgumentError(
        absl::StrCat("parallelism: world is ", p.world, ", but tp x cp x dp x pp is ",
                     p.tp * p.cp * p.dp * p.pp, "; rank is ", p.rank));
  }
  if (p.chunks < 1 || p.chunks > 64 || (p.chunks > 1 && p.pp == 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "parallelism.chunks is ", p.chunks, "; allowed are 1 to 64, and 1 without a pipeline"));
  }
  if (p.zero != 0 && p.zero != 1 && p.zero != 3) {
    return absl::InvalidArgumentError(
        absl::StrCat("parallelism.zero is ", p.zero, "; this trainer has 0, 1 and 3"));
  }
  if (p.zero == 3 && (p.pp > 1 || c.tuning.kind != TuningKind::kAllWeights)) {
    return absl::InvalidArgumentError(
        "parallelism.zero 3 divides weights that are trained, without a pipeline; use 1 with pp "
        "above 1 or with adapters");
  }
  return absl::OkStatus();
}

absl::StatusOr<RunConfig> ParseRunConfig(absl::string_view text) {
  GRAFT_ASSIGN_OR_RETURN(const Json json, Json::Parse(text));
  const int64_t version = json.GetInt("version", kRunConfigVersion);
  if (version != kRunConfigVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        "run.json has version ", version, "; this trainer reads version ", kRunConfigVersion));
  }
  RunConfig config;
  GRAFT_RETURN_IF_ERROR(ReadFields(json, "", config));
  GRAFT_RETURN_IF_ERROR(ValidateRunConfig(config));
  return config;
}

Json WriteConfig(const RunConfig& config) { return WriteFields(config); }

std::string FormatRunConfig(const RunConfig& config) { return WriteConfig(config).Dump(2) + "\n"; }

}  // namespace graft::trainer
