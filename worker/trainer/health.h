// Where the time of a step goes on many ranks, and what would take less: one sentence for a person,
// made from what was measured and from the estimates of worker/spec. Free of torch. Pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "worker/spec/estimate.h"

namespace graft::trainer {

// Of one rank's mean step.
struct StepShares {
  double seconds = 0;         // the whole step
  double busy_seconds = 0;    // in passes, without waiting
  double tensor_seconds = 0;  // waiting for tensor parallelism's sums
  double sum_seconds = 0;     // for gradients and what is exchanged once a step
  double idle_seconds = 0;    // for a neighbouring stage
};

// "41 % of a step waits for tensor parallelism: pp 2 would take an estimated 0.6 of the time".
// nullopt where nothing takes a fifth of the step. Other layouts of as many ranks are judged with
// the speeds that this run showed.
std::optional<std::string> StallVerdict(const spec::CostModel& cost, const spec::TrainingPlan& plan,
                                        const StepShares& shares);

}  // namespace graft::trainer
