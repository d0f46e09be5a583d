// Jobs: what people ask of them, and how their attempts go.
#include <algorithm>
#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/check.h"
#include "base/status_macros.h"
#include "scheduler/core/core.h"
#include "scheduler/core/planted.h"

namespace graft::scheduler {
namespace {

bool IsBad(AttemptEnd end) {
  return end == AttemptEnd::kFailed || end == AttemptEnd::kHopeless || end == AttemptEnd::kLost;
}

// How an attempt has ended when one more of its parts did.
AttemptEnd Combine(AttemptEnd so_far, AttemptEnd next) {
  if (so_far == AttemptEnd::kHopeless || next == AttemptEnd::kHopeless)
    return AttemptEnd::kHopeless;
  if (IsBad(so_far)) return so_far;
  if (IsBad(next)) return next;
  return std::max(so_far, next);
}

absl::Status CheckAdmission(const JobRequest& request,
                            const absl::btree_map<std::string, Queue>& queues) {
  const auto it = queues.find(request.queue);
  if (it == queues.end()) return absl::OkStatus();
  const Queue& queue = it->second;
  if (queue.mode == QueueMode::kClosed) {
    return absl::FailedPreconditionError(absl::StrCat("queue ", queue.name, " is closed"));
  }
  const bool admitted =
      queue.shares.empty() ||
      std::any_of(queue.shares.begin(), queue.shares.end(),
                  [&](const Share& share) { return share.workspace == request.workspace; });
  if (admitted) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("queue ", queue.name, " does not admit workspace ", request.workspace));
}

// What it is to start after is there, and may still complete.
absl::Status CheckAfter(const JobRequest& request, const absl::btree_map<JobKey, Job>& jobs) {
  for (const JobKey& first : request.after) {
    const auto it = jobs.find(first);
    if (it == jobs.end()) {
      return absl::NotFoundError(absl::StrCat("there is no job ", first, " to start after"));
    }
    const JobState state = it->second.state;
    if (IsTerminal(state) && state != JobState::kCompleted) {
      return absl::FailedPreconditionError(
          absl::StrCat("job ", first, ", to start after, is ", JobStateName(state)));
    }
  }
  return absl::OkStatus();
}

std::string WaitsFor(const Job& job) {
  return job.request.after.empty()
             ? "waits for devices"
             : absl::StrCat("starts after ", absl::StrJoin(job.request.after, ", "));
}

}  // namespace

absl::Status Core::CheckPriority(const JobRequest& request) {
  if (std::abs(request.priority) <= kMostJobPriority) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("priority ", request.priority, " of ", request.key,
                                                 " is not within ", -kMostJobPriority, " and ",
                                                 kMostJobPriority));
}

void Core::Move(Job& job, JobState to, absl::string_view code, absl::string_view reason) {
  GRAFT_CHECK(MayMove(job.state, to))
      << job.request.key << " cannot go from " << std::string(JobStateName(job.state)) << " to "
      << std::string(JobStateName(to));
  if (job.state == JobState::kQueued) {
    Dequeue(job);
    job.usage.queued_seconds += absl::ToDoubleSeconds(now_ - job.since);
  }
  if (job.state == JobState::kCreated) created_.erase(job.request.key);
  job.state = to;
  job.since = now_;
  if (IsTerminal(to)) job.finished = now_;
  if (to == JobState::kStarting) job.started = std::min(job.started, now_);
  job.reason_code = std::string(code);
  job.reason = std::string(reason);
  if (to == JobState::kQueued) Enqueue(job);
  if (to == JobState::kCreated) created_.insert(job.request.key);
  if (to == JobState::kQueued || to == JobState::kCreated) effects_.pass_wanted = true;
  if (!GRAFT_PLANTED(6) || to != JobState::kPaused) effects_.jobs.insert(job.request.key);
  if (IsTerminal(to)) TellDependants(job);
  if (to == JobState::kQueued && !job.failed_with.empty()) {
    Move(job, JobState::kFailed, "DEPENDENCY",
         absl::StrCat("job ", job.failed_with, ", which it was to start after, did not complete"));
  }
}

