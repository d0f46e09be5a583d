// What the core keeps of a job: only what decides. The specification's body stays in the store.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/time/time.h"
#include "scheduler/core/job_state.h"
#include "scheduler/placement/placement.h"

namespace graft::scheduler {

// What a gang is for. Stored as numbers.
enum class GangKind {
  kTrain = 0,
  // An inference session: it answers questions until it is told to stop. It has nothing to go on
  // from, so it is never paused, moved or started again: when its attempt is over, it is.
  kGenerate = 1,
};

// What becomes of a job at its time limit: paused or failed behind a checkpoint (paused also
// without one), or done with what it has learnt.
enum class AtTimeLimit { kPause = 0, kFail = 1, kComplete = 2 };

// What a submission says of itself. Constant after creation.
struct JobRequest {
  JobKey key;
  std::string workspace;
  std::string queue;
  int priority = 0;  // greater goes first
  GangKind kind = GangKind::kTrain;
  GangRequest gang;
  // Layouts that will do where that of `gang` does not fit now, best first.
  std::vector<Layout> other_layouts;
  // How long it is expected to run until its steps have been measured.
  absl::Duration expected_run_time = absl::InfiniteDuration();
  int max_restarts = 0;
  // A worker reads the inputs through before any device is taken.
  bool needs_validation = false;
  bool preemptible = true;
  // Ends the job after so much time on devices, with a checkpoint first; 0: no limit.
  absl::Duration time_limit = absl::ZeroDuration();
  AtTimeLimit at_time_limit = AtTimeLimit::kPause;
  // Waits in QUEUED until it is resumed.
  bool hold = false;
  // Jobs that must be COMPLETED before it starts; each leaves the list when it is.
  std::vector<JobKey> after;
  // Another job's checkpoint that this one begins with; empty: none.
  std::string start_version;
  int64_t start_step = 0;
};

// What the ranks of an attempt on one node do, as the node last said. Stored as numbers.
enum class PartState { kAssigned = 0, kStarting = 1, kRunning = 2, kEnded = 3 };

// The share of an attempt that one node carries.
struct Part {
  int64_t epoch = 0;  // of the node's lease when it was assigned
  PartState state = PartState::kAssigned;
  // The node's desired revision that first told of it. Not stored: a restart tells again.
  int64_t told_at = 0;
};

// What an attempt is told to do. It only ever moves down this list. Stored as numbers.
enum class AttemptMode { kRun = 0, kCheckpointAndStop = 1, kStop = 2 };

// How an attempt ended. Stored as numbers.
enum class AttemptEnd {
  kNone = 0,       // it has not
  kSucceeded = 1,  // every rank came to its end
  kStopped = 2,    // it was told to
  kFailed = 3,     // a rank failed; trying again may help
  kHopeless = 4,   // a rank failed on its inputs; trying again does not help
  kLost = 5,       // a worker was lost
};

// One placement of the whole gang, or the validation on one node (then without ranks).
struct Attempt {
  int number = 0;  // counted from 1 within the job; 0: none
  bool validation = false;
  AttemptMode mode = AttemptMode::kRun;
  AttemptEnd end = AttemptEnd::kNone;
  std::string end_message;
  Layout layout;                                // of its ranks
  std::vector<DeviceRef> ranks;                 // [world]
  absl::btree_map<std::string, Part> parts;     // by node
  std::string rendezvous;                       // "host:port" of rank 0, once it has said so
  std::string result_session;                   // the upload that holds the result
  absl::Time started;                           // when it was placed
  absl::Time running = absl::InfiniteFuture();  // when every rank ran
  absl::Time told = absl::InfiniteFuture();     // when it was told to stop

  double device_seconds = 0;  // of parts that have ended

  // Not stored; a restart begins anew.
  std::vector<DeviceRef> held;                  // of its devices, those not given back
  absl::Time stop_at = absl::InfiniteFuture();  // its time for a checkpoint is over
  bool result_asked = false;                    // to be published
  std::string decision;                         // why it was placed there
  // How long it would run by what was known when it started.
  absl::Duration expected = absl::InfiniteDuration();

  bool live() const { return number != 0; }
};

struct Checkpoint {
  std::string version;  // the fileset version; empty: none
  int64_t step = 0;
  std::string session;  // the upload it was published from
  absl::Time published = absl::InfinitePast();
  // For people; they decide nothing.
  std::optional<double> val_loss;  // at its step
  int64_t bytes = 0;
};

// What a job has used, of attempts that have ended. Device-seconds are devices times seconds.
struct JobUsage {
  double device_seconds = 0;       // held
  double busy_device_seconds = 0;  // of these, while every rank ran
  double lost_seconds = 0;         // trained after the last checkpoint of attempts that were lost
  double queued_seconds = 0;       // in QUEUED
  double preempted_seconds = 0;    // from being told to make room until it had
  int preemptions = 0;
};

struct Job {
  JobRequest request;
  int64_t sequence = 0;  // order of submission
  JobState state = JobState::kCreated;
  // Why it is in this state, and what can be done; a stable code before it.
  std::string reason_code;
  std::string reason;
  int attempts = 0;
  int restarts = 0;
  Attempt attempt;  // the live one; a job never has two
  Checkpoint checkpoint;
  // A checkpoint that is being published, or was reported and waits for it: without a version.
  Checkpoint publishing;
  int64_t checkpoint_request = 0;  // how many checkpoints people have asked for
  bool finish = false;             // people want it to end with what it has
  bool finish_with_best = false;   // ... with the weights of the best validation
  std::string result_version;      // of a completed job
  std::string report_session;      // the upload that holds the before/after report
  std::string report_version;      // once that is published; no state waits for it
  bool time_is_up = false;         // its time limit has stopped it
  JobKey failed_with;              // a job of `after` that did not complete; empty: none
  JobUsage usage;
  double device_seconds_limited = 0;  // of them, those that a time limit counts no more
  absl::Time since;                   // when it came into its state
  // For people; they decide nothing.
  absl::Time created;
  absl::Time started = absl::InfiniteFuture();   // first attempt
  absl::Time finished = absl::InfiniteFuture();  // terminal state reached
  // Where the last attempt failed; avoided while another node will do.
  std::vector<std::string> failed_nodes;

  // Not stored; a restart begins anew.
  absl::Time not_before = absl::InfinitePast();  // backoff
  int64_t step = 0;
  int64_t steps_total = 0;
  double step_seconds = 0;
};

}  // namespace graft::scheduler
