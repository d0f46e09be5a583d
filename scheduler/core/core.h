// The scheduler's decisions: nodes with leases, jobs, attempts, queues and quotas.
//
//   Core core(options);
//   core.Restore(...);                       // from records, once
//   Effects effects = core.Step(event, now); // then: persist, then send
//
// A pure state machine: the same events at the same times give the same effects. It reads no clock,
// takes no lock, draws nothing at random and does no IO. Owned by the scheduler's loop.
//
// Fencing: each node has an epoch that grows with each registration, each part of an attempt
// carries the epoch of its node, and only reports of the live epoch and the live attempt count.
// Devices are free again when every rank on them has said that it ended, or its node's lease has.
#pragma once

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/time/time.h"
#include "scheduler/core/effects.h"
#include "scheduler/core/event.h"
#include "scheduler/placement/placement.h"

namespace graft::scheduler {

struct CoreOptions {
  // How often this store has been opened for work. Epochs, desired revisions and call ids of later
  // lives are greater than those of earlier ones because they begin with it.
  int64_t incarnation = 1;
  // A node that has not synchronised for this long is lost. Agents end their ranks at four fifths.
  absl::Duration lease = absl::Seconds(15);
  absl::Duration call_deadline = absl::Seconds(60);
  absl::Duration first_backoff = absl::Seconds(2);
  absl::Duration longest_backoff = absl::Minutes(2);
  // Blocked jobs for which room is kept while others are backfilled.
  int reservations = 1;
};

struct NodeState {
  std::string name;
  int64_t epoch = 0;
  bool alive = false;  // has a lease
  bool cordoned = false;
  bool draining = false;
  std::string why;  // of a cordon or drain
  // Not stored.
  absl::Time lease_until = absl::InfinitePast();
  int64_t desired_revision = 0;
};

// One line of a node's desired state.
struct DesiredPart {
  JobKey job;
  int attempt = 0;
  int64_t epoch = 0;
  GangKind kind = GangKind::kTrain;
  bool validation = false;
  AttemptMode mode = AttemptMode::kRun;
  // The ranks on this node and their devices, by rank.
  std::vector<std::pair<int, int>> ranks;
  std::string rendezvous;
  Checkpoint resume_from;
  int64_t checkpoint_request = 0;
  bool finish = false;
  bool finish_with_best = false;
};

// Why a job waits, as a stable code and its numbers.
struct WaitReason {
  std::string code;
  std::string text;
};

class Core {
 public:
  explicit Core(CoreOptions options)
      : options_(options),
        last_epoch_(options.incarnation << 32),
        next_call_((options.incarnation << 32) + 1) {}

  // Rebuilds the state from records; live nodes are given a fresh lease. Called once, before the
  // first step; the effects are what was under way.
  Effects Restore(std::vector<Job> jobs, std::vector<std::pair<NodeState, Node>> nodes,
                  std::vector<Queue> queues, std::vector<QuotaPut> quotas, absl::Time now);

  Effects Step(const Event& event, absl::Time now);

  // nullptr when there is none.
  const Job* FindJob(absl::string_view key) const;
  const NodeState* FindNode(absl::string_view name) const;
  const absl::btree_map<JobKey, Job>& jobs() const { return jobs_; }
  const absl::btree_map<std::string, NodeState>& nodes() const { return nodes_; }
  const absl::btree_map<std::string, Queue>& queues() const { return queues_; }
  const ClusterView& cluster() const { return cluster_; }
  int Quota(absl::string_view workspace) const;  // negative: none
  int DevicesUsed(absl::string_view workspace) const;
  // What the node shall be doing, complete.
  std::vector<DesiredPart> Desired(absl::string_view node) const;
  // Of a job in QUEUED, PAUSED or the like: every reason that keeps it, the first decides.
  std::vector<WaitReason> Explain(const Job& job, absl::Time now) const;
  // Jobs that wait, in the order in which they are tried.
  std::vector<const Job*> Waiting() const;

 private:
  friend class InvariantChecker;
  // The order of the queue: effective priority down, submission up.
  struct WaitKey {
    int negative_priority;
    int64_t sequence;
    bool operator<(const WaitKey& other) const {
      return negative_priority != other.negative_priority
                 ? negative_priority < other.negative_priority
                 : sequence < other.sequence;
    }
  };