void Core::TellDependants(const Job& job) {
  const JobKey& key = job.request.key;
  for (const JobKey& first : job.request.after) {
    if (const auto it = dependants_.find(first); it != dependants_.end()) it->second.erase(key);
  }
  const auto found = dependants_.find(key);
  if (found == dependants_.end()) return;
  const absl::btree_set<JobKey> dependants = std::move(found->second);
  dependants_.erase(found);
  for (const JobKey& name : dependants) {
    Job& next = jobs_.at(name);
    std::erase(next.request.after, key);
    effects_.jobs.insert(name);
    if (job.state != JobState::kCompleted) next.failed_with = key;
    if (next.state != JobState::kQueued) continue;  // told when it comes there
    if (next.failed_with.empty()) {
      next.reason = WaitsFor(next);
      Reconsider(next);
    } else {
      Move(
          next, JobState::kFailed, "DEPENDENCY",
          absl::StrCat("job ", key, ", which it was to start after, is ", JobStateName(job.state)));
    }
  }
}

absl::Status Core::Apply(const JobSubmitted& event) {
  const JobRequest& request = event.request;
  if (request.key.empty() || request.workspace.empty()) {
    return absl::InvalidArgumentError("a job has a key and a workspace");
  }
  if (jobs_.contains(request.key)) {
    return absl::AlreadyExistsError(absl::StrCat("there is a job ", request.key, " already"));
  }
  GRAFT_RETURN_IF_ERROR(CheckPriority(request));
  GRAFT_RETURN_IF_ERROR(CheckAdmission(request, queues_));
  GRAFT_RETURN_IF_ERROR(CheckAfter(request, jobs_));
  Job& job = jobs_[request.key];
  job.request = request;
  std::erase_if(job.request.after, [this](const JobKey& first) {
    return jobs_.at(first).state == JobState::kCompleted;
  });
  for (const JobKey& first : job.request.after) dependants_[first].insert(request.key);
  job.sequence = next_sequence_++;
  job.created = now_;
  job.checkpoint = {request.start_version, request.start_step, ""};
  job.step = request.start_step;
  job.since = now_;
  job.reason_code = "CREATED";
  job.reason = "waits for a worker to read its inputs through";
  created_.insert(request.key);
  effects_.jobs.insert(request.key);
  effects_.pass_wanted = true;
  if (!request.needs_validation) Move(job, JobState::kQueued, "QUEUED", WaitsFor(job));
  return absl::OkStatus();
}

absl::Status Core::Apply(const JobErased& event) {
  const auto it = jobs_.find(event.job);
  if (it == jobs_.end()) return absl::NotFoundError(absl::StrCat("there is no job ", event.job));
  if (!IsTerminal(it->second.state)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "job ", event.job, " is ", JobStateName(it->second.state), "; cancel it first"));
  }
  jobs_.erase(it);
  effects_.jobs_erased.insert(event.job);
  return absl::OkStatus();
}

absl::Status Core::Apply(const JobCommanded& event) {
  const auto it = jobs_.find(event.job);
  if (it == jobs_.end()) return absl::NotFoundError(absl::StrCat("there is no job ", event.job));
  switch (event.verb) {
    case JobVerb::kCancel:
      return Cancel(it->second, event.why);
    case JobVerb::kPause:
      return Pause(it->second, "PAUSED", event.why);
    case JobVerb::kPauseIdle:
      return Pause(it->second, "IDLE", event.why);
    case JobVerb::kResume:
      return Resume(it->second);
    case JobVerb::kCheckpoint:
    case JobVerb::kFinish:
    case JobVerb::kFinishWithBest:
      return Ask(it->second, event.verb);
  }
  return absl::InternalError("unknown verb");
}

