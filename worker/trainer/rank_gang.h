// The ranks of a run as one of them sees them: found at the start, watched while it trains, asked
// what they were told, and told how it ended. A run of one rank has a gang too, of itself: nothing
// is opened then and every call returns at once.
//
// One thread, but for the watchdog's own, which ends the process when another rank is lost while
// this one waits in a collective that never returns.
#pragma once

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "worker/model/accelerator.h"
#include "worker/parallel/watchdog.h"
#include "worker/parallel/world.h"
#include "worker/spec/decoder_spec.h"
#include "worker/trainer/event_writer.h"
#include "worker/trainer/parallel_engine.h"
#include "worker/trainer/rank_files.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

// What a rank was told from outside.
struct Orders {
  bool terminate = false;
  bool pause = false;
  bool checkpoint = false;
  bool finish = false;
  bool finish_with_best = false;
};

class RankGang {
 public:
  // Both must outlive it.
  RankGang(const RunConfig& config, EventWriter& events) : config_(config), events_(events) {}

  // Finds the other ranks. What lies on `device` goes over the collectives of `accelerator`, which
  // may be null for a CPU.
  absl::Status Gather(const spec::DecoderSpec& spec, at::Device device,
                      const model::Accelerator* accelerator);

  // Null where there is one rank.
  parallel::World* world() { return world_.get(); }
  const ModelPart& part() const { return part_; }
  bool first() const { return config_.parallelism.rank == 0; }
  // For files that all ranks write together. This gang must outlive it.
  FileGang ForFiles() { return GangOf(world_.get()); }

  // What any rank was told: all obey at the same step.
  absl::StatusOr<Orders> Agree(const Orders& own);
  // From here on a silent neighbour is no reason to end: it may write, or answer.
  void EndTraining();

  // The run has failed with `status`. Where a collective broke, the watchdog knows who is to blame
  // and ends the process itself.
  void Fail(const absl::Status& status);
  // Nobody is done before all are: the first rank holds the store, and writes the output.
  absl::Status FinishTogether();

 private:
  void OnLost(const std::string& message, int64_t step);

  const RunConfig& config_;
  EventWriter& events_;
  std::unique_ptr<parallel::World> world_;
  ModelPart part_;
  std::unique_ptr<parallel::Watchdog> watchdog_;  // last: its thread uses what stands above
};

}  // namespace graft::trainer