  absl::Status Apply(const NodeRegistered& event);
  absl::Status Apply(const NodeSynced& event);
  absl::Status Apply(const NodeCommanded& event);
  absl::Status Apply(const NodeRemoved& event);
  absl::Status Apply(const JobSubmitted& event);
  absl::Status Apply(const JobCommanded& event);
  absl::Status Apply(const JobAmended& event);
  absl::Status Apply(const JobErased& event);
  absl::Status Apply(const NodeDescribed& event);
  absl::Status Apply(const QueuePut& event);
  absl::Status Apply(const QueueRemoved& event);
  absl::Status Apply(const QuotaPut& event);
  absl::Status Apply(const CallAnswered& event);
  absl::Status Apply(const AttemptTouched& event);
  absl::Status Apply(const Ticked& event);
  absl::Status Apply(const PassDue& event);

  // Nodes.
  void EndLease(NodeState& node, absl::string_view why);
  void Refresh(const NodeState& node);
  void DrainNode(NodeState& node);
  void TouchDesired(const Attempt& attempt);
  absl::btree_set<JobKey> JobsOn(absl::string_view node) const;

  // Jobs.
  void Move(Job& job, JobState to, absl::string_view code, absl::string_view reason);
  void Report(Job& job, const std::string& node, const PartReport& report);
  void EndPart(Job& job, const std::string& node, AttemptEnd end, absl::string_view message);
  void Tell(Job& job, AttemptMode mode);
  void FinishAttempt(Job& job);
  void Settle(Job& job, const Attempt& over);
  void SettleSession(Job& job, const Attempt& over);
  void Requeue(Job& job, const Attempt& over);
  void Publish(Job& job, const std::string& session, bool result, int64_t step);
  absl::Status Cancel(Job& job, absl::string_view why);
  absl::Status Pause(Job& job, absl::string_view why);
  absl::Status Resume(Job& job);
  absl::Status Ask(Job& job, JobVerb verb);
  void CheckTimeLimit(Job& job);

  // The queue.
  struct Pass;
  void StartValidations();
  void TryWaiting(Job& job, Pass& pass);
  absl::StatusOr<Placement> Seek(const ClusterView& view, const Job& job) const;
  void Reserve(const Job& job, Pass& pass);
  void StartGang(Job& job, const Placement& placement, absl::string_view how);
  void Start(Job& job, Attempt attempt);
  void Preempt(const Job& job);
  int EffectivePriority(const Job& job) const;
  WaitKey KeyOf(const Job& job) const { return {-EffectivePriority(job), job.sequence}; }
  bool OverQuota(const Job& job) const;
  void Enqueue(Job& job);
  void Dequeue(const Job& job);
  // When the job's attempt will be over, if it has said enough to know; else InfiniteFuture.
  absl::Time PredictedEnd(const Job& job) const;
  absl::Time WakeAt() const;

  const CoreOptions options_;
  absl::Time now_ = absl::InfinitePast();  // of the step under way
  Effects effects_;                        // of the step under way

  ClusterView cluster_;
  absl::btree_map<std::string, NodeState> nodes_;
  absl::btree_map<JobKey, Job> jobs_;
  absl::btree_map<std::string, Queue> queues_;
  absl::btree_map<std::string, int> quotas_;
  absl::btree_map<std::string, int> used_;               // devices by workspace
  std::map<WaitKey, JobKey> waiting_;                    // jobs in QUEUED
  absl::btree_set<JobKey> created_;                      // jobs in CREATED
  absl::btree_set<JobKey> live_;                         // jobs with a live attempt
  std::set<std::pair<absl::Time, std::string>> leases_;  // of live nodes
  std::set<std::pair<absl::Time, JobKey>> alarms_;       // jobs to look at
  absl::btree_map<int64_t, PublishCall> calls_;
  absl::btree_map<int64_t, absl::Time> call_retries_;
  int64_t last_epoch_;
  // From a range of this life: an answer to an earlier one's call must not be taken for ours.
  int64_t next_call_;
  int64_t next_sequence_ = 1;
};

}  // namespace graft::scheduler
