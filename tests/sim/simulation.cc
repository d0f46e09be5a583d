#include "tests/sim/simulation.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/digest.h"
#include "scheduler/service/records.h"

namespace graft::scheduler {
namespace {

constexpr absl::Duration kAgentGrace = absl::Seconds(12);  // without renewal its ranks end

}  // namespace

Simulation::Simulation(SimulationOptions options)
    : options_(options),
      random_(options.seed),
      chaos_ends_(now_ + options.chaos),
      ends_(now_ + options.chaos + options.healing) {}

void Simulation::At(absl::Duration after, std::function<void()> what) {
  events_[{now_ + after, next_event_++}] = std::move(what);
}

absl::Duration Simulation::Between(double low, double high) {
  return absl::Milliseconds(
      static_cast<int64_t>(1000 * (low + (high - low) * random_.UniformDouble())));
}

void Simulation::Trace(const std::string& line) {
  const std::string stamped = absl::StrCat(absl::ToUnixMillis(now_) - 1'700'000'000'000, " ", line);
  result_.trace_hash = result_.trace_hash * 1099511628211ULL ^ Crc32c(0, stamped);
  ++result_.events;
  lines_.push_back(stamped);
  if (lines_.size() > 2 * kKeptLines) lines_.erase(lines_.begin(), lines_.begin() + kKeptLines);
}

void Simulation::Broken(const std::string& what) {
  if (result_.broken.empty()) result_.broken = what;
}

void Simulation::Network(std::function<void()> message) {
  if (!chaos()) return At(Between(0.001, 0.01), std::move(message));
  if (Chance(0.03)) return;
  if (Chance(0.03)) At(Between(0.001, 8), message);
  At(Chance(0.05) ? Between(0.1, 6) : Between(0.001, 0.05), std::move(message));
}

// --- The scheduler's process ---

void Simulation::StartScheduler() {
  store_ = std::make_unique<MemStore>(disk_);
  invariants_ = InvariantChecker();
  absl::StatusOr<std::unique_ptr<Engine>> engine = Engine::Open(*store_, *this, {}, now_);
  if (!engine.ok()) {
    Trace(absl::StrCat("scheduler does not start: ", engine.status().message()));
    At(absl::Seconds(1), [this] { StartScheduler(); });
    return;
  }
  engine_ = *std::move(engine);
  ++scheduler_life_;
  Trace(absl::StrCat("scheduler starts, revision ", store_->revision()));
  CheckAll();
}

void Simulation::KillScheduler() {
  Trace("scheduler killed");
  engine_.reset();
  store_.reset();
  waiting_.clear();
  turn_planned_ = false;
  ++result_.restarts;
  ++scheduler_life_;
  At(Between(0.2, 20), [this] { StartScheduler(); });
}

void Simulation::Submit(Engine::Request request) {
  if (engine_ == nullptr) return;  // nobody listens; the sender will try again
  if (request.done) {
    request.done = [this, done = std::move(request.done)](absl::Status status, int64_t revision) {
      if (!dying_) done(status, revision);
    };
  }
  waiting_.push_back(std::move(request));
  if (turn_planned_) return;
  turn_planned_ = true;
  At(absl::Milliseconds(1), [this, life = scheduler_life_] {
    if (life == scheduler_life_) Turn_();
  });
}

void Simulation::Turn_() {
  turn_planned_ = false;
  if (engine_ != nullptr) RunEngine(std::exchange(waiting_, {}));
}

void Simulation::RunEngine(std::vector<Engine::Request> requests) {
  const bool was_healthy = engine_->healthy();
  if (++result_.turns == options_.full_at_turn) disk_.next_fault = MemDisk::Fault::kRefuse;
  engine_->Run(std::move(requests), now_);
  if (dying_) {
    dying_ = false;
    disk_.next_fault = MemDisk::Fault::kNone;
    return KillScheduler();
  }
  if (was_healthy && !engine_->healthy()) {
    ++result_.failed_commits;
    return Trace("commit failed");
  }
  if (!was_healthy) invariants_ = InvariantChecker();
  CheckAll();
}

bool Simulation::Passes(const Job& job, Milestone milestone) const {
  const Job* before = engine_ == nullptr ? nullptr : engine_->core().FindJob(job.request.key);
  if (before == nullptr) return false;
  switch (milestone) {
    case Milestone::kSubmitted:
      return !acknowledged_.contains(job.request.key) && job.attempts == 0;
    case Milestone::kPlaced:
      return job.state == JobState::kStarting;
    case Milestone::kRunning:
      return job.state == JobState::kRunning;
    case Milestone::kPreempted:
      return job.state == JobState::kPreempting;
    case Milestone::kCheckpointed:
      return !job.checkpoint.version.empty();
    case Milestone::kCompleted:
      return job.state == JobState::kCompleted;
  }
  return false;
}

// Called before the commit.
void Simulation::OnJobWritten(Turn&, const Job& job) {
  if (!options_.crash.has_value() || result_.crashed || !Passes(job, options_.crash->at)) return;
  result_.crashed = true;
  dying_ = true;
  Trace(absl::StrCat("the scheduler dies as ", job.request.key, " is ", JobStateName(job.state)));
  if (!options_.crash->committed) disk_.next_fault = MemDisk::Fault::kRefuse;
}

void Simulation::OnPublish(const PublishCall& call) {
  if (dying_) return;
  Trace(absl::StrCat("publish ", call.session));
  Network([this, call] {
    if (chaos() && Chance(0.1)) return;  // the fileservice is down
    published_.insert({call.session, call.step});
    Network([this, call] {
      const bool late = chaos() && Chance(0.1);
      const absl::Status status = late ? absl::UnavailableError("try again") : absl::OkStatus();
      Submit({.work = [call, status](Turn& turn) {
        return turn.Step(CallAnswered{call.id, status, absl::StrCat("v-", call.session)});
      }});
    });
  });
}

void Simulation::CheckAll() {
  const std::vector<std::string> broken = invariants_.Check(engine_->core());
  if (!broken.empty()) Broken(broken[0]);
  for (const JobKey& key : acknowledged_) {
    if (engine_->core().FindJob(key) == nullptr) {
      Broken(absl::StrCat("I3: the acknowledged job ", key, " is gone"));
    }
  }
  for (const auto& [key, job] : engine_->core().jobs()) {
    if (job.restarts > job.request.max_restarts) {
      Broken(absl::StrCat("I5: ", key, " was restarted ", job.restarts, " times"));
    }
    if (absl::StrContains(job.reason, "no longer has its ranks")) {
      Broken(absl::StrCat("I5: ", key, " lost ranks that its worker had not been told of"));
    }
    if (!job.result_version.empty() && job.state != JobState::kCompleted &&
        job.attempt.end != AttemptEnd::kSucceeded) {
      Broken(absl::StrCat("I5: ", key, " has a result in ", JobStateName(job.state)));
    }
    if (!job.checkpoint.version.empty() && !published_.contains(job.checkpoint.session)) {
      Broken(absl::StrCat("I3: ", key, " has a checkpoint that was never published"));
    }
  }
  if (++checks_ % 8 == 0) CheckStored();
  if (checks_ % 32 == 0 && options_.look) options_.look(engine_->core(), now_);
}

// Memory is never ahead of the disk.
void Simulation::CheckStored() {
  for (const auto& [key, job] : engine_->core().jobs()) {
    const absl::StatusOr<Record> record =
        store_->Get(Family::kRecords, absl::StrCat(kCoreJobPrefix, key));
    if (!record.ok()) return Broken(absl::StrCat("I3: ", key, " is not stored"));
    const absl::StatusOr<Job> stored = DecodeJob(record->value);
    if (!stored.ok() || stored->state != job.state ||
        stored->attempt.number != job.attempt.number || stored->attempt.mode != job.attempt.mode ||
        stored->checkpoint.version != job.checkpoint.version || stored->restarts != job.restarts) {
      return Broken(absl::StrCat("I3: ", key, " is stored in another state than it is"));
    }
  }
}

// --- Workers ---

void Simulation::WorkerBoot(Worker& worker) {
  worker.alive = true;
  worker.frozen = false;
  worker.epoch = 0;
  worker.desired_revision = 0;
  worker.parts.clear();
  ++worker.life;
  Trace(absl::StrCat(worker.name, " boots"));
  worker.stopping = false;
  worker.leaves = absl::InfiniteFuture();
  if (chaos() && Chance(0.3)) {  // inside another scheduler's allocation
    worker.leaves = now_ + Between(310, 700);
    At(worker.leaves - now_, [this, &worker, life = worker.life] {
      if (worker.life == life) WorkerBoot(worker);
    });
  }
  WorkerRegister(worker);
  At(absl::Seconds(1), [this, &worker, life = worker.life] {
    if (worker.life == life) WorkerStep(worker);
  });
}

void Simulation::WorkerRegister(Worker& worker) {
  Node node{.name = worker.name, .rack = worker.name < "n2" ? "r0" : "r1"};
  node.available_until = worker.leaves;
  node.devices = Devices();
  worker.parts.clear();  // nothing of an older epoch may go on
  worker.epoch = 0;
  const absl::Time sent = now_;
  const auto life = worker.life;
  const auto call = [this, node, &worker, sent, life] {
    Submit({.work = [node](Turn& turn) { return turn.Step(NodeRegistered{node}); },
            .done =
                [this, &worker, sent, life](absl::Status status, int64_t) {
                  if (!status.ok()) return;
                  const int64_t epoch = engine_->core().FindNode(worker.name)->epoch;
                  Network([this, &worker, sent, life, epoch] {
                    if (worker.life != life || worker.frozen || epoch <= worker.epoch) return;
                    worker.parts.clear();
                    worker.epoch = epoch;
                    worker.desired_revision = 0;
                    worker.renewed = sent;
                    WorkerSync(worker);
                  });
                }});
  };
  if (chaos() && Chance(0.15)) At(Between(1, 30), call);  // once more, by a detour
  Network(call);
}

void Simulation::WorkerSync(Worker& worker) {
  if (!worker.alive || worker.frozen || worker.epoch == 0) return;
  NodeSynced sync{.node = worker.name,
                  .epoch = worker.epoch,
                  .desired_revision = worker.desired_revision,
                  .leaving = worker.stopping};
  for (const auto& [key, part] : worker.parts) sync.parts.push_back(part.report);
  const absl::Time sent = now_;
  Network([this, sync, sent, &worker, life = worker.life] {
    auto stale = std::make_shared<bool>(false);
    Submit({.work =
                [sync, stale](Turn& turn) {
                  const NodeState* node = turn.core().FindNode(sync.node);
                  *stale = node == nullptr || node->epoch != sync.epoch;
                  return turn.Step(sync);
                },
            .done =
                [this, sync, sent, &worker, life, stale](absl::Status status, int64_t) {
                  if (status.ok() && *stale) {
                    return Broken(
                        absl::StrCat("I5: a stale report of ", sync.node, " was listened to"));
                  }
                  if (!status.ok() && !absl::IsFailedPrecondition(status) &&
                      !absl::IsNotFound(status)) {
                    return;
                  }
                  std::vector<DesiredPart> desired;
                  int64_t revision = 0;
                  if (status.ok()) {
                    desired = engine_->core().Desired(sync.node);
                    revision = engine_->core().FindNode(sync.node)->desired_revision;
                  }
                  Network([this, sync, sent, &worker, life, status, desired, revision] {
                    if (worker.life != life || worker.frozen || worker.epoch != sync.epoch) return;
                    if (!status.ok()) return WorkerRegister(worker);
                    WorkerAnswered(worker, sent, revision, desired, sync.leaving);
                  });
                }});
  });
}

void Simulation::WorkerAnswered(Worker& worker, absl::Time sent, int64_t revision,
                                const std::vector<DesiredPart>& desired, bool said_leaving) {
  if (revision < worker.desired_revision) return;  // overtaken by a later answer
  worker.renewed = std::max(worker.renewed, sent);
  worker.desired_revision = revision;
  std::set<JobKey> listed;
  for (const DesiredPart& item : desired) {
    if (item.epoch != worker.epoch) continue;
    const auto it = worker.parts.find(item.job);
    if (it != worker.parts.end() && it->second.report.attempt == item.attempt) {
      it->second.mode = item.mode;
      it->second.rendezvous = item.rendezvous;
      listed.insert(item.job);
      continue;
    }
    if (it != worker.parts.end()) worker.parts.erase(it);
    Part part;
    part.report = {.job = item.job, .attempt = item.attempt, .step = item.resume_from.step};
    part.report.steps_total = 40;
    part.report.step_seconds = 1;
    part.mode = item.mode;
    part.kind = item.kind;
    part.ranks = item.ranks;
    part.rendezvous = item.rendezvous;
    part.next_checkpoint = item.resume_from.step + 10;
    for (const auto& [other, running] : worker.parts) {
      if (running.report.state == PartState::kEnded) continue;
      for (const auto& [rank, device] : running.ranks) {
        for (const auto& [mine, wanted] : item.ranks) {
          const bool still_desired =
              std::any_of(desired.begin(), desired.end(),
                          [&, &other = other](const DesiredPart& d) { return d.job == other; });
          if (device == wanted && still_desired) {
            Broken(absl::StrCat("I1: device ", device, " of ", worker.name, " is wanted by ",
                                item.job, " while ", other, " runs on it"));
          }
        }
      }
    }
    worker.parts[item.job] = std::move(part);
    listed.insert(item.job);
    CheckOneAttempt(item.job);
  }
  for (auto it = worker.parts.begin(); it != worker.parts.end();) {
    it = listed.contains(it->first) ? std::next(it) : worker.parts.erase(it);
  }
  if (said_leaving && worker.parts.empty()) WorkerBoot(worker);  // as another program, perhaps
}

// Two attempts of one job never run at the same time, whatever the scheduler believes.
void Simulation::CheckOneAttempt(const JobKey& job) {
  std::set<int> attempts;
  for (const auto& worker : workers_) {
    const auto it = worker->parts.find(job);
    if (!worker->alive || it == worker->parts.end()) continue;
    if (it->second.report.state == PartState::kEnded) continue;
    // A frozen or cut off worker ends its ranks by itself as soon as it runs again.
    if (now_ - worker->renewed > kAgentGrace) continue;
    attempts.insert(it->second.report.attempt);
  }
  if (attempts.size() > 1) {
    Broken(absl::StrCat("I5: attempts ", absl::StrJoin(attempts, " and "), " of ", job,
                        " run at the same time"));
  }
}

void Simulation::WorkerStep(Worker& worker) {
  if (!worker.alive) return;
  At(absl::Seconds(1), [this, &worker, life = worker.life] {
    if (worker.life == life) WorkerStep(worker);
  });
  if (worker.frozen) return;
  if (worker.epoch == 0) {
    if (Chance(0.5)) WorkerRegister(worker);
    return;
  }
  if (now_ - worker.renewed > kAgentGrace) {
    Trace(absl::StrCat(worker.name, " ends its ranks: no renewal"));
    return WorkerRegister(worker);
  }
  for (auto& [key, part] : worker.parts) StepPart(worker, part);
  WorkerSync(worker);
}

bool Simulation::PeersRun(const Part& part) {
  const Job* job = engine_ == nullptr ? nullptr : engine_->core().FindJob(part.report.job);
  if (job == nullptr) return true;
  for (const auto& [node, known] : job->attempt.parts) {
    if (known.state == PartState::kEnded && job->attempt.end == AttemptEnd::kSucceeded) continue;
    for (const auto& worker : workers_) {
      if (worker->name != node) continue;
      const auto it = worker->parts.find(part.report.job);
      if (!worker->alive || worker->frozen || it == worker->parts.end()) return false;
      const PartReport& peer = it->second.report;
      if (peer.attempt != part.report.attempt || peer.state < PartState::kRunning) return false;
      if (peer.state == PartState::kEnded && peer.end != AttemptEnd::kSucceeded) return false;
    }
  }
  return true;
}

void Simulation::StepPart(Worker& worker, Part& part) {
  PartReport& report = part.report;
  if (report.state == PartState::kEnded) return;
  const bool leads = part.ranks.empty() || part.ranks[0].first == 0;
  if (part.mode == AttemptMode::kStop) return EndPart(worker, part, AttemptEnd::kStopped);
  if (part.ranks.empty()) {  // a validation
    if (Chance(0.3))
      EndPart(worker, part, Chance(0.02) ? AttemptEnd::kHopeless : AttemptEnd::kSucceeded);
    return;
  }
  if (part.kind == GangKind::kGenerate) {  // answers until it is told to stop
    if (part.mode != AttemptMode::kRun) return EndPart(worker, part, AttemptEnd::kStopped);
    report.state = PartState::kRunning;
    if (chaos() && Chance(0.004)) EndPart(worker, part, AttemptEnd::kHopeless);
    return;
  }
  const auto checkpoint = [&] {
    report.checkpoint = {
        .step = report.step,
        .session = absl::StrCat("c/", report.job, "/", report.attempt, "/", report.step)};
  };
  if (part.mode == AttemptMode::kCheckpointAndStop) {
    if (leads && report.state == PartState::kRunning && report.step > 0) checkpoint();
    return EndPart(worker, part, AttemptEnd::kStopped);
  }
  if (leads) report.rendezvous = absl::StrCat(worker.name, ":", 4000 + report.attempt);
  if (report.state == PartState::kAssigned) {
    report.state = PartState::kStarting;
  } else if (report.state == PartState::kStarting) {
    if (leads || !part.rendezvous.empty()) report.state = PartState::kRunning;
  } else if (PeersRun(part)) {
    ++report.step;
    if (chaos() && Chance(0.004)) return EndPart(worker, part, AttemptEnd::kFailed);
    if (leads && report.step >= part.next_checkpoint) {
      checkpoint();
      part.next_checkpoint = report.step + 10;
    }
    if (report.step >= report.steps_total) {
      if (leads) report.result_session = absl::StrCat("r/", report.job, "/", report.attempt);
      EndPart(worker, part, AttemptEnd::kSucceeded);
    }
  }
}

void Simulation::EndPart(Worker& worker, Part& part, AttemptEnd end) {
  part.report.state = PartState::kEnded;
  part.report.end = end;
  part.report.message = end == AttemptEnd::kFailed ? "a rank failed" : "";
  Trace(absl::StrCat(worker.name, " ends ", part.report.job, "/", part.report.attempt, " with ",
                     static_cast<int>(end)));
}

}  // namespace graft::scheduler
