#include "scheduler/service/run_json.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/json.h"
#include "scheduler/service/job_spec.h"
#include "scheduler/service/start_from.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr double kCheckpointSeconds = 600;  // where nothing else is chosen

template <typename Enum>
std::string Short(Enum value) {
  return ShortName(*google::protobuf::GetEnumDescriptor<Enum>(), static_cast<int>(value));
}

template <typename Repeated>
Json StringList(const Repeated& values) {
  Json list = Json::MakeArray();
  for (const std::string& value : values) list.Append(value);
  return list;
}

Json InputPaths(int count, absl::string_view key) {
  Json list = Json::MakeArray();
  for (int i = 0; i < count; ++i) list.Append(absl::StrCat("${inputs.", key, i, "}"));
  return list;
}

// Weights and limits, where a source has any.
void SetSources(const v1::DatasetSection& dataset, Json& json) {
  bool weighted = false, limited = false;
  Json weights = Json::MakeArray(), limits = Json::MakeArray();
  for (const v1::DatasetSource& source : dataset.training()) {
    weighted |= source.has_weight() && source.weight() != 1;
    limited |= source.limit() > 0;
    weights.Append(source.has_weight() ? source.weight() : 1.0);
    limits.Append(source.limit());
  }
  if (weighted) json.Set("weights", std::move(weights));
  if (limited) json.Set("limits", std::move(limits));
}

Json DatasetJson(const v1::JobSpec& spec) {
  const auto& dataset = spec.dataset();
  Json json = Json::MakeObject();
  json.Set("training", InputPaths(dataset.training_size(), "training"));
  json.Set("validation", InputPaths(dataset.validation_size(), "validation"));
  json.Set("format", Short(dataset.format())).Set("prompt_template", dataset.prompt_template());
  json.Set("chat_template", spec.model().chat_template());
  json.Set("max_seq_length", static_cast<int64_t>(spec.batch().max_seq_length()));
  json.Set("packing", spec.batch().sequence_packing()).Set("shuffle", dataset.shuffle());
  json.Set("packing_max_samples", static_cast<int64_t>(spec.batch().packing_max_samples()));
  json.Set("loss_on", Short(dataset.loss_on()));
  json.Set("validation_limit", spec.schedule().val_limit());
  json.Set("validation_split", dataset.validation_split());
  json.Set("apply_chat_template", dataset.apply_chat_template());
  json.Set("system_prompt", dataset.system_prompt());
  json.Set("on_bad_row", Short(dataset.on_bad_row()));
  const auto& names = dataset.fields();
  Json fields = Json::MakeObject();
  if (names.has_messages()) fields.Set("messages", names.messages());
  if (names.has_tools()) fields.Set("tools", names.tools());
  if (names.has_prompt()) fields.Set("prompt", names.prompt());
  if (names.has_completion()) fields.Set("completion", names.completion());
  if (names.has_text()) fields.Set("text", names.text());
  json.Set("fields", std::move(fields));
  SetSources(dataset, json);
  return json;
}

Json TuningJson(const v1::TuningSection& tuning) {
  const v1::Lora& lora = tuning.lora();
  Json json = Json::MakeObject();
  json.Set("kind", Short(tuning.type()));
  if (!tuning.has_lora()) return json;
  json.Set("rank", static_cast<int64_t>(lora.rank())).Set("alpha", lora.alpha());
  json.Set("dropout", lora.dropout()).Set("target_modules", StringList(lora.target_modules()));
  json.Set("exclude_modules", StringList(lora.exclude_modules()));
  Json layers = Json::MakeArray();
  for (const int32_t layer : lora.layers_to_transform()) layers.Append(int64_t{layer});
  json.Set("layers_to_transform", std::move(layers));
  json.Set("modules_to_save", StringList(lora.modules_to_save()));
  json.Set("rslora", lora.rslora()).Set("dora", lora.dora()).Set("bias", Short(lora.bias()));
  json.Set("init", Short(lora.init()));
  if (lora.has_init_seed()) json.Set("init_seed", lora.init_seed());
  return json;
}

Json ScheduleJson(const v1::JobSpec& spec) {
  const auto& optimizer = spec.optimizer();
  Json json = Json::MakeObject();
  json.Set("kind", Short(optimizer.lr_schedule())).Set("learning_rate", optimizer.learning_rate());
  json.Set("warmup_steps", optimizer.warmup_steps()).Set("warmup_ratio", optimizer.warmup_ratio());
  if (optimizer.lr_schedule() == v1::OptimizerSection::LR_SCHEDULE_COSINE_WITH_RESTARTS) {
    json.Set("num_cycles", static_cast<double>(optimizer.cycles()));
  }
  json.Set("power", optimizer.power());
  if (optimizer.lr_schedule() == v1::OptimizerSection::LR_SCHEDULE_WARMUP_STABLE_DECAY) {
    json.Set("decay_ratio", optimizer.decay_ratio());
  }
  json.Set("min_lr_rate", optimizer.min_learning_rate() / optimizer.learning_rate());
  json.Set("epochs", spec.schedule().epochs()).Set("max_steps", spec.schedule().max_steps());
  return json;
}

