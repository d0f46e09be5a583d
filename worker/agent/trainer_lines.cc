#include "worker/agent/trainer_lines.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/json.h"
#include "worker/data/unicode/utf8.h"

namespace graft::agent {
namespace {

enum Metric : uint32_t {
  kTrainLoss,
  kValLoss,
  kGradNorm,
  kLearningRate,
  kTokensPerSecond,
  kStepSeconds,
  kDataSeconds,
  kForwardSeconds,
  kBackwardSeconds,
  kOptimizerSeconds,
  kCommunicationSeconds,
  kIdleSeconds,
  kPeakMemoryBytes,
  kSupervisedTokens,
  kGflops,
  kMfu,
};

// Of a question and of a wanted answer in a line of the log, which the answer itself has whole.
constexpr size_t kQuotedBytes = 200;

// In quotes on one line; its beginning where it is longer than `most` bytes.
std::string Quoted(absl::string_view text, size_t most) {
  std::string line =
      absl::StrJoin(absl::StrSplit(text, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty()), " ");
  if (line.size() > most) {
    size_t end = most;
    while (end > 0 && data::IsUtf8Continuation(line[end])) --end;
    line.resize(end);
    line += "…";
  }
  return absl::StrCat("\"", line, "\"");
}

void Put(v1::MetricRow& row, Metric metric, double value) {
  if (!std::isfinite(value)) return;
  row.add_names(metric);
  row.add_values(value);
}

}  // namespace

const std::vector<std::string>& MetricNames() {
  static const auto& names = *new std::vector<std::string>{"train_loss",
                                                           "val_loss",
                                                           "grad_norm",
                                                           "learning_rate",
                                                           "tokens_per_second",
                                                           "step_seconds",
                                                           "data_seconds",
                                                           "forward_seconds",
                                                           "backward_seconds",
                                                           "optimizer_seconds",
                                                           "communication_seconds",
                                                           "idle_seconds",
                                                           "peak_memory_bytes",
                                                           "supervised_tokens",
                                                           "gflops",
                                                           "mfu"};
  return names;
}

v1::MetricRow StepRow(const trainer::StepEvent& step, int64_t time_ms) {
  v1::MetricRow row;
  row.set_step(step.step);
  row.set_epoch(step.epoch);
  row.set_time_ms(time_ms);
  Put(row, kTrainLoss, step.loss);
  Put(row, kGradNorm, step.grad_norm);
  Put(row, kLearningRate, step.learning_rate);
  Put(row, kTokensPerSecond, step.tokens_per_second);
  Put(row, kStepSeconds, step.seconds);
  Put(row, kDataSeconds, step.data_seconds);
  Put(row, kForwardSeconds, step.forward_seconds);
  Put(row, kBackwardSeconds, step.backward_seconds);
  Put(row, kOptimizerSeconds, step.optimizer_seconds);
  Put(row, kCommunicationSeconds, step.communication_seconds);
  Put(row, kIdleSeconds, step.idle_seconds);
  Put(row, kPeakMemoryBytes, static_cast<double>(step.peak_memory_bytes));
  Put(row, kSupervisedTokens, static_cast<double>(step.supervised_tokens));
  Put(row, kGflops, step.gflops);
  if (step.mfu.has_value()) Put(row, kMfu, *step.mfu);
  return row;
}

std::string SampleText(const trainer::SampleEvent& sample) {
  std::string text = absl::StrCat("sample, step ", sample.step);
  if (sample.row > 0) absl::StrAppend(&text, ", validation row ", sample.row);
  absl::StrAppend(&text, ": ", Quoted(sample.prompt, kQuotedBytes), " → ",
                  Quoted(sample.text, sample.text.size()));
  if (!sample.wanted.empty()) {
    absl::StrAppend(&text, ", wanted ", Quoted(sample.wanted, kQuotedBytes));
  }
  return text;
}

graft::v1::Warning WarningOf(const trainer::WarningEvent& warning) {
  graft::v1::Warning out;
  out.set_code(warning.code);
  out.set_message(warning.step > 0 ? absl::StrCat("step ", warning.step, ": ", warning.message)
                                   : warning.message);
  return out;
}

Printed ReadPrinted(const std::string& line) {
  using Entry = graft::v1::LogEntry;
  if (line.empty() || line.front() != '{') return {Entry::SEVERITY_INFO, line};
  const absl::StatusOr<Json> json = Json::Parse(line);
  if (!json.ok() || !json->is_object() || json->Find("message") == nullptr ||
      json->Find("program") == nullptr) {
    return {Entry::SEVERITY_INFO, line};
  }
  Printed printed;
  const std::string level = json->GetString("level");
  if (level == "debug") printed.severity = Entry::SEVERITY_DEBUG;
  if (level == "warning") printed.severity = Entry::SEVERITY_WARNING;
  if (level == "error") printed.severity = Entry::SEVERITY_ERROR;
  printed.text = json->GetString("message");
  for (const auto& [key, value] : json->as_object()) {
    if (key == "time" || key == "level" || key == "program" || key == "message") continue;
    absl::StrAppend(&printed.text, "  ", key, "=",
                    value.is_string() ? value.as_string() : value.Dump());
  }
  return printed;
}

v1::MetricRow EvalRow(const trainer::EvalEvent& eval, int64_t time_ms) {
  v1::MetricRow row;
  row.set_step(eval.step);
  row.set_epoch(eval.epoch);
  row.set_time_ms(time_ms);
  Put(row, kValLoss, eval.loss);
  return row;
}

Failure FailureOf(trainer::ErrorCode code) {
  switch (code) {
    case trainer::ErrorCode::kInvalidConfig:
      return {graft::v1::REASON_FIELD_INVALID, false};
    case trainer::ErrorCode::kInvalidModel:
      return {graft::v1::REASON_MODEL_UNREADABLE, false};
    case trainer::ErrorCode::kInvalidDataset:
      return {graft::v1::REASON_DATASET_INVALID, false};
    case trainer::ErrorCode::kUnimplemented:
      return {graft::v1::REASON_FEATURE_UNAVAILABLE, false};
    case trainer::ErrorCode::kOutOfMemory:
      return {graft::v1::REASON_OUT_OF_MEMORY, false};
    case trainer::ErrorCode::kDiverged:
      return {graft::v1::REASON_LOSS_NOT_FINITE, false};
    case trainer::ErrorCode::kStorage:
      return {graft::v1::REASON_DISK_FULL, true};
    case trainer::ErrorCode::kInvalidCheckpoint:
      return {graft::v1::REASON_CHECKPOINT_INVALID, false};
    case trainer::ErrorCode::kRankLost:
    case trainer::ErrorCode::kInternal:
      break;
  }
  return {graft::v1::REASON_RANK_FAILED, true};
}

}  // namespace graft::agent