absl::Status Core::Cancel(Job& job, absl::string_view why) {
  if (job.state == JobState::kCancelling || job.state == JobState::kCancelled) {
    return absl::OkStatus();  // it is as was asked for
  }
  if (IsTerminal(job.state) && !GRAFT_PLANTED(7)) {
    return absl::FailedPreconditionError(
        absl::StrCat("job ", job.request.key, " is already ", JobStateName(job.state)));
  }
  if (IsTerminal(job.state)) job.state = JobState::kQueued;  // 7
  Move(job, JobState::kCancelling, "CANCELLED", why);
  job.publishing = {};
  if (job.attempt.live()) {
    Tell(job, AttemptMode::kStop);
    FinishAttempt(job);
  } else {
    Move(job, JobState::kCancelled, "CANCELLED", why);
  }
  return absl::OkStatus();
}

absl::Status Core::Pause(Job& job, absl::string_view code, absl::string_view why) {
  if (job.request.kind == GangKind::kGenerate) {
    return absl::FailedPreconditionError(
        absl::StrCat(job.request.key, " is a session; it can be ended, not paused"));
  }
  switch (job.state) {
    case JobState::kPausing:
    case JobState::kPaused:
      return absl::OkStatus();
    case JobState::kQueued:
      Move(job, JobState::kPaused, code, why);
      return absl::OkStatus();
    case JobState::kStarting:
    case JobState::kRunning:
    case JobState::kPreempting:
      Move(job, JobState::kPausing, code, why);
      Tell(job, AttemptMode::kCheckpointAndStop);
      return absl::OkStatus();
    default:
      return absl::FailedPreconditionError(
          absl::StrCat("job ", job.request.key, " is ", JobStateName(job.state),
                       "; only a job that waits or runs can be paused"));
  }
}

absl::Status Core::Resume(Job& job) {
  if (job.state == JobState::kQueued && job.request.hold) {
    job.request.hold = false;
    effects_.jobs.insert(job.request.key);
    Reconsider(job);
    return absl::OkStatus();
  }
  if (job.state != JobState::kPaused) {
    return absl::FailedPreconditionError(absl::StrCat("job ", job.request.key, " is ",
                                                      JobStateName(job.state),
                                                      "; only a paused job can be resumed"));
  }
  job.time_is_up = false;
  job.device_seconds_limited = job.usage.device_seconds;
  Move(job, JobState::kQueued, "QUEUED", "resumed; waits for devices");
  return absl::OkStatus();
}

void Core::Tell(Job& job, AttemptMode mode) {
  Attempt& attempt = job.attempt;
  if (attempt.mode >= mode) return;
  attempt.mode = mode;
  attempt.told = std::min(attempt.told, now_);
  if (mode == AttemptMode::kCheckpointAndStop) {
    attempt.stop_at = now_ + options_.checkpoint_grace;
    alarms_.insert({attempt.stop_at, job.request.key});
  }
  effects_.jobs.insert(job.request.key);
  TouchDesired(job.attempt);
}

void Core::StopBy(Job& job, absl::Time when) {
  if (job.attempt.mode != AttemptMode::kCheckpointAndStop || when >= job.attempt.stop_at) return;
  job.attempt.stop_at = when;
  alarms_.insert({when, job.request.key});
}