Json OptimizerJson(const v1::OptimizerSection& optimizer) {
  Json json = Json::MakeObject();
  json.Set("kind", Short(optimizer.kind()));
  json.Set("beta1", optimizer.beta1()).Set("beta2", optimizer.beta2());
  json.Set("epsilon", optimizer.epsilon()).Set("weight_decay", optimizer.weight_decay());
  json.Set("clip_norm", optimizer.max_grad_norm());
  return json;
}

Json EvaluationJson(const v1::JobSpec& spec) {
  const v1::ScheduleSection& schedule = spec.schedule();
  Json json = Json::MakeObject();
  json.Set("interval", schedule.val_check_interval().steps());
  json.Set("interval_epochs", schedule.val_check_interval().epochs());
  if (schedule.has_early_stopping()) {
    const auto& early = schedule.early_stopping();
    const bool epochs = early.patience_unit() == v1::EarlyStopping::PATIENCE_UNIT_EPOCHS;
    json.Set(epochs ? "patience_epochs" : "patience", static_cast<int64_t>(early.patience()));
    json.Set("min_delta", early.min_delta()).Set("restore_best", early.restore_best());
  }
  // Also where the rows are in the training fileset: a run without any makes no report.
  if (spec.evaluation().report()) {
    json.Set("at_start", true);
    json.Set("report_rows", static_cast<int64_t>(spec.evaluation().report_rows()));
    json.Set("report_tokens", static_cast<int64_t>(spec.evaluation().max_new_tokens()));
  }
  if (spec.evaluation().sample_rows() > 0) {
    json.Set("sample_rows", static_cast<int64_t>(spec.evaluation().sample_rows()));
    json.Set("sample_tokens", static_cast<int64_t>(spec.evaluation().max_new_tokens()));
  }
  return json;
}

}  // namespace

std::string RunJson(const v1::JobSpec& spec, const Layout& layout) {
  Json model = Json::MakeObject();
  model.Set("path", "${inputs.model}").Set("name", spec.model().base());
  Json batch = Json::MakeObject();
  batch.Set("global", static_cast<int64_t>(spec.batch().global_batch_size()));
  batch.Set("micro", static_cast<int64_t>(spec.batch().micro_batch_size()));
  Json guards = Json::MakeObject();
  guards.Set("max_skipped", static_cast<int64_t>(spec.compute().max_bad_steps()));
  Json parallelism = Json::MakeObject();
  parallelism.Set("tp", layout.tp).Set("pp", layout.pp).Set("cp", layout.cp).Set("ep", layout.ep);
  parallelism.Set("zero", ZeroOf(spec, layout));
  parallelism.Set("dp", layout.dp).Set("rank", 0).Set("world", layout.world());
  parallelism.Set("rendezvous", "");
  Json output = Json::MakeObject();
  output.Set("folder", "${output}");
  Json checkpoint = Json::MakeObject();
  checkpoint.Set("folder", "${checkpoints}");
  const v1::Interval& every = spec.schedule().checkpoint_interval();
  const bool chosen = every.every_case() != v1::Interval::EVERY_NOT_SET;
  const double seconds = static_cast<double>(every.time().seconds()) +
                         1e-9 * static_cast<double>(every.time().nanos());
  checkpoint.Set("interval", every.steps());
  checkpoint.Set("interval_epochs", chosen ? every.epochs() : 1.0);
  checkpoint.Set("interval_seconds", chosen ? seconds : kCheckpointSeconds);
  checkpoint.Set("keep_last", static_cast<int64_t>(spec.schedule().keep_checkpoints()));
  const v1::Precision precision = spec.compute().precision();
  const bool known = precision == v1::PRECISION_FP32 || precision == v1::PRECISION_BF16 ||
                     precision == v1::PRECISION_FP16;

  Json sft = Json::MakeObject();
  sft.Set("label_smoothing", spec.method().sft().label_smoothing());
  sft.Set("neftune_noise_alpha", spec.method().sft().neftune_noise_alpha());

  Json run = Json::MakeObject();
  run.Set("version", 1).Set("method", "sft").Set("sft", std::move(sft));
  run.Set("model", std::move(model));
  run.Set("dataset", DatasetJson(spec)).Set("tuning", TuningJson(spec.tuning()));
  run.Set("schedule", ScheduleJson(spec)).Set("batch", std::move(batch));
  run.Set("optimizer", OptimizerJson(spec.optimizer()));
  run.Set("evaluation", EvaluationJson(spec)).Set("guards", std::move(guards));
  run.Set("parallelism", std::move(parallelism)).Set("output", std::move(output));
  run.Set("checkpoint", std::move(checkpoint)).Set("seed", spec.schedule().seed());
  if (TakesWeights(spec.model().start_from())) run.Set("start_from", "${inputs.start}");
  run.Set("threads", static_cast<int64_t>(spec.compute().threads()));
  run.Set("precision", known ? Short(precision) : std::string("auto"));
  const auto kept = spec.compute().activation_checkpointing();
  const bool automatic = kept <= v1::ComputeSection::ACTIVATION_CHECKPOINTING_AUTO;
  const std::string keeps = automatic ? std::string("selective") : Short(kept);
  run.Set("activation_checkpointing", spec.compute().offload_activations() ? "offload" : keeps);
  run.Set("log_interval", static_cast<int64_t>(spec.schedule().log_interval()));
  return run.Dump();
}

}  // namespace graft::scheduler
