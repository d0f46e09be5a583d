// One step of an optimizer over a ParameterStore: the flat values, gradients and states, tensor by
// tensor where the rule looks at shapes (weight decay, Adafactor's rows and columns).
//
// Numerics are those of torch.optim and transformers: AdamW decouples its decay and puts epsilon
// behind the root; Lion and SGD likewise decouple or couple as theirs do.
//
// Life cycle: made after ParameterStore::Allocate.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "worker/model/parameter_store.h"
#include "worker/trainer/blockwise.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

// What a checkpoint keeps of an optimizer; the tensors are the live ones, so reading fills them.
struct OptimizerState {
  std::string name;
  CodedNumbers numbers;
  // One for each number of that tensor, or of all of the store where there is none. With a shape of
  // their own they are what every holder of the tensor has.
  const model::Trained* of = nullptr;
  bool own_shape = false;
};

class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Applies the gradients times `grad_scale`. Steps are counted from 1.
  virtual void Step(double learning_rate, double grad_scale) = 0;
  // In a fixed order.
  virtual std::vector<OptimizerState> states() = 0;
  int64_t steps() const { return steps_; }
  void set_steps(int64_t steps) { steps_ = steps; }

 protected:
  int64_t steps_ = 0;
};

absl::StatusOr<std::unique_ptr<Optimizer>> MakeOptimizer(const OptimizerConfig& config,
                                                         model::ParameterStore& store);

// The L2 norm of all gradients.
double GradientNorm(model::ParameterStore& store);

}  // namespace graft::trainer