void Core::Report(Job& job, const std::string& node, const PartReport& report) {
  Attempt& attempt = job.attempt;
  Part& part = attempt.parts.at(node);
  const bool leads = attempt.ranks.empty() || attempt.ranks[0].node == node;
  if (report.state > part.state && report.state != PartState::kEnded) {
    part.state = report.state;
    effects_.jobs.insert(job.request.key);
  }
  if (leads) {
    job.step = std::max(job.step, report.step);
    if (report.steps_total > 0) job.steps_total = report.steps_total;
    if (report.step_seconds > 0) job.step_seconds = report.step_seconds;
    if (!report.rendezvous.empty() && attempt.rendezvous.empty()) {
      attempt.rendezvous = report.rendezvous;
      effects_.jobs.insert(job.request.key);
      TouchDesired(attempt);
    }
    if (!report.result_session.empty()) attempt.result_session = report.result_session;
    if (!report.report_session.empty() && job.report_session.empty()) {
      job.report_session = report.report_session;
      PublishReport(job);
    }
    const Checkpoint& made = report.checkpoint;
    if (!made.session.empty() && job.state != JobState::kCancelling &&
        made.session != job.checkpoint.session && job.publishing.session.empty()) {
      job.publishing = made;
      Publish(job, made.session, false, made.step);
    }
  }
  const bool all_run =
      std::all_of(attempt.parts.begin(), attempt.parts.end(), [&](const auto& entry) {
        return entry.second.state == PartState::kRunning ||
               (entry.first == node && report.end == AttemptEnd::kSucceeded);
      });
  if (all_run && !attempt.validation) attempt.running = std::min(attempt.running, now_);
  if (job.state == JobState::kStarting && all_run) {
    Move(job, JobState::kRunning, "RUNNING", "every rank runs");
  }
  if (report.state == PartState::kEnded) EndPart(job, node, report.end, report.message);
}

void Core::EndPart(Job& job, const std::string& node, AttemptEnd end, absl::string_view message) {
  Attempt& attempt = job.attempt;
  Part& part = attempt.parts.at(node);
  if (part.state == PartState::kEnded) return;
  part.state = PartState::kEnded;
  std::vector<DeviceRef> freed;
  for (const DeviceRef& ref : attempt.ranks) {
    if (ref.node == node) freed.push_back(ref);
  }
  cluster_.Release(freed, job.request.key);
  if (!GRAFT_PLANTED(8)) Hold(job, -static_cast<int>(freed.size()));
  attempt.held.erase(std::remove_if(attempt.held.begin(), attempt.held.end(),
                                    [&](const DeviceRef& ref) { return ref.node == node; }),
                     attempt.held.end());
  attempt.device_seconds +=
      static_cast<double>(freed.size()) * absl::ToDoubleSeconds(now_ - attempt.started);
  if (const auto on = nodes_.find(node); on != nodes_.end()) on->second.jobs.erase(job.request.key);
  effects_.holders_changed.insert(node);
  effects_.pass_wanted = true;
  effects_.jobs.insert(job.request.key);
  if (end == AttemptEnd::kNone) end = AttemptEnd::kLost;
  // "Ended" means stopped where it was told to stop, unless the output is there all the same.
  const bool told = attempt.mode != AttemptMode::kRun;
  if (end == AttemptEnd::kSucceeded && told && attempt.result_session.empty()) {
    end = AttemptEnd::kStopped;
  }
  const AttemptEnd before = attempt.end;
  attempt.end = Combine(before, end);
  if (attempt.end != before && IsBad(attempt.end)) {
    attempt.end_message = std::string(message);
    if (attempt.end == AttemptEnd::kFailed && nodes_.contains(node)) job.failed_nodes = {node};
  }
  // What is left of a gang that lost a rank can only wait for it in vain.
  if (IsBad(attempt.end) && !GRAFT_PLANTED(9)) Tell(job, AttemptMode::kStop);
  TouchDesired(attempt);
  FinishAttempt(job);
}

