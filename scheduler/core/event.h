// Everything that can happen to the core.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "scheduler/core/job.h"
#include "scheduler/placement/cluster.h"

namespace graft::scheduler {

// A worker introduces itself. Whatever ran on it under an older epoch is over as soon as it speaks
// under the new one.
struct NodeRegistered {
  Node node;
};

// What a node says of one attempt's ranks on it.
struct PartReport {
  JobKey job;
  int attempt = 0;
  PartState state = PartState::kAssigned;
  // Of an ended part.
  AttemptEnd end = AttemptEnd::kNone;
  std::string message;
  // Of the part with rank 0.
  std::string rendezvous;
  std::string result_session;
  std::string report_session;
  Checkpoint checkpoint;  // a complete upload of one, not yet published
  int64_t step = 0;
  int64_t steps_total = 0;
  double step_seconds = 0;
};

// All that runs on a node; what it was told of by `desired_revision` and does not list has ended.
struct NodeSynced {
  std::string node;
  int64_t epoch = 0;
  int64_t desired_revision = 0;
  std::vector<PartReport> parts;
  bool leaving = false;  // the worker shuts down as soon as nothing runs there
};

enum class NodeVerb { kCordon, kUncordon, kDrain };
struct NodeCommanded {
  std::string node;
  NodeVerb verb = NodeVerb::kCordon;
  std::string why;
  absl::Duration timeout = absl::InfiniteDuration();  // of a drain: NodeState::drain_until
};
// What the administrator says of a node.
struct NodeDescribed {
  std::string node;
  absl::btree_map<std::string, std::string> labels;
  std::vector<std::string> taints;
  std::string rack;
  std::string spine;
};
// The node has other devices than it had, or in another state. One that is gone while a job holds
// it stays as a device that is not healthy.
struct NodeInventoried {
  std::string node;
  int64_t epoch = 0;
  std::vector<Device> devices;
};
// Refused while the node is alive and carries anything.
struct NodeRemoved {
  std::string node;
};

struct JobSubmitted {
  JobRequest request;
};
enum class JobVerb {
  kCancel,
  kPause,
  kPauseIdle,  // because it does nothing with its devices
  kResume,
  kCheckpoint,  // take one now
  kFinish,      // end as if the last step were done
  kFinishWithBest,
};
struct JobCommanded {
  JobKey job;
  JobVerb verb = JobVerb::kCancel;
  std::string why;
};
// The job wants something else from now on: all but its key, workspace and queue while it waits,
// its priority and limits also while it runs.
struct JobAmended {
  JobRequest request;
};
// Refused unless the job is in a terminal state.
struct JobErased {
  JobKey job;
};

// Numbers of the API's.
enum class QueueMode {
  kOpen = 1,
  kHeld = 2,    // takes jobs, starts none
  kClosed = 3,  // takes none, starts those it has
};
// A workspace's part of a queue.
struct Share {
  std::string workspace;
  int quota = -1;   // devices that it may always have; negative: no limit
  int borrow = -1;  // devices beyond the quota while nobody needs them; negative: no limit
  double weight = 1;
};
struct Queue {
  std::string name;
  int priority = 0;      // its jobs go before all of queues with a lower one
  bool preempts = true;  // its jobs may stop jobs of lower priority
  QueueMode mode = QueueMode::kOpen;
  bool backfill = true;  // its jobs may start while one before them is blocked
  bool fair = true;      // else first come, first served inside a priority
  // A job of it is not stopped for others in its first so much.
  absl::Duration min_run_time = absl::ZeroDuration();
  absl::Duration half_life = absl::ZeroDuration();  // of what its workspaces have used; 0: as all
  // Empty: every workspace may use it, without limits. Else these alone.
  std::vector<Share> shares;
};
struct QueuePut {
  Queue queue;
};
struct QueueRemoved {
  std::string queue;
};

// The answer to an external call, or DEADLINE_EXCEEDED from the shell.
struct CallAnswered {
  int64_t id = 0;
  absl::Status status;
  std::string version;
};

// Something that the shell tells the attempt's nodes has changed (an upload session was opened).
struct AttemptTouched {
  JobKey job;
  int attempt = 0;
};

// Time has passed: leases, backoffs and deadlines are looked at.
struct Ticked {};

// Let waiting jobs start. The shell says this once after the events of a turn when an effect asked
// for it, so that a thousand submissions cost one pass over the queue.
struct PassDue {};

// A type of its own, so that who only passes events on can name it without what they hold.
struct Event : std::variant<NodeRegistered, NodeSynced, NodeCommanded, NodeRemoved, JobSubmitted,
                            JobCommanded, JobAmended, JobErased, NodeDescribed, NodeInventoried,
                            QueuePut, QueueRemoved, CallAnswered, AttemptTouched, Ticked, PassDue> {
  using variant::variant;
};

}  // namespace graft::scheduler
