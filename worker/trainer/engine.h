// What one optimizer step does to the numbers, apart from when steps happen: passes over the
// micro-batches, guards, clipping, the update. The step loop knows this interface alone, so that
// tensor, pipeline and data parallelism can stand behind it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "worker/data/dataset/batches.h"
#include "worker/model/decoder.h"
#include "worker/trainer/continuation.h"
#include "worker/trainer/optimizer.h"
#include "worker/trainer/precision.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

struct StepResult {
  double loss = 0;
  double grad_norm = 0;
  double forward_seconds = 0;
  double backward_seconds = 0;
  double optimizer_seconds = 0;
  double communication_seconds = 0;
  double tensor_seconds = 0;        // of it, inside of passes for tensor parallelism
  double idle_seconds = 0;          // that a pipeline stage waited for its neighbours
  double busy_seconds = 0;          // of this rank, in passes, without waiting
  int64_t slowest_rank = -1;        // which computed longest; -1: there is one rank alone
  double slowest_busy_seconds = 0;  // and for how long
  bool skipped = false;             // nothing was changed
  bool overflowed = false;          // for want of a smaller loss scale, which it has now
  std::string skip_reason;
  bool split = false;  // memory did not suffice: micro-batches were halved from here on
};

struct EvalResult {
  double loss = 0;
  int64_t supervised_tokens = 0;
  double seconds = 0;
};

// Holds back updates that would do harm: of a step whose gradients overflow what they were computed
// in, that is not finite, or whose loss spikes.
class StepGuard {
 public:
  // Both must outlive it; the scaler is told of every step.
  StepGuard(const GuardConfig& config, LossScaler& scaler) : config_(config), scaler_(scaler) {}
  // Sets `skipped` and the reason where the update is to be held back.
  void Check(StepResult& result);

 private:
  const GuardConfig& config_;
  LossScaler& scaler_;
  double usual_loss_ = 0;  // an exponential mean
  int64_t losses_seen_ = 0;
};

// By what the gradients are multiplied so that their norm is at most `clip_norm` (0: no clipping).
double ClipScale(double grad_norm, double clip_norm);

class Engine {
 public:
  virtual ~Engine() = default;
  // RESOURCE_EXHAUSTED when memory did not suffice for halved micro-batches either.
  virtual absl::StatusOr<StepResult> Step(const data::StepBatch& batch, double learning_rate) = 0;
  virtual absl::StatusOr<EvalResult> Evaluate(const data::BatchPlan& plan) = 0;
  // No rank has all of the model.
  virtual bool Divided() const { return false; }
  // Begins an answer of the model as it is now, of at most `capacity` tokens with its prompt. Where
  // it is divided every rank must extend the answer alike, and all get the same logits.
  virtual Continuation Begin(int64_t capacity) = 0;
};

// One device, one process.
class LocalEngine final : public Engine {
 public:
  // All must outlive it.
  LocalEngine(const RunConfig& config, model::Decoder& decoder, Optimizer& optimizer,
              LossScaler& scaler)
      : config_(config),
        decoder_(decoder),
        optimizer_(optimizer),
        scaler_(scaler),
        guard_(config.guards, scaler) {}

  absl::StatusOr<StepResult> Step(const data::StepBatch& batch, double learning_rate) override;
  absl::StatusOr<EvalResult> Evaluate(const data::BatchPlan& plan) override;
  Continuation Begin(int64_t capacity) override { return ContinueWithCache(decoder_, capacity); }

 private:
  absl::StatusOr<StepResult> Passes(const data::StepBatch& batch);

  const RunConfig& config_;
  model::Decoder& decoder_;
  Optimizer& optimizer_;
  LossScaler& scaler_;
  bool halve_ = false;  // since memory did not suffice once
  StepGuard guard_;
};

// `micro` cut between two segments into parts of about the same number of tokens; one part where it
// is a single segment.
std::vector<data::MicroBatch> Halve(const data::MicroBatch& micro);

}  // namespace graft::trainer
