#include "scheduler/service/job_records.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "graft/v1/model.pb.h"
#include "graft/v1/node.pb.h"
#include "scheduler/core/core.h"
#include "scheduler/service/events_stream.h"
#include "scheduler/service/job_spec.h"
#include "scheduler/service/pins.h"
#include "scheduler/service/resources.h"
#include "scheduler/service/usage_ledger.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
constexpr int kMaxHistory = 32;
constexpr absl::string_view kAttemptPrefix = "attempt/";
constexpr absl::string_view kCheckpointPrefix = "checkpoint/";

v1::Reason ReasonOf(const Job& job) {
  static constexpr std::pair<absl::string_view, v1::Reason> kReasons[] = {
      {"PREEMPTED", v1::REASON_PREEMPTED},         {"PREEMPTING", v1::REASON_PREEMPTED},
      {"DRAINING", v1::REASON_NODE_DRAINING},      {"TIME_LIMIT", v1::REASON_TIME_LIMIT},
      {"PAUSED", v1::REASON_PAUSED_BY_USER},       {"IDLE", v1::REASON_IDLE},
      {"CANCELLED", v1::REASON_CANCELLED_BY_USER}, {"RESTARTING", v1::REASON_WORKER_LOST},
      {"FAILED", v1::REASON_RANK_FAILED},          {"DEPENDENCY", v1::REASON_DEPENDENCY_FAILED}};
  for (const auto& [code, reason] : kReasons) {
    if (job.reason_code == code) return reason;
  }
  return v1::REASON_UNSPECIFIED;
}

void AddHistory(Turn& turn, const Job& job, v1::JobStatus& status) {
  const v1::JobState state = ToApi(job.state);
  if (status.state() == state && status.history_size() > 0) return;
  status.set_state(state);
  *status.mutable_state_time() = ToTimestamp(turn.now());
  if (status.history_size() == kMaxHistory) {
    status.mutable_history()->DeleteSubrange(0, 1);
  }
  v1::StateChange& change = *status.add_history();
  change.set_state(state);
  change.set_reason(ReasonOf(job));
  change.set_message(job.reason);
  *change.mutable_time() = ToTimestamp(turn.now());
  turn.Emit({.type = absl::StrCat("job.", ShortName(*v1::JobState_descriptor(), state)),
             .resource = JobNameOf(job.request.key),
             .reason = change.reason(),
             .message = job.reason});
}

std::string WorkspaceOf(absl::string_view name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '/');
  return parts.size() > 1 ? parts[1] : "";
}

std::string NewestFirst(absl::Time time) {
  return absl::StrFormat("%016x", ~static_cast<uint64_t>(absl::ToUnixMicros(time)));
}

std::string LastPart(absl::string_view name) {
  return std::string(name.substr(name.rfind('/') + 1));
}

void WriteAttempt(Turn& turn, const Job& job, const v1::Job& body) {
  const Attempt& attempt = job.attempt;
  if (!attempt.live() || attempt.validation) return;
  v1::Attempt record;
  record.set_name(absl::StrCat(body.name(), "/attempts/", attempt.number));
  const bool stopping = attempt.mode != AttemptMode::kRun;
  record.set_state(stopping                          ? v1::Attempt::STATE_STOPPING
                   : job.state == JobState::kRunning ? v1::Attempt::STATE_RUNNING
                                                     : v1::Attempt::STATE_STARTING);
  *record.mutable_create_time() = ToTimestamp(attempt.started);
  SetLayout(attempt.layout, *record.mutable_layout());
  // Where it is and what it began with do not change while it lasts.
  const std::string key = AttemptRecordKey(job.request.key, attempt.number);
  v1::Attempt before;
  const absl::StatusOr<Record> known = turn.Get(Family::kRecords, key);
  if (known.ok() && DecodeResource(key, known->value, before).ok()) {
    record.mutable_ranks()->Swap(before.mutable_ranks());
    record.set_from_checkpoint(before.from_checkpoint());
    record.set_decision(before.decision());
  } else {
    WriteRanks(turn, attempt, *record.mutable_ranks());
    record.set_from_checkpoint(body.status().latest_checkpoint());
    record.set_decision(attempt.decision);
  }
  record.set_message(attempt.end_message);
  turn.Put(Family::kRecords, key, EncodeResource(record));
}

