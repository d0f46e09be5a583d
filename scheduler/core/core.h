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
#include <deque>
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
#include "scheduler/placement/explain.h"
#include "scheduler/placement/queue_pass.h"
#include "scheduler/placement/victims.h"

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
  // Token passes that one node carries at a time; each takes a core.
  int validations_per_node = 2;
  // Blocked jobs for which room is kept while others are backfilled.
  int reservations = 4;
  // A blocked job waits twice as long as it will run, but at most so long, before room is kept for
  // it: until then others may go ahead of it, afterwards none that would delay it. Room is kept at
  // once for one that nobody knows the length of. Infinite: none is kept, ever.
  absl::Duration keep_room_after = absl::Hours(4);
  // Who is told to take a checkpoint and stop has so long for it, and is stopped then.
  absl::Duration checkpoint_grace = absl::Minutes(10);
  // A node that leaves is emptied so long before.
  absl::Duration leave_notice = absl::Minutes(5);
  // What a workspace used counts half after so long.
  absl::Duration share_half_life = absl::Hours(24 * 7);
  // What searches for jobs to stop may look at in one pass, gangs that run and NVLink domains
  // together, some microsecond each. One search is always made.
  int64_t preemption_budget = 16'000;
};

struct NodeState {
  std::string name;
  int64_t epoch = 0;
  int64_t heard = 0;   // the epoch in which its worker has last spoken; not stored
  bool alive = false;  // has a lease
  bool cordoned = false;
  bool draining = false;
  std::string why;                                  // of a cordon or drain
  absl::Time drain_until = absl::InfiniteFuture();  // what is left then ends without a checkpoint
  bool leaving = false;                             // its end is near, or it said so itself
  // Not stored.
  absl::Time lease_until = absl::InfinitePast();
  int64_t desired_revision = 0;
  absl::Time empty_at = absl::InfiniteFuture();  // when its end will be near
  absl::btree_set<JobKey> jobs;                  // with a part here that has not ended

  bool takes_jobs() const { return alive && !cordoned && !draining && !leaving; }
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

// In either direction. A queue's priority is a band that the jobs' own do not leave.
inline constexpr int kMostJobPriority = 100'000;
inline constexpr int kMostQueuePriority = 1000;

// Jobs of a workspace that stand before another one.
struct JobsAhead {
  int64_t jobs = 0;
  int64_t devices = 0;
};

// Where a job stands in its queue and when it is expected to start.
struct WaitingPlace {
  const Job* job = nullptr;
  int64_t position = 0;                                // in its queue, from 1
  absl::Time expected_start = absl::InfiniteFuture();  // infinite: not known
};

// Why a job waits. The texts name no job and no workspace but its own.
struct JobExplanation {
  bool starts_now = false;          // with the next pass over the queue
  std::vector<WhyWaiting> reasons;  // the first decides; empty when it does not wait
  Funnel funnel;
  // Each was tried and starts the job now.
  std::vector<Counterfactual> counterfactuals;
  absl::Time expected_start = absl::InfiniteFuture();  // infinite: not known
  // By then nine of ten do when estimates are as far off as the last ones were.
  absl::Time expected_start_p90 = absl::InfiniteFuture();
  absl::btree_map<std::string, JobsAhead> ahead;  // by workspace
  std::vector<JobKey> first_ahead;                // the first of them, in their order
};

class Core {
 public:
  explicit Core(CoreOptions options)
      : options_(options),
        shares_(options.share_half_life),
        last_epoch_(options.incarnation << 32),
        next_call_((options.incarnation << 32) + 1) {}

  // Rebuilds the state from records; live nodes are given a fresh lease. Called once, before the
  // first step; the effects are what was under way.
  Effects Restore(std::vector<Job> jobs, std::vector<std::pair<NodeState, Node>> nodes,
                  std::vector<Queue> queues, absl::Time now);

  Effects Step(const Event& event, absl::Time now);

