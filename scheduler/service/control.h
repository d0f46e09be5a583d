// The scheduler's one loop: every mutation is a request to it. What waits when the loop comes round
// is one turn of the engine with one commit.
//
// Submit may be called from any thread; `work` and `done` run on the loop. Listeners are called on
// the loop as well, after the commit (but OnJobWritten, before it).
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/loop.h"
#include "scheduler/service/turn.h"

namespace graft::scheduler {

class Core;
class Engine;
class EngineOutput;
struct CoreOptions;

class Control {
 public:
  // Opens the engine. All must outlive it.
  static absl::StatusOr<std::unique_ptr<Control>> Start(Store& store, Clock& clock,
                                                        EngineOutput& output, CoreOptions options);
  ~Control();

  // `done` gets RESOURCE_EXHAUSTED or UNAVAILABLE, on the calling thread, when the loop takes no
  // more.
  void Submit(TurnRequest request);
  // Runs `what` on the loop, between turns, with the core as it is committed.
  void Inspect(std::function<void(const Core&)> what);
  // OK while the loop comes round and the store takes writes.
  absl::Status Health();
  void Stop() { loop_.Stop(); }

 private:
  explicit Control(Clock& clock);
  void RunTurn();
  void PlanWake();

  Clock& clock_;
  std::unique_ptr<Engine> engine_;    // the loop's
  std::vector<TurnRequest> waiting_;  // the loop's
  Loop::TimerId timer_ = 0;           // the loop's
  absl::Time timer_at_ = absl::InfiniteFuture();
  std::atomic<int64_t> last_turn_us_{0};
  std::atomic<bool> store_healthy_{true};
  Loop loop_;  // last: stops before what it uses goes
};

}  // namespace graft::scheduler
