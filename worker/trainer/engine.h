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
#include "worker/trainer/optimizer.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

struct StepResult {
  double loss = 0;
  double grad_norm = 0;
  double forward_seconds = 0;
  double backward_seconds = 0;
  double optimizer_seconds = 0;
  double communication_seconds = 0;
  bool skipped = false;  // nothing was changed
  std::string skip_reason;
  bool split = false;  // memory did not suffice: micro-batches were halved from here on
};

struct EvalResult {
  double loss = 0;
  int64_t supervised_tokens = 0;
  double seconds = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;
  // RESOURCE_EXHAUSTED when memory did not suffice for halved micro-batches either.
  virtual absl::StatusOr<StepResult> Step(const data::StepBatch& batch, double learning_rate) = 0;
  virtual absl::StatusOr<EvalResult> Evaluate(const data::BatchPlan& plan) = 0;
};

// One device, one process.
class LocalEngine final : public Engine {
 public:
  // All must outlive it.
  LocalEngine(const RunConfig& config, model::Decoder& decoder, Optimizer& optimizer)
      : config_(config), decoder_(decoder), optimizer_(optimizer) {}

  absl::StatusOr<StepResult> Step(const data::StepBatch& batch, double learning_rate) override;
  absl::StatusOr<EvalResult> Evaluate(const data::BatchPlan& plan) override;

 private:
  absl::StatusOr<StepResult> Passes(const data::StepBatch& batch);
  // Sets `skipped` where a guard holds the update back.
  void Guard(StepResult& result);

  const RunConfig& config_;
  model::Decoder& decoder_;
  Optimizer& optimizer_;
  bool halve_ = false;     // since memory did not suffice once
  double usual_loss_ = 0;  // an exponential mean, for the spike guard
  int64_t losses_seen_ = 0;
};

// `micro` cut between two segments into parts of about the same number of tokens; one part where it
// is a single segment.
std::vector<data::MicroBatch> Halve(const data::MicroBatch& micro);

}  // namespace graft::trainer