// The attempt's last record, once the core holds none any more.
void CloseAttempt(Turn& turn, const Job& job, const v1::Job& body) {
  // One that left its node for another may have its successor in the same turn.
  const bool followed = job.attempt.live();
  const int number = followed ? job.attempts - 1 : job.attempts;
  if (number < 1) return;
  const std::string key = AttemptRecordKey(job.request.key, number);
  const absl::StatusOr<Record> record = turn.Get(Family::kRecords, key);
  v1::Attempt attempt;
  if (!record.ok() || !DecodeResource(key, record->value, attempt).ok()) return;
  if (attempt.has_end_time()) return;
  const bool lost =
      !followed && (job.reason_code == "RESTARTING" || job.state == JobState::kFailed);
  attempt.set_state(lost ? v1::Attempt::STATE_FAILED : v1::Attempt::STATE_ENDED);
  if (followed) {
    attempt.set_message(
        absl::StrCat("goes on as attempt ", job.attempts, " from step ", job.checkpoint.step));
  } else {
    attempt.set_message(job.reason);
    attempt.set_reason(ReasonOf(job));
  }
  *attempt.mutable_end_time() = ToTimestamp(turn.now());
  turn.Put(Family::kRecords, key, EncodeResource(attempt));
  KeepUsage(turn, body, attempt, lost);
}

// The best is the one of the lowest validation loss.
void MarkBest(Turn& turn, const JobKey& job, v1::JobStatus& status, v1::Checkpoint& checkpoint) {
  if (!checkpoint.has_val_loss()) return;
  const std::string known = LastPart(status.best_checkpoint());
  int64_t step = 0;
  if (absl::SimpleAtoi(known, &step) && step != checkpoint.step()) {
    const std::string key = CheckpointRecordKey(job, step);
    const absl::StatusOr<Record> record = turn.Get(Family::kRecords, key);
    v1::Checkpoint best;
    if (record.ok() && DecodeResource(key, record->value, best).ok()) {
      if (best.val_loss() <= checkpoint.val_loss()) return;
      best.set_best(false);
      turn.Put(Family::kRecords, key, EncodeResource(best));
    }
  }
  checkpoint.set_best(true);
  status.set_best_checkpoint(checkpoint.name());
}

// The newest ones stay, and the best.
void PruneCheckpoints(Turn& turn, const Job& job, const v1::Job& body) {
  const auto records = turn.List(absl::StrCat(kCheckpointPrefix, job.request.key, "/"));
  if (!records.ok()) return;
  const int keep = std::max(1, body.resolved_spec().schedule().keep_checkpoints());
  int newer = 0;
  for (const Record& record : *records) {
    v1::Checkpoint checkpoint;
    if (!DecodeResource(record.key, record.value, checkpoint).ok()) continue;
    if (newer++ < keep || checkpoint.best() || checkpoint.step() == job.checkpoint.step) continue;
    turn.Remove(Family::kRecords, record.key);
    GiveUpVersion(turn, checkpoint.fileset_version(), body.name());
  }
}

void WriteCheckpoint(Turn& turn, const Job& job, v1::Job& body) {
  if (job.checkpoint.version.empty()) return;
  const std::string key = CheckpointRecordKey(job.request.key, job.checkpoint.step);
  const std::string name = absl::StrCat(body.name(), "/checkpoints/", job.checkpoint.step);
  body.mutable_status()->set_latest_checkpoint(name);
  v1::Checkpoint checkpoint;
  const absl::StatusOr<Record> known = turn.Get(Family::kRecords, key);
  if (known.ok() && DecodeResource(key, known->value, checkpoint).ok()) {
    if (checkpoint.fileset_version() == job.checkpoint.version) return;
    // The same step again, as of a run that was paused before its first one.
    GiveUpVersion(turn, checkpoint.fileset_version(), body.name());
  }
  checkpoint.set_name(name);
  checkpoint.set_step(job.checkpoint.step);
  checkpoint.set_attempt(job.attempts);
  checkpoint.set_fileset_version(job.checkpoint.version);
  checkpoint.set_size_bytes(job.checkpoint.bytes);
  *checkpoint.mutable_create_time() = ToTimestamp(turn.now());
  if (job.checkpoint.val_loss.has_value()) checkpoint.set_val_loss(*job.checkpoint.val_loss);
  MarkBest(turn, job.request.key, *body.mutable_status(), checkpoint);
  turn.Put(Family::kRecords, key, EncodeResource(checkpoint));
  PruneCheckpoints(turn, job, body);
}

