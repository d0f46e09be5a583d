// What a run does between its steps to see how good it has become: the validation loss, which of
// its states was best, whether it overfits or should stop, and what it answers.
#pragma once

#include <ATen/ATen.h>

#include "absl/status/status.h"
#include "worker/trainer/checkpoint.h"
#include "worker/trainer/engine.h"
#include "worker/trainer/event_writer.h"
#include "worker/trainer/rank_gang.h"
#include "worker/trainer/run_config.h"
#include "worker/trainer/samples.h"
#include "worker/trainer/schedule.h"
#include "worker/trainer/training_data.h"

namespace graft::trainer {

class Validation {
 public:
  // What it looks at and changes; all must outlive it. The losses stand in `state`, which a
  // checkpoint keeps.
  struct Parts {
    const RunConfig& config;
    const TrainingData& data;
    model::ParameterStore& trained;  // of the model: where the numbers that count stand
    Engine& engine;
    Samples& samples;
    Schedule& schedule;
    RankGang& gang;
    EventWriter& events;
    CheckpointState& state;
  };
  explicit Validation(const Parts& parts) : p_(parts) {}

  // What the base can do: nothing that training decides upon, so that the best of the run is one
  // that it has made.
  absl::Status EvaluateBase();
  // After a step; `last` of the run.
  absl::Status AfterStep(bool last);
  // Where the run ends before its last step.
  absl::Status AtEnd();

  bool stop_early() const { return stop_early_; }
  // Whether the newest evaluation was of this step.
  bool evaluated(int64_t step) const { return looked_at_ == step; }
  // The trained numbers as they were at the best evaluation; undefined where they are not kept.
  const at::Tensor& best_values() const { return best_values_; }
  bool keeps_best() const;
  // Takes a copy of the present numbers for the best; a checkpoint's may be read into it.
  const at::Tensor& KeepAsBest() { return best_values_ = p_.trained.values().clone(); }
  // Puts the best numbers back where they are wanted as the output; false where they are not.
  bool RestoreBest();

 private:
  void Take(const EvalResult& result);
  bool may_stop_early() const;
  void WarnOfOverfitting();

  const Parts p_;
  at::Tensor best_values_;
  int64_t looked_at_ = -1;  // the step of the newest evaluation
  bool rises_ = false;      // since the evaluation before
  bool stop_early_ = false;
  bool warned_overfitting_ = false;
};

}  // namespace graft::trainer
