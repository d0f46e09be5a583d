// A run from run.json to its output: prepares, steps, evaluates, checkpoints, listens to what it is
// told, and says what happens. What a step does to the numbers is the Engine's.
//
//   const RunOutcome outcome = Run(config, control, events, clock);
//
// One thread. Everything that happens is an event; the last one is `done` or `error`.
#pragma once

#include "absl/status/status.h"
#include "base/clock.h"
#include "worker/model/accelerator.h"
#include "worker/trainer/control.h"
#include "worker/trainer/event_writer.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

// OK: the run ended as `done` says. Both events are written here.
// `accelerator` is null where there is none.
absl::Status Run(const RunConfig& config, Control& control, EventWriter& events, Clock& clock,
                 const model::Accelerator* accelerator);

}  // namespace graft::trainer