// The fileset version of the base that the job was given.
std::string BaseVersion(Turn& turn, const v1::Job& body) {
  const std::string& base = body.resolved_spec().model().base();
  const auto model =
      ReadResource<v1::Model>(turn, ModelRecordKey(WorkspaceOf(base), LastPart(base)), base);
  return model.ok() ? model->fileset() : "";
}

void MakeAdapter(Turn& turn, const Job& job, v1::Job& body) {
  const v1::JobSpec& spec = body.resolved_spec();
  const std::string& base = spec.model().base();
  v1::Adapter adapter;
  adapter.set_name(absl::StrCat(base, "/adapters/", spec.output().name()));
  adapter.set_uid(absl::StrCat(body.uid(), "-output"));
  *adapter.mutable_create_time() = ToTimestamp(turn.now());
  *adapter.mutable_update_time() = adapter.create_time();
  adapter.set_creator(body.creator());
  adapter.set_description(spec.output().description());
  *adapter.mutable_labels() = spec.output().labels();
  adapter.set_project(body.project());
  adapter.set_fileset(job.result_version);
  adapter.set_finetuning_type(v1::FINETUNING_TYPE_LORA);
  adapter.set_rank(spec.tuning().lora().rank());
  adapter.set_alpha(spec.tuning().lora().alpha());
  *adapter.mutable_target_modules() = spec.tuning().lora().target_modules();
  adapter.set_rslora(spec.tuning().lora().rslora());
  adapter.set_dora(spec.tuning().lora().dora());
  adapter.set_enabled(spec.output().enabled());
  adapter.set_job(body.name());
  *adapter.mutable_prompt() = spec.output().prompt();
  adapter.set_row_format(body.status().has_dataset() ? body.status().dataset().format()
                                                     : spec.dataset().format());
  adapter.set_base_version(BaseVersion(turn, body));
  turn.Put(Family::kRecords,
           AdapterRecordKey(WorkspaceOf(base), LastPart(base), spec.output().name()),
           EncodeResource(adapter));
  v1::JobResult& result = *body.mutable_status()->add_results();
  result.set_kind(v1::JobResult::KIND_ADAPTER);
  result.set_resource(adapter.name());
  result.set_fileset_version(job.result_version);
}

void MakeModel(Turn& turn, const Job& job, v1::Job& body) {
  const v1::JobSpec& spec = body.resolved_spec();
  v1::Model model;
  model.set_name(
      absl::StrCat("workspaces/", job.request.workspace, "/models/", spec.output().name()));
  model.set_uid(absl::StrCat(body.uid(), "-output"));
  *model.mutable_create_time() = ToTimestamp(turn.now());
  *model.mutable_update_time() = model.create_time();
  model.set_creator(body.creator());
  model.set_description(spec.output().description());
  *model.mutable_labels() = spec.output().labels();
  model.set_project(body.project());
  model.set_fileset(job.result_version);
  model.set_base_model(spec.model().base());
  model.set_finetuning_type(spec.tuning().type());
  model.set_job(body.name());
  model.set_source("job");
  *model.mutable_prompt() = spec.output().prompt();
  // Its shape is the base's; only the weights are others.
  const std::string& base = spec.model().base();
  const auto from =
      ReadResource<v1::Model>(turn, ModelRecordKey(WorkspaceOf(base), LastPart(base)), base);
  if (from.ok()) *model.mutable_spec() = from->spec();
  model.set_state(v1::Model::STATE_READY);
  turn.Put(Family::kRecords, ModelRecordKey(job.request.workspace, spec.output().name()),
           EncodeResource(model));
  v1::JobResult& result = *body.mutable_status()->add_results();
  result.set_kind(v1::JobResult::KIND_MODEL);
  result.set_resource(model.name());
  result.set_fileset_version(job.result_version);
}

void WriteReport(const Job& job, v1::Job& body) {
  if (job.report_version.empty()) return;
  for (const v1::JobResult& result : body.status().results()) {
    if (result.kind() == v1::JobResult::KIND_REPORT) return;
  }
  v1::JobResult& result = *body.mutable_status()->add_results();
  result.set_kind(v1::JobResult::KIND_REPORT);
  result.set_resource(job.report_version);
  result.set_fileset_version(job.report_version);
}

bool HasOutput(const v1::JobStatus& status) {
  return std::any_of(status.results().begin(), status.results().end(),
                     [](const v1::JobResult& result) {
                       return result.kind() == v1::JobResult::KIND_ADAPTER ||
                              result.kind() == v1::JobResult::KIND_MODEL;
                     });
}

}  // namespace

