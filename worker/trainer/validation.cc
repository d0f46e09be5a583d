#include "worker/trainer/validation.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"

namespace graft::trainer {
namespace {

constexpr int64_t kOverfitEvaluations = 2;  // in a row without a better one
constexpr double kLargestExponent = 700;    // of a double

EvalEvent EventOf(const EvalResult& result) {
  EvalEvent event;
  event.loss = result.loss;
  event.perplexity = std::exp(std::min(result.loss, kLargestExponent));
  event.supervised_tokens = result.supervised_tokens;
  event.seconds = result.seconds;
  return event;
}

}  // namespace

absl::Status Validation::EvaluateBase() {
  const bool wanted = p_.config.evaluation.at_start && p_.data.validation_plan.has_value();
  if (!wanted || p_.state.step > 0) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(const EvalResult result, p_.engine.Evaluate(*p_.data.validation_plan));
  p_.state.base_validation_loss = result.loss;
  if (p_.gang.first()) p_.events.Write(EventOf(result));
  return absl::OkStatus();
}

absl::Status Validation::AfterStep(bool last) {
  const EvaluationConfig& every = p_.config.evaluation;
  const bool due =
      last || (every.interval > 0 ? p_.state.step % every.interval == 0
                                  : p_.data.EndsPart(p_.state.step, every.interval_epochs));
  if (due) looked_at_ = p_.state.step;
  if (due && p_.data.validation_plan.has_value()) {
    GRAFT_ASSIGN_OR_RETURN(const EvalResult result, p_.engine.Evaluate(*p_.data.validation_plan));
    Take(result);
    WarnOfOverfitting();
  }
  return due || Samples::Early(p_.state.step) ? p_.samples.AnswerAll(p_.state.step)
                                              : absl::OkStatus();
}

void Validation::Take(const EvalResult& result) {
  CheckpointState& state = p_.state;
  const EvaluationConfig& config = p_.config.evaluation;
  const bool best = !state.best_validation_loss.has_value() ||
                    result.loss < *state.best_validation_loss - config.min_delta;
  rises_ = state.validation_loss.has_value() && result.loss > *state.validation_loss;
  state.validation_loss = result.loss;
  p_.schedule.ObserveValidation(result.loss);
  if (best) {
    state.best_validation_loss = result.loss;
    state.best_step = state.step;
    state.bad_evaluations = 0;
  } else {
    ++state.bad_evaluations;
  }
  EvalEvent event = EventOf(result);
  event.step = state.step;
  event.epoch = static_cast<double>(state.step) / p_.data.steps_per_epoch;
  event.best = best;
  if (p_.gang.first()) p_.events.Write(event);
  if (!may_stop_early()) return;
  const auto bad_steps = static_cast<double>(state.step - state.best_step);
  stop_early_ = config.patience > 0 ? state.bad_evaluations >= config.patience
                                    : bad_steps >= config.patience_epochs * p_.data.steps_per_epoch;
  if (best && keeps_best()) KeepAsBest();
}

void Validation::WarnOfOverfitting() {
  const CheckpointState& state = p_.state;
  if (!p_.gang.first() || !rises_ || warned_overfitting_) return;
  if (state.bad_evaluations < kOverfitEvaluations) return;
  warned_overfitting_ = true;
  p_.events.Warn("OVERFITTING",
                 absl::StrCat("validation loss rises since step ", state.best_step, ", whose ",
                              *state.best_validation_loss, " is the best so far"),
                 state.step);
}

absl::Status Validation::AtEnd() {
  return looked_at_ == p_.state.step ? absl::OkStatus() : AfterStep(/*last=*/true);
}

bool Validation::may_stop_early() const {
  return p_.config.evaluation.patience > 0 || p_.config.evaluation.patience_epochs > 0;
}

bool Validation::keeps_best() const {
  return may_stop_early() && p_.config.evaluation.restore_best;
}

bool Validation::RestoreBest() {
  if (!best_values_.defined()) return false;
  p_.trained.values().copy_(best_values_);
  return true;
}

}  // namespace graft::trainer
