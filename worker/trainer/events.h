// The lines that a trainer writes while it runs: one JSON object a line, {"event": KIND, ...}. The
// first is always `run`, which carries the version; the last is `done` or `error`. Readers ignore
// unknown fields and unknown kinds, and refuse an unknown version. Free of torch; the reader and
// the writer are this same code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/trainer/json_fields.h"

namespace graft::trainer {

inline constexpr int64_t kEventVersion = 1;
// A longer line is a fault of the writer; readers drop it.
inline constexpr size_t kMaxEventLineBytes = 1 << 20;

// Why a run failed. The agent decides from it whether another attempt makes sense.
enum class ErrorCode {
  kInvalidConfig,   // run.json, or a combination of its fields
  kInvalidModel,    // model files
  kInvalidDataset,  // rows
  kUnimplemented,   // a feature that this trainer lacks, by name
  kOutOfMemory,     // also after one split of the micro-batch
  kDiverged,        // too many steps in a row were not finite or spiked
  kStorage,         // a checkpoint or the output could not be written
  kInvalidCheckpoint,
  kRankLost,  // another rank died, hung, failed or came apart; it says which
  kInternal,
};

// How a run that did not fail ended.
enum class DoneReason { kCompleted, kEarlyStopped, kPaused, kTerminated };

// Once, before the first step.
struct RunEvent {
  int64_t version = kEventVersion;
  std::string device;
  std::string architecture;
  int64_t parameters = 0;
  int64_t trainable_parameters = 0;
  int64_t training_rows = 0;
  int64_t validation_rows = 0;
  // Some of the training files' rows that were split off for validation, ascending from 0.
  std::vector<int64_t> split_rows;
  int64_t tokens_per_epoch = 0;
  int64_t supervised_tokens_per_epoch = 0;
  int64_t truncated_rows = 0;
  int64_t skipped_rows = 0;  // without a supervised token
  int64_t total_steps = 0;
  int64_t first_step = 0;  // 0, or the step that was resumed from
  // What the resumed run knew of its validation loss: the base's, the newest, and the best.
  std::optional<double> base_validation_loss;
  std::optional<double> validation_loss;
  std::optional<double> best_validation_loss;
  int64_t best_step = 0;
  int64_t estimated_peak_bytes = 0;
  double start_seconds = 0;  // from process start
  std::string traceparent;   // its environment's TRACEPARENT
  Json config;               // run.json as resolved
};

// An optimizer step, or the mean of `steps` of them where the pipe was full.
struct StepEvent {
  int64_t step = 0;  // steps done
  int64_t total_steps = 0;
  double epoch = 0;
  double loss = 0;
  double grad_norm = 0;
  double learning_rate = 0;
  int64_t tokens = 0;
  int64_t supervised_tokens = 0;
  double tokens_per_second = 0;
  double seconds = 0;
  double data_seconds = 0;
  double forward_seconds = 0;
  double backward_seconds = 0;
  double optimizer_seconds = 0;
  double communication_seconds = 0;
  double idle_seconds = 0;  // that a pipeline stage waited for its neighbours
  // Of all ranks: which computed longest, and for how long. -1: there is one rank.
  int64_t slowest_rank = -1;
  double slowest_busy_seconds = 0;
  int64_t peak_memory_bytes = 0;  // resident set of the process so far
  double gflops = 0;              // model arithmetic per second
  std::optional<double> mfu;      // where the device's peak is known
  bool skipped = false;           // a guard held the step back
  int64_t steps = 1;
};

struct EvalEvent {
  int64_t step = 0;
  double epoch = 0;
  double loss = 0;
  double perplexity = 0;
  int64_t supervised_tokens = 0;
  double seconds = 0;
  bool best = false;
};

struct SampleEvent {
  int64_t step = 0;
  // Of the validation files, or of the training files where it was split off them, counted from 1;
  // 0: a prompt of the configuration.
  int64_t row = 0;
  std::string prompt;
  std::string text;
  std::string wanted;  // empty: not known
};

struct CheckpointEvent {
  int64_t step = 0;
  std::string folder;
  int64_t bytes = 0;
  double loss = 0;  // of the last step
  std::optional<double> validation_loss;
  bool best = false;
  double blocking_seconds = 0;  // that the step waited
  double seconds = 0;           // until it was on disk
};

struct WarningEvent {
  std::string code;  // STABLE_UPPER_CASE
  std::string message;
  int64_t step = 0;
};

struct DoneEvent {
  DoneReason reason = DoneReason::kCompleted;
  int64_t step = 0;
  double loss = 0;
  std::optional<double> validation_loss;
  std::string output_folder;      // empty: nothing was written
  std::string checkpoint_folder;  // the newest; empty: none
  double seconds = 0;
  int64_t peak_memory_bytes = 0;
};

struct ErrorEvent {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  std::string hint;  // what to do next
  int64_t step = 0;
};

using Event = std::variant<RunEvent, StepEvent, EvalEvent, SampleEvent, CheckpointEvent,
                           WarningEvent, DoneEvent, ErrorEvent>;

// One line without its line feed. `unix_seconds` stamps it ("time").
std::string FormatEvent(const Event& event, double unix_seconds);
// INVALID_ARGUMENT for what is no event, NOT_FOUND for an unknown kind (to be skipped),
// FAILED_PRECONDITION for a `run` line of another version.
absl::StatusOr<Event> ParseEvent(absl::string_view line);

template <>
struct EnumNames<ErrorCode> {
  static std::vector<std::pair<ErrorCode, const char*>> Names() {
    return {{ErrorCode::kInvalidConfig, "invalid_config"},
            {ErrorCode::kInvalidModel, "invalid_model"},
            {ErrorCode::kInvalidDataset, "invalid_dataset"},
            {ErrorCode::kUnimplemented, "unimplemented"},
            {ErrorCode::kOutOfMemory, "out_of_memory"},
            {ErrorCode::kDiverged, "diverged"},
            {ErrorCode::kStorage, "storage"},
            {ErrorCode::kInvalidCheckpoint, "invalid_checkpoint"},
            {ErrorCode::kRankLost, "rank_lost"},
            {ErrorCode::kInternal, "internal"}};
  }
};
template <>
struct EnumNames<DoneReason> {
  static std::vector<std::pair<DoneReason, const char*>> Names() {
    return {{DoneReason::kCompleted, "completed"},
            {DoneReason::kEarlyStopped, "early_stopped"},
            {DoneReason::kPaused, "paused"},
            {DoneReason::kTerminated, "terminated"}};
  }
};

}  // namespace graft::trainer
