#include "worker/trainer/events.h"

#include "base/status_macros.h"

namespace graft::trainer {

template <typename V>
void VisitFields(V& v, RunEvent& e) {
  v("version", e.version);
  v("device", e.device);
  v("architecture", e.architecture);
  v("parameters", e.parameters);
  v("trainable_parameters", e.trainable_parameters);
  v("training_rows", e.training_rows);
  v("validation_rows", e.validation_rows);
  v("split_rows", e.split_rows);
  v("tokens_per_epoch", e.tokens_per_epoch);
  v("supervised_tokens_per_epoch", e.supervised_tokens_per_epoch);
  v("truncated_rows", e.truncated_rows);
  v("skipped_rows", e.skipped_rows);
  v("total_steps", e.total_steps);
  v("first_step", e.first_step);
  v("base_validation_loss", e.base_validation_loss);
  v("validation_loss", e.validation_loss);
  v("best_validation_loss", e.best_validation_loss);
  v("best_step", e.best_step);
  v("estimated_peak_bytes", e.estimated_peak_bytes);
  v("start_seconds", e.start_seconds);
  v("traceparent", e.traceparent);
  v("config", e.config);
}

template <typename V>
void VisitFields(V& v, StepEvent& e) {
  v("step", e.step);
  v("total_steps", e.total_steps);
  v("epoch", e.epoch);
  v("loss", e.loss);
  v("grad_norm", e.grad_norm);
  v("learning_rate", e.learning_rate);
  v("tokens", e.tokens);
  v("supervised_tokens", e.supervised_tokens);
  v("tokens_per_second", e.tokens_per_second);
  v("seconds", e.seconds);
  v("data_seconds", e.data_seconds);
  v("forward_seconds", e.forward_seconds);
  v("backward_seconds", e.backward_seconds);
  v("optimizer_seconds", e.optimizer_seconds);
  v("communication_seconds", e.communication_seconds);
  v("idle_seconds", e.idle_seconds);
  v("slowest_rank", e.slowest_rank);
  v("slowest_busy_seconds", e.slowest_busy_seconds);
  v("peak_memory_bytes", e.peak_memory_bytes);
  v("gflops", e.gflops);
  v("mfu", e.mfu);
  v("skipped", e.skipped);
  v("steps", e.steps);
}

template <typename V>
void VisitFields(V& v, EvalEvent& e) {
  v("step", e.step);
  v("epoch", e.epoch);
  v("loss", e.loss);
  v("perplexity", e.perplexity);
  v("supervised_tokens", e.supervised_tokens);
  v("seconds", e.seconds);
  v("best", e.best);
}

template <typename V>
void VisitFields(V& v, SampleEvent& e) {
  v("step", e.step);
  v("row", e.row);
  v("prompt", e.prompt);
  v("text", e.text);
  v("wanted", e.wanted);
}

template <typename V>
void VisitFields(V& v, CheckpointEvent& e) {
  v("step", e.step);
  v("folder", e.folder);
  v("bytes", e.bytes);
  v("loss", e.loss);
  v("validation_loss", e.validation_loss);
  v("best", e.best);
  v("blocking_seconds", e.blocking_seconds);
  v("seconds", e.seconds);
}

template <typename V>
void VisitFields(V& v, WarningEvent& e) {
  v("code", e.code);
  v("message", e.message);
  v("step", e.step);
}

template <typename V>
void VisitFields(V& v, DoneEvent& e) {
  v("reason", e.reason);
  v("step", e.step);
  v("loss", e.loss);
  v("validation_loss", e.validation_loss);
  v("output_folder", e.output_folder);
  v("checkpoint_folder", e.checkpoint_folder);
  v("seconds", e.seconds);
  v("peak_memory_bytes", e.peak_memory_bytes);
}

template <typename V>
void VisitFields(V& v, ErrorEvent& e) {
  v("code", e.code);
  v("message", e.message);
  v("hint", e.hint);
  v("step", e.step);
}

namespace {

// In the order of the variant.
constexpr const char* kKinds[] = {"run",        "step",    "eval", "sample",
                                  "checkpoint", "warning", "done", "error"};
static_assert(std::size(kKinds) == std::variant_size_v<Event>);

template <size_t I = 0>
absl::StatusOr<Event> ReadKind(const Json& json, absl::string_view kind) {
  if constexpr (I == std::variant_size_v<Event>) {
    return absl::NotFoundError(absl::StrCat("event kind \"", kind, "\" is not known"));
  } else {
    if (kind != kKinds[I]) return ReadKind<I + 1>(json, kind);
    std::variant_alternative_t<I, Event> event;
    GRAFT_RETURN_IF_ERROR(ReadFields(json, std::string(kind), event, UnknownKeys::kIgnored));
    return Event(std::move(event));
  }
}

// JSON has no NaN: a null number stays at its default.
Json WithoutNulls(const Json& json) {
  Json out = Json::MakeObject();
  for (const auto& [key, value] : json.as_object()) {
    if (!value.is_null()) out.Set(key, value);
  }
  return out;
}

}  // namespace

std::string FormatEvent(const Event& event, double unix_seconds) {
  Json line = Json::MakeObject();
  line.Set("event", kKinds[event.index()]);
  line.Set("time", unix_seconds);
  const Json fields = std::visit([](const auto& e) { return WriteFields(e); }, event);
  for (const auto& [key, value] : fields.as_object()) line.Set(key, value);
  return line.Dump();
}

absl::StatusOr<Event> ParseEvent(absl::string_view line) {
  if (line.size() > kMaxEventLineBytes) {
    return absl::InvalidArgumentError(absl::StrCat("an event line has ", line.size(),
                                                   " bytes; the limit is ", kMaxEventLineBytes));
  }
  GRAFT_ASSIGN_OR_RETURN(const Json json, Json::Parse(line));
  if (!json.is_object()) return absl::InvalidArgumentError("an event line is no JSON object");
  const std::string kind = json.GetString("event");
  if (kind == "run" && json.GetInt("version") != kEventVersion) {
    return absl::FailedPreconditionError(absl::StrCat("the trainer speaks version ",
                                                      json.GetInt("version"),
                                                      " of its events, not ", kEventVersion));
  }
  return ReadKind(WithoutNulls(json), kind);
}

}  // namespace graft::trainer