  // nullptr when there is none.
  const Job* FindJob(absl::string_view key) const;
  const NodeState* FindNode(absl::string_view name) const;
  const absl::btree_map<JobKey, Job>& jobs() const { return jobs_; }
  const absl::btree_map<std::string, NodeState>& nodes() const { return nodes_; }
  const absl::btree_map<std::string, Queue>& queues() const { return queues_; }
  const ClusterView& cluster() const { return cluster_; }
  // Quotas and what is held, by account.
  const Quotas& quotas() const { return quotas_; }
  // The account that the job's devices count to.
  static std::string AccountOf(const JobRequest& request);
  // What the node shall be doing, complete.
  std::vector<DesiredPart> Desired(absl::string_view node) const;
  // Of a job that waits: every reason, what would help, and when it is expected to start. Walks the
  // queue some times: milliseconds for a long one.
  JobExplanation Explain(const Job& job, absl::Time now) const;
  // The same of a job that is not submitted.
  JobExplanation ExplainUnsubmitted(const JobRequest& request, absl::Time now) const;
  // The code alone of the first reason, quickly; empty when the job does not wait.
  absl::string_view WaitCode(const Job& job, absl::Time now) const;
  size_t waiting() const { return waiting_.size(); }
  // The first jobs in QUEUED, in the order in which they are tried; those that may not start are
  // last.
  std::vector<const Job*> Waiting(absl::Time now, size_t most = SIZE_MAX) const;
  // The same with their places; the start is known of the first that are blocked. As dear as a pass
  // over the queue.
  std::vector<WaitingPlace> Outlook(absl::Time now, size_t most = SIZE_MAX) const;

 private:
  friend class InvariantChecker;
  absl::Status Apply(const NodeRegistered& event);
  absl::Status Apply(const NodeSynced& event);
  absl::Status Apply(const NodeCommanded& event);
  absl::Status Apply(const NodeRemoved& event);
  absl::Status Apply(const JobSubmitted& event);
  absl::Status Apply(const JobCommanded& event);
  absl::Status Apply(const JobAmended& event);
  absl::Status Apply(const JobErased& event);
  absl::Status Apply(const NodeDescribed& event);
  absl::Status Apply(const NodeInventoried& event);
  absl::Status Apply(const QueuePut& event);
  absl::Status Apply(const QueueRemoved& event);
  absl::Status Apply(const CallAnswered& event);
  absl::Status Apply(const AttemptTouched& event);
  absl::Status Apply(const Ticked& event);
  absl::Status Apply(const PassDue& event);

  // Nodes.
  // What the worker on the node was told to run before it had this epoch.
  void EndOlderParts(const std::string& node, int64_t epoch);
  void EndLease(NodeState& node, absl::string_view why);
  void Refresh(const NodeState& node);
  void DrainNode(NodeState& node, absl::string_view why);
  void Leave(NodeState& node, absl::string_view why);
  // What was told to take a checkpoint and stop has until `when` for it, at most.
  void StopBy(Job& job, absl::Time when);
  void NoteEnd(NodeState& node);
  void NodesLeave();
  void TouchDesired(const Attempt& attempt);
  std::vector<JobKey> JobsOn(absl::string_view node) const;

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
  void PublishReport(Job& job);
  void ReportAnswered(const PublishCall& call, const CallAnswered& event);
  absl::Status Cancel(Job& job, absl::string_view why);
  absl::Status Pause(Job& job, absl::string_view code, absl::string_view why);
  absl::Status Resume(Job& job);
  absl::Status Ask(Job& job, JobVerb verb);
  static absl::Status CheckPriority(const JobRequest& request);
  // Of a job that is over: those that were to start after it may, or never will.
  void TellDependants(const Job& job);
  void LookAt(Job& job);
  // Jobs whose moment has come: a backoff or a time limit ends.
  void LookAtDue();
  void CheckTimeLimit(Job& job);
  // The fair share of the job's account.
  void Charge(const Job& job, int devices, absl::Duration held, absl::Time at);
  void CheckGrace(Job& job);
  void Hold(const Job& job, int devices);
  void Bill(Job& job, const Attempt& over);
  void ReviveAttempt(Job& job);
  void RebuildShares();

