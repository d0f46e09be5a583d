// Finds out which rank is to blame when a run of several cannot go on: one that died, one that
// stands still, one that failed by itself, or ranks that wait for each other in different
// collectives. Every rank writes a beat to the store once a second (its step, what it waits in, a
// count of things done) and reads those of the others; a second thread judges, so that a store that
// hangs is itself a finding.
//
// `lost` is called once, on a thread of the watchdog, and usually ends the process: the rank's own
// thread may be waiting in a collective that never returns.
//
// Life cycle: started behind the rendezvous, stopped before the store goes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/types/optional.h"
#include "base/mutex.h"
#include "worker/parallel/activity.h"
#include "worker/parallel/rendezvous.h"

namespace graft::parallel {

// What a rank says of itself.
struct Beat {
  int64_t count = 0;
  Activity::Snapshot state;
  std::string failure;  // why it ends by its own doing; empty: it does not
  bool done = false;
  bool left = false;  // knows that all are done, and asks the store no more

  std::string Format() const;
  static Beat Parse(const std::string& text);
};

// Judges beats by the times at which they changed. Pure: the caller brings the time.
class BeatJudge {
 public:
  struct Limits {
    double silent_seconds = 8;  // without a beat: the process is gone or stopped
    double still_seconds = 18;  // without progress while others wait
  };
  BeatJudge(int64_t world, int64_t own, Limits limits);

  void Observe(const std::vector<Beat>& beats, double now);
  // The sentence that names the rank, the step and the collective, once there is one to blame.
  absl::optional<std::string> Verdict(double now) const;

 private:
  struct Seen {
    Beat beat;
    double alive = 0;     // when the beat's count changed
    double progress = 0;  // when its ticks did
    bool observed = false;
  };
  std::string Where() const;

  const int64_t own_;
  const Limits limits_;
  std::vector<Seen> ranks_;
};

class Watchdog {
 public:
  using Lost = std::function<void(const std::string& message, int64_t step)>;
  Watchdog(int64_t rank, int64_t world, StorePtr store, const Activity& activity, Lost lost,
           BeatJudge::Limits limits = {});
  ~Watchdog() { Stop(); }

  // This rank fails by its own doing: the others hear of it with their next beat.
  void Fail(const std::string& why);
  // Returns when every rank is done or has failed, at most `seconds`: the store outlives its users.
  void FinishTogether(double seconds);
  // Leaves `lost` that much time to be called, where this rank knows no more than that others are
  // to blame.
  void Stay(double seconds);
  void Stop();

 private:
  void BeatLoop();
  void JudgeLoop();
  // True where all are done or have failed.
  bool Beats();
  void Say(bool left);
  // False when stopped meanwhile.
  bool Pause(double seconds);
  static double Now();

  const int64_t rank_;
  const int64_t world_;
  const StorePtr store_;  // a connection of its own
  const Activity& activity_;
  const Lost lost_;
  Mutex mu_;
  CondVar changed_;
  bool stopping_ GRAFT_GUARDED_BY(mu_) = false;
  bool done_ GRAFT_GUARDED_BY(mu_) = false;
  bool all_done_ GRAFT_GUARDED_BY(mu_) = false;
  std::string failure_ GRAFT_GUARDED_BY(mu_);
  BeatJudge judge_ GRAFT_GUARDED_BY(mu_);
  double round_ GRAFT_GUARDED_BY(mu_) = 0;  // when the store last answered
  const BeatJudge::Limits limits_;
  int64_t count_ = 0;  // of the beating thread
  std::thread beating_;
  std::thread judging_;
};

}  // namespace graft::parallel