std::string JobRecordKey(absl::string_view workspace, absl::string_view job) {
  return absl::StrCat("job/", workspace, "/", job);
}
std::string JobTimeKey(absl::string_view workspace, absl::string_view job, absl::Time created) {
  return absl::StrCat("job.time/", workspace, "/", NewestFirst(created), "/", job);
}
std::string JobNewestKey(absl::string_view workspace, absl::string_view job, absl::Time created) {
  return absl::StrCat("job.newest/", NewestFirst(created), "/", workspace, "/", job);
}
std::string DoomedJobKey(const JobKey& job) { return absl::StrCat("job.doomed/", job); }
std::string DeletedJobKey(absl::string_view workspace, absl::string_view job, absl::Time deleted) {
  return absl::StrCat("job.deleted/", absl::StrFormat("%012d", absl::ToUnixSeconds(deleted)), "/",
                      workspace, "/", job);
}
absl::optional<JobPlace> PlaceOfJob(absl::string_view key) {
  const std::vector<std::string> parts = absl::StrSplit(key, '/');
  if (parts.size() == 3 && parts[0] == "job") return JobPlace{parts[1], parts[2]};
  if (parts.size() != 4) return absl::nullopt;
  if (parts[0] == "job.time") return JobPlace{parts[1], parts[3]};
  if (parts[0] == "job.newest" || parts[0] == "job.deleted") return JobPlace{parts[2], parts[3]};
  return absl::nullopt;
}
std::string ModelRecordKey(absl::string_view workspace, absl::string_view model) {
  return absl::StrCat("model/", workspace, "/", model);
}
std::string AdapterRecordKey(absl::string_view workspace, absl::string_view model,
                             absl::string_view adapter) {
  return absl::StrCat("adapter/", workspace, "/", model, "/", adapter);
}
// Newest first.
std::string AttemptRecordKey(const JobKey& job, int attempt) {
  return absl::StrCat(kAttemptPrefix, job, "/", absl::StrFormat("%010d", 2'000'000'000 - attempt));
}
std::string CheckpointRecordKey(const JobKey& job, int64_t step) {
  return absl::StrCat(kCheckpointPrefix, job, "/",
                      absl::StrFormat("%016x", ~static_cast<uint64_t>(step)));
}

std::string JobNameOf(const JobKey& job) {
  const std::pair<std::string, std::string> parts = absl::StrSplit(job, absl::MaxSplits('/', 1));
  // An inference session's key names its collection.
  if (absl::StrContains(parts.second, '/')) return absl::StrCat("workspaces/", job);
  return absl::StrCat("workspaces/", parts.first, "/jobs/", parts.second);
}

JobKey JobKeyOf(absl::string_view job_name) {
  const std::vector<std::string> parts = absl::StrSplit(job_name, '/');
  if (parts.size() < 4 || parts[0] != "workspaces" || parts[2] != "jobs") return "";
  return absl::StrCat(parts[1], "/", parts[3]);
}

void WriteRanks(Turn& turn, const Attempt& attempt,
                google::protobuf::RepeatedPtrField<v1::RankPlacement>& ranks) {
  absl::flat_hash_map<std::pair<std::string, int>, std::string> ids;  // node and index -> uuid
  for (const auto& [id, part] : attempt.parts) {
    const auto node = ReadResource<v1::Node>(turn, absl::StrCat("node/", id), "");
    if (!node.ok()) continue;  // as in a simulation
    for (const v1::Device& device : node->devices()) {
      ids[{id, device.index()}] = device.uuid();
    }
  }
  for (size_t rank = 0; rank < attempt.ranks.size(); ++rank) {
    const DeviceRef& device = attempt.ranks[rank];
    v1::RankPlacement& place = *ranks.Add();
    place.set_rank(static_cast<int32_t>(rank));
    place.set_node(absl::StrCat("nodes/", device.node));
    place.set_device_index(device.device);
    const auto uuid = ids.find({device.node, device.device});
    if (uuid != ids.end()) place.set_device_uuid(uuid->second);
  }
}

v1::JobState ToApi(JobState state) { return static_cast<v1::JobState>(state); }

v1::Explanation::Code CauseCode(absl::string_view code) {
  v1::Explanation::Code value = v1::Explanation::CODE_UNSPECIFIED;
  v1::Explanation::Code_Parse(absl::StrCat("CODE_", code), &value);
  return value;
}

absl::Status EraseJob(Turn& turn, Store& store, const JobKey& job, const v1::Job& body) {
  const std::vector<std::string> ids = absl::StrSplit(job, '/');
  std::vector<Record> hanging;
  for (absl::string_view kind : {kAttemptPrefix, kCheckpointPrefix}) {
    GRAFT_ASSIGN_OR_RETURN(const auto records, turn.List(absl::StrCat(kind, job, "/")));
    hanging.insert(hanging.end(), records.begin(), records.end());
  }
  // A step cannot be taken back: nothing below may fail.
  if (turn.core().FindJob(job) != nullptr) GRAFT_RETURN_IF_ERROR(turn.Step(JobErased{job}));
  const absl::Time created = FromTimestamp(body.create_time());
  for (const std::string& key : {JobRecordKey(ids[0], ids[1]), JobTimeKey(ids[0], ids[1], created),
                                 JobNewestKey(ids[0], ids[1], created), DoomedJobKey(job)}) {
    turn.Remove(Family::kRecords, key);
  }
  for (const Record& record : hanging) {
    turn.Remove(Family::kRecords, record.key);
    v1::Checkpoint checkpoint;
    if (!absl::StartsWith(record.key, kCheckpointPrefix)) continue;
    if (!DecodeResource(record.key, record.value, checkpoint).ok()) continue;
    GiveUpVersion(turn, checkpoint.fileset_version(), body.name());
  }
  v1::Job deleted = body;
  *deleted.mutable_delete_time() = ToTimestamp(turn.now());
  PutResource(turn, DeletedJobKey(ids[0], ids[1], turn.now()), deleted);
  const std::string series = SeriesPrefix(job);
  for (Series kind : {Series::kMetrics, Series::kLogs}) {
    (void)store.Erase(kind, series, AfterPrefix(series));
  }
  return absl::OkStatus();
}

bool WriteJobStatus(Turn& turn, const Job& job) {
  const std::vector<std::string> ids = absl::StrSplit(job.request.key, '/');
  const std::string key = JobRecordKey(ids[0], ids[1]);
  absl::StatusOr<v1::Job> read = ReadResource<v1::Job>(turn, key, job.request.key);
  if (!read.ok()) return false;  // a job of the simulation has no body
  v1::Job& body = *read;
  v1::JobStatus& status = *body.mutable_status();
  const bool placed = job.state == JobState::kStarting && status.state() != v1::JOB_STATE_STARTING;
  AddHistory(turn, job, status);
  status.set_reason(ReasonOf(job));
  status.set_message(job.reason);
  status.set_attempt(job.attempts);
  status.set_restarts(job.restarts);
  v1::JobUsage& usage = *status.mutable_usage();
  usage.set_gpu_seconds(job.usage.device_seconds);
  usage.set_gpu_busy_seconds(job.usage.busy_device_seconds);
  usage.set_queued_seconds(job.usage.queued_seconds);
  usage.set_lost_seconds(job.usage.lost_seconds);
  usage.set_preempted_seconds(job.usage.preempted_seconds);
  // A restart goes on from a checkpoint: what the last attempt said of its loss is no longer so.
  if (job.state == JobState::kQueued) status.clear_progress();
  status.mutable_progress()->set_steps_done(job.step);
  status.mutable_progress()->set_steps_total(job.steps_total);
  // Packing changes what a pass holds, not how many updates there are.
  status.mutable_progress()->set_unpacked_steps_total(job.steps_total);
  if (job.started != absl::InfiniteFuture())
    *status.mutable_start_time() = ToTimestamp(job.started);
  if (job.finished != absl::InfiniteFuture())
    *status.mutable_end_time() = ToTimestamp(job.finished);
  *body.mutable_update_time() = ToTimestamp(turn.now());
  WriteCheckpoint(turn, job, body);
  WriteAttempt(turn, job, body);
  CloseAttempt(turn, job, body);
  WriteReport(job, body);
  if (job.state == JobState::kCompleted && !job.result_version.empty() && !HasOutput(status)) {
    if (body.resolved_spec().tuning().type() == v1::FINETUNING_TYPE_LORA) {
      MakeAdapter(turn, job, body);
    } else {
      MakeModel(turn, job, body);
    }
  }
  PutResource(turn, key, body);
  return placed;
}

}  // namespace graft::scheduler