  // The queue.
  void StartValidations();
  void StartGang(const PassStart& start);
  std::string DecisionText(const Job& job, const PassStart& start) const;
  void Start(Job& job, Attempt attempt);
  const Queue& QueueOf(const Job& job) const;
  void PutShares(const Queue& queue);
  int EffectivePriority(const JobRequest& request) const;
  WaitingJob ToWaiting(const Job& job) const;
  // Why it may not start whatever is free; empty: it may.
  std::vector<WhyWaiting> Holds(const Job& job, absl::Time now) const;
  bool MayStart(const Job& job) const;
  // Of a job in QUEUED whose conditions have changed.
  void Reconsider(Job& job);
  void Enqueue(Job& job);
  void Dequeue(const Job& job);
  // How long it will run on from its checkpoint, or from now; infinite where nothing is known.
  absl::Duration Remaining(const Job& job) const;
  absl::Duration TimeLimitLeft(const Job& job) const;
  absl::Time PredictedEnd(const Job& job, absl::Time now) const;
  void NoteOverrun(const Attempt& over);
  // What nine of ten run times stay below, in parts of their estimates; 0: not known.
  double OverrunP90() const;
  PassInput MakePassInput(const FairShare& shares, absl::Time now) const;
  // What accounts hold, up to now.
  FairShare SharesAt(absl::Time now) const;

  // Room that is made by stopping others.
  struct Claim {
    std::vector<DeviceRef> devices;
    int victims = 0;
    bool was_free = false;  // when a pass last began
  };
  struct Running;
  bool ClaimIsFree(const Claim& claim) const;
  bool ClaimHolds(const JobKey& key, const Claim& claim) const;
  void DropClaims();
  void MakeRoom(const PassResult& pass);
  bool MayMakeRoom(const Job& job) const;
  Running LookAtRunning(const std::vector<PassStart>& fresh) const;
  bool MakeRoomFor(const Job& job, Running& running);
  void Preempt(const Job& job, const Victims& victims, Running& running);

  // Explanations.
  JobExplanation ExplainQueued(const Job& job, const WaitingQueue& queue, absl::Time now) const;
  void NoteAhead(const WaitingQueue& queue, const PassInput& input, const JobKey& key,
                 JobExplanation& explanation) const;

  absl::Time WakeAt() const;

  const CoreOptions options_;
  absl::Time now_ = absl::InfinitePast();  // of the step under way
  Effects effects_;                        // of the step under way

  ClusterView cluster_;
  absl::btree_map<std::string, NodeState> nodes_;
  absl::btree_map<JobKey, Job> jobs_;
  absl::btree_map<std::string, Queue> queues_;
  Quotas quotas_;
  FairShare shares_;
  absl::btree_map<std::string, absl::Time> charged_;  // until when, by account
  absl::btree_set<JobKey> waiting_;                   // jobs in QUEUED
  WaitingQueue queue_;                                // of them, those that may start
  absl::btree_map<JobKey, Claim> claims_;
  absl::btree_set<JobKey> sought_;  // jobs whose victims were looked for in this round of passes
  absl::Time next_pass_ = absl::InfinitePast();  // not before, lest long queues be all that is done
  // Ends come nearer and shares change though nothing happens: then there is a pass all the same.
  absl::Time late_pass_ = absl::InfiniteFuture();
  bool pass_deferred_ = false;
  absl::btree_set<JobKey> created_;  // jobs in CREATED
  // Of a job that is not over: those that are to start after it.
  absl::btree_map<JobKey, absl::btree_set<JobKey>> dependants_;
  absl::btree_set<JobKey> live_;                         // jobs with a live attempt
  std::set<std::pair<absl::Time, std::string>> leases_;  // of live nodes
  std::set<std::pair<absl::Time, std::string>> ends_;    // of nodes that leave: when to empty them
  std::set<std::pair<absl::Time, JobKey>> alarms_;       // jobs to look at
  absl::btree_map<int64_t, PublishCall> calls_;
  // When a call is given up, or one that was is made again.
  std::set<std::pair<absl::Time, int64_t>> call_alarms_;
  // Of the last attempts that ran to their end, the time over its estimate, the oldest first. Not
  // stored.
  std::deque<double> overruns_;
  int64_t last_epoch_;
  // From a range of this life: an answer to an earlier one's call must not be taken for ours.
  int64_t next_call_;
  int64_t next_sequence_ = 1;
};

}  // namespace graft::scheduler