void Core::FinishAttempt(Job& job) {
  Attempt& attempt = job.attempt;
  for (const auto& [node, part] : attempt.parts) {
    if (part.state != PartState::kEnded && !(GRAFT_PLANTED(10) && attempt.number > 1)) return;
  }
  // A checkpoint on its way is waited for: the next attempt begins there.
  if (!job.publishing.session.empty()) return;
  if (attempt.end == AttemptEnd::kSucceeded && job.state != JobState::kCancelling &&
      job.result_version.empty() && !attempt.result_session.empty()) {
    if (!attempt.result_asked) Publish(job, attempt.result_session, true, job.step);
    attempt.result_asked = true;
    return;
  }
  const Attempt over = std::exchange(job.attempt, Attempt());
  live_.erase(job.request.key);
  for (const auto& [node, part] : over.parts) {
    if (const auto on = nodes_.find(node); on != nodes_.end()) {
      on->second.jobs.erase(job.request.key);
    }
  }
  Bill(job, over);
  NoteOverrun(over);
  effects_.jobs.insert(job.request.key);
  Settle(job, over);
}

// What an attempt that is over has used.
void Core::Bill(Job& job, const Attempt& over) {
  job.usage.device_seconds += over.device_seconds;
  const double devices = static_cast<double>(over.ranks.size());
  if (over.running <= now_) {
    job.usage.busy_device_seconds += devices * absl::ToDoubleSeconds(now_ - over.running);
    if (IsBad(over.end)) {
      const absl::Time kept = std::max(over.running, job.checkpoint.published);
      job.usage.lost_seconds += std::max(0.0, absl::ToDoubleSeconds(now_ - kept));
    }
  }
  if (job.state == JobState::kPreempting) {
    ++job.usage.preemptions;
    job.usage.preempted_seconds += absl::ToDoubleSeconds(now_ - over.told);
  }
}

void Core::Charge(const Job& job, int devices, absl::Duration held, absl::Time at) {
  const std::string account = AccountOf(job.request);
  const absl::Duration half_life = QueueOf(job).half_life;
  if (half_life > absl::ZeroDuration()) shares_.SetHalfLife(account, half_life);
  shares_.Charge(account, devices, held, at);
}

// The job's account holds so many devices more.
void Core::Hold(const Job& job, int devices) {
  const std::string account = AccountOf(job.request);
  absl::Time& until = charged_.try_emplace(account, now_).first->second;
  Charge(job, quotas_.Used(account), now_ - until, now_);
  until = now_;
  quotas_.Charge(account, devices);
}

void Core::Settle(Job& job, const Attempt& over) {
  if (job.state == JobState::kCancelling) {
    return Move(job, JobState::kCancelled, "CANCELLED", std::string(job.reason));
  }
  if (job.request.kind == GangKind::kGenerate) return SettleSession(job, over);
  if (over.validation && over.end == AttemptEnd::kSucceeded) {
    return Move(job, JobState::kQueued, "QUEUED",
                absl::StrCat("its inputs are sound; ", WaitsFor(job)));
  }
  if (over.end == AttemptEnd::kHopeless) {
    return Move(job, JobState::kFailed, "FAILED", over.end_message);
  }
  if (over.end == AttemptEnd::kSucceeded) {
    if (job.state == JobState::kStarting) Move(job, JobState::kRunning, "RUNNING", "");
    if (job.time_is_up && job.finish) {
      return Move(job, JobState::kCompleted, "TIME_LIMIT",
                  absl::StrCat("finished at step ", job.step, ", where its time limit passed"));
    }
    return Move(job, JobState::kCompleted, "COMPLETED", "finished");
  }
  if (job.time_is_up) {
    return Move(job, job.state == JobState::kPausing ? JobState::kPaused : JobState::kFailed,
                "TIME_LIMIT",
                absl::StrCat("its time limit of ", absl::FormatDuration(job.request.time_limit),
                             " has passed; its last checkpoint is at step ", job.checkpoint.step));
  }
  if (job.state == JobState::kPausing) {
    const std::string why = job.reason_code == "IDLE" ? absl::StrCat(job.reason, "; ") : "";
    return Move(job, JobState::kPaused, std::string(job.reason_code),
                absl::StrCat(why, "paused at step ", job.checkpoint.step, "; resume it to go on"));
  }
  if (job.state == JobState::kPreempting) {
    return Move(job, JobState::kQueued, "PREEMPTED",
                absl::StrCat(job.reason, "; goes on from step ", job.checkpoint.step));
  }
  Requeue(job, over);
}

