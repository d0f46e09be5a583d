#include "scheduler/service/recipe_warnings.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr double kHighLoraRate = 5e-4;
constexpr int kHighRank = 32;
constexpr int64_t kRowsForHighRank = 1000;
constexpr int64_t kRowsForAllWeights = 2000;
constexpr double kManyEpochs = 10;
constexpr int64_t kFarAbove = 4;  // times the longest row

int64_t StepsOf(const v1::JobSpec& spec, const RowFacts& rows) {
  const int64_t cap = spec.schedule().max_steps();
  if (rows.rows == 0) return cap;
  const auto whole =
      static_cast<int64_t>(static_cast<double>(rows.rows) * spec.schedule().epochs() /
                           std::max(spec.batch().global_batch_size(), 1));
  return cap > 0 ? std::min(cap, whole) : whole;
}

}  // namespace

std::vector<v1::Warning> RecipeWarnings(const v1::JobSpec& spec, const RowFacts& rows) {
  std::vector<v1::Warning> warnings;
  const auto warn = [&](const char* code, const char* field, std::string message,
                        const char* explanation) {
    v1::Warning& warning = warnings.emplace_back();
    warning.set_code(code);
    warning.set_field(field);
    warning.set_message(std::move(message));
    warning.set_explanation(explanation);
  };
  const bool lora = spec.tuning().type() != v1::FINETUNING_TYPE_ALL_WEIGHTS;
  const double rate = spec.optimizer().learning_rate();
  if (lora && rate > kHighLoraRate) {
    warn("LEARNING_RATE_HIGH", "spec.optimizer.learning_rate",
         absl::StrCat("is ", rate, "; 0.0002 is usual for LoRA"),
         "Above 0.0005 adapters often diverge or forget what the base knows.");
  }
  const int rank = spec.tuning().lora().rank();
  if (lora && rank > kHighRank && rows.rows > 0 && rows.rows < kRowsForHighRank) {
    warn("RANK_HIGH_FOR_ROWS", "spec.tuning.lora.rank",
         absl::StrCat("is ", rank, " with ", rows.rows, " rows; 16 is enough"),
         "A high rank learns few rows by heart.");
  }
  if (!lora && rows.rows > 0 && rows.rows < kRowsForAllWeights) {
    warn("FEW_ROWS_FOR_ALL_WEIGHTS", "spec.tuning.type",
         absl::StrCat("all_weights with ", rows.rows, " rows; type lora suits fewer than ",
                      kRowsForAllWeights),
         "Training all weights on few rows forgets more than it learns.");
  }
  if (spec.schedule().epochs() > kManyEpochs && spec.schedule().max_steps() == 0) {
    warn("MANY_EPOCHS", "spec.schedule.epochs",
         absl::StrCat("is ", spec.schedule().epochs(), "; 1 to 3 are usual"),
         "After some passes the validation loss rises; set early_stopping to end there.");
  }
  const int64_t steps = StepsOf(spec, rows);
  const int64_t warmup = spec.optimizer().warmup_steps();
  if (steps > 0 && warmup >= steps) {
    warn("WARMUP_BEYOND_RUN", "spec.optimizer.warmup_steps",
         absl::StrCat("is ", warmup, " and the run has ", steps, " steps; ",
                      std::max<int64_t>(steps / 20, 1), " would be a twentieth"),
         "The learning rate never reaches its value.");
  }
  const int64_t length = spec.batch().max_seq_length();
  if (rows.longest_tokens > 0 && length > kFarAbove * rows.longest_tokens &&
      !spec.batch().sequence_packing()) {
    warn("SEQ_LENGTH_ABOVE_ROWS", "spec.batch.max_seq_length",
         absl::StrCat("is ", length, " and the longest row has ", rows.longest_tokens, " tokens; ",
                      rows.longest_tokens, " loses nothing"),
         "Memory is set aside for sequences that never come.");
  }
  return warnings;
}

}  // namespace graft::scheduler