// Nobody told it to end, or a drain or a job of higher priority did: whoever asks next gets
// another.
void Core::SettleSession(Job& job, const Attempt& over) {
  if (job.state == JobState::kPreempting) {
    return Move(job, JobState::kFailed, std::string(job.reason_code), std::string(job.reason));
  }
  const bool lost = over.end == AttemptEnd::kLost;
  Move(job, JobState::kFailed, lost ? "WORKER_LOST" : "FAILED",
       over.end_message.empty() ? "its process left" : over.end_message);
}

void Core::Requeue(Job& job, const Attempt& over) {
  const std::string why = over.end_message.empty() ? "the worker ended it" : over.end_message;
  if (job.restarts >= job.request.max_restarts && !GRAFT_PLANTED(11)) {
    if (over.validation && over.end != AttemptEnd::kFailed) {
      // Reading inputs through again costs nothing that a restart limit protects.
      return Move(job, JobState::kCreated, "CREATED", why);
    }
    return Move(job, JobState::kFailed, "FAILED",
                absl::StrCat(why, "; ", job.restarts, " of ", job.request.max_restarts,
                             " restarts are used up"));
  }
  ++job.restarts;
  absl::Duration backoff = options_.first_backoff;
  for (int i = 1; i < job.restarts && backoff < options_.longest_backoff; ++i) backoff *= 2;
  job.not_before = now_ + std::min(backoff, options_.longest_backoff);
  alarms_.insert({job.not_before, job.request.key});
  Move(job, over.validation ? JobState::kCreated : JobState::kQueued, "RESTARTING",
       absl::StrCat(why, "; restart ", job.restarts, " of ", job.request.max_restarts,
                    job.checkpoint.version.empty()
                        ? std::string(" from the beginning")
                        : absl::StrCat(" from step ", job.checkpoint.step)));
}

// Of what it had when its attempt began, or has now that it waits.
absl::Duration Core::TimeLimitLeft(const Job& job) const {
  if (job.request.time_limit <= absl::ZeroDuration()) return absl::InfiniteDuration();
  const Layout& layout = job.attempt.live() ? job.attempt.layout : job.request.gang.layout;
  const double used = (job.usage.device_seconds - job.device_seconds_limited) / layout.world();
  return std::max(absl::ZeroDuration(), job.request.time_limit - absl::Seconds(used));
}

void Core::CheckTimeLimit(Job& job) {
  if (job.request.time_limit <= absl::ZeroDuration() || !job.attempt.live() ||
      job.attempt.validation || job.time_is_up) {
    return;
  }
  const absl::Time ends = job.attempt.started + TimeLimitLeft(job);
  if (now_ < ends) {
    alarms_.insert({ends, job.request.key});
    return;
  }
  if (job.state != JobState::kStarting && job.state != JobState::kRunning) return;
  job.time_is_up = true;
  const absl::string_view reason = "its time limit has passed; it takes a checkpoint and ends";
  if (job.request.at_time_limit == AtTimeLimit::kPause) {
    Move(job, JobState::kPausing, "TIME_LIMIT", reason);
  } else {
    job.reason_code = "TIME_LIMIT";
    job.reason = std::string(reason);
  }
  if (job.request.at_time_limit == AtTimeLimit::kComplete) {
    job.finish = true;
    effects_.jobs.insert(job.request.key);
    TouchDesired(job.attempt);
  } else {
    Tell(job, AttemptMode::kCheckpointAndStop);
  }
}

// A checkpoint that does not come must not keep devices for ever.
void Core::CheckGrace(Job& job) {
  if (!job.attempt.live() || job.attempt.mode != AttemptMode::kCheckpointAndStop) return;
  if (now_ >= job.attempt.stop_at) Tell(job, AttemptMode::kStop);
}

}  // namespace graft::scheduler
