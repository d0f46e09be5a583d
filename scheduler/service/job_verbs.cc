// JobService: what is done to jobs that are there already.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/util/field_mask_util.h"
#include "rpc/status.h"
#include "scheduler/core/core.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/job_service.h"
#include "scheduler/service/names.h"
#include "scheduler/service/standard.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::Empty;
using google::protobuf::util::FieldMaskUtil;

constexpr int kPriorityBound = 1000;

absl::Status Conflict(const absl::Status& status, const std::string& name, const v1::Job& job) {
  return rpc::ErrorBuilder(status)
      .Reason("STATE_CONFLICT")
      .Metadata("resource", name)
      .Metadata("state", v1::JobState_Name(job.status().state()).substr(10))
      .Build();
}

}  // namespace

void JobService::UpdateJob(CallPtr call, const v1::UpdateJobRequest& request,
                           rpc::Responder<v1::Job> responder) {
  Mutate<v1::Job>(
      context_.control, std::move(responder),
      [call, request](Turn& turn) -> absl::StatusOr<v1::Job> {
        const std::string& name = request.job().name();
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, kJobName));
        const std::string key = JobRecordKey(ids[0], ids[1]);
        GRAFT_ASSIGN_OR_RETURN(const v1::Job before, ReadResource<v1::Job>(turn, key, name));
        GRAFT_RETURN_IF_ERROR(CheckEtag(name, request.job().etag(), before.etag()));
        v1::Job job = before;
        GRAFT_ASSIGN_OR_RETURN(
            const std::vector<std::string> paths,
            ApplyUpdate(request.job(), request.update_mask(), job,
                        {"spec.resources.priority", "spec.resources.time_limit"}));
        GRAFT_RETURN_IF_ERROR(CheckCommon(job));
        const v1::ResourcesSection& asked = job.spec().resources();
        v1::ResourcesSection& resolved = *job.mutable_resolved_spec()->mutable_resources();
        bool amended = false;
        for (const std::string& path : paths) {
          if (path == "spec.resources.priority") resolved.set_priority(asked.priority());
          if (path == "spec.resources.time_limit") {
            *resolved.mutable_time_limit() = asked.time_limit();
          }
          amended |= absl::StartsWith(path, "spec.");
        }
        if (std::abs(resolved.priority()) > kPriorityBound) {
          return InvalidField("job.spec.resources.priority", "must be between -1000 and 1000");
        }
        if (resolved.time_limit().seconds() < 0) {
          return InvalidField("job.spec.resources.time_limit", "is below 0");
        }
        StampUpdate(job, turn.now());
        if (amended) {
          const Job* known = turn.core().FindJob(JobKeyOf(name));
          if (known == nullptr) return NoSuchResource(name);
          JobAmended amend{known->request};
          amend.request.priority = resolved.priority();
          amend.request.time_limit = absl::Seconds(resolved.time_limit().seconds());
          const absl::Status status = turn.Step(amend);
          if (!status.ok()) return Conflict(status, name, before);
        }
        PutResource(turn, key, job);
        AuditChange(turn, *call, name, ChangeJson(before, job, paths));
        return job;
      });
}

void JobService::CheckpointJob(CallPtr call, const v1::CheckpointJobRequest& request,
                               rpc::Responder<v1::Job> responder) {
  Command(std::move(call), request.name(), "", JobVerb::kCheckpoint, "", std::move(responder));
}

void JobService::FinishJob(CallPtr call, const v1::FinishJobRequest& request,
                           rpc::Responder<v1::Job> responder) {
  Command(std::move(call), request.name(), "",
          request.use_best() ? JobVerb::kFinishWithBest : JobVerb::kFinish, "",
          std::move(responder));
}

// --- Delete ---

void JobService::DeleteJob(CallPtr call, const v1::DeleteJobRequest& request,
                           rpc::Responder<Empty> responder) {
  Mutate<Empty>(context_.control, std::move(responder),
                [this, call, request](Turn& turn) -> absl::StatusOr<Empty> {
                  const std::string& name = request.name();
                  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, kJobName));
                  const absl::StatusOr<v1::Job> body =
                      ReadResource<v1::Job>(turn, JobRecordKey(ids[0], ids[1]), name);
                  if (absl::IsNotFound(body.status()) && request.allow_missing()) return Empty();
                  if (!body.ok()) return body.status();
                  GRAFT_RETURN_IF_ERROR(CheckEtag(name, request.etag(), body->etag()));
                  const JobKey key = JobKeyOf(name);
                  const Job* job = turn.core().FindJob(key);
                  const bool live = job != nullptr && !IsTerminal(job->state);
                  const bool paused = live && job->state == JobState::kPaused;
                  if (live && !paused && !request.force()) {
                    return Conflict(absl::FailedPreconditionError(
                                        absl::StrCat(name, " is ", JobStateName(job->state),
                                                     "; cancel it first, or set force")),
                                    name, *body);
                  }
                  if (live) {
                    const std::string why = absl::StrCat("deleted by ", call->identity->subject);
                    GRAFT_RETURN_IF_ERROR(turn.Step(JobCommanded{key, JobVerb::kCancel, why}));
                    job = turn.core().FindJob(key);
                  }
                  AuditCall(turn, *call, name);
                  if (job != nullptr && !IsTerminal(job->state)) {
                    turn.Put(Family::kRecords, DoomedJobKey(key), "");
                    return Empty();
                  }
                  // After a step nothing may fail: what cannot be erased now is erased by
                  // EraseDoomed.
                  if (!EraseJob(turn, context_.store, key, *body).ok()) {
                    turn.Put(Family::kRecords, DoomedJobKey(key), "");
                  }
                  progress_.Remove(key);
                  return Empty();
                });
}

void JobService::EraseDoomed() {
  const auto doomed = context_.store.List({.prefix = "job.doomed/"});
  if (!doomed.ok()) return;
  for (const Record& record : doomed->records) {
    const JobKey key = record.key.substr(record.key.find('/') + 1);
    context_.control.Submit({.work = [this, key](Turn& turn) -> absl::Status {
      const Job* job = turn.core().FindJob(key);
      if (job != nullptr && !IsTerminal(job->state)) return absl::OkStatus();
      const std::vector<std::string> ids = absl::StrSplit(key, '/');
      const auto body = ReadResource<v1::Job>(turn, JobRecordKey(ids[0], ids[1]), key);
      if (!body.ok()) {
        turn.Remove(Family::kRecords, DoomedJobKey(key));
        return absl::OkStatus();
      }
      progress_.Remove(key);
      return EraseJob(turn, context_.store, key, *body);
    }});
  }
}

// --- Fork ---

namespace {

// Of the jobs to start after, those that there are and that have not completed.
void KeepUnmet(const Store& store, v1::ResourcesSection& resources) {
  auto& after = *resources.mutable_after();
  after.erase(std::remove_if(after.begin(), after.end(),
                             [&store](const std::string& name) {
                               const JobKey key = JobKeyOf(name);
                               const auto job =
                                   ReadResource<v1::Job>(store, absl::StrCat("job/", key), name);
                               return !job.ok() || job->status().state() == v1::JOB_STATE_COMPLETED;
                             }),
              after.end());
}

// Without a checkpoint a fork begins as the first job did.
absl::Status SetStart(const Store& store, const v1::ForkJobRequest& request, const v1::Job& from,
                      v1::ModelSection& model) {
  const bool any = !from.status().latest_checkpoint().empty();
  const std::string point = !request.from().empty() ? request.from() : any ? "latest" : "start";
  if (point == "start") return absl::OkStatus();
  const absl::StatusOr<v1::Checkpoint> checkpoint = FindCheckpoint(store, from, point);
  if (!checkpoint.ok()) {
    return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                             absl::StrCat(checkpoint.status().message(),
                                          ", and start is where the job itself began"))
        .Reason("REFERENCE_NOT_FOUND")
        .Field("from", "names no checkpoint")
        .Build();
  }
  const auto& paths = request.update_mask().paths();
  const bool keeps_state = std::all_of(paths.begin(), paths.end(), KeepsState);
  v1::StartFrom start;
  start.set_checkpoint(checkpoint->name());
  start.set_with_optimizer_state(request.has_with_optimizer_state() ? request.with_optimizer_state()
                                                                    : keeps_state);
  *model.mutable_start_from() = start;
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<v1::CreateJobRequest> JobService::ForkRequest(const v1::ForkJobRequest& request,
                                                             const v1::Job& from) const {
  v1::CreateJobRequest create;
  create.set_parent(from.name().substr(0, from.name().find("/jobs/")));
  create.set_job_id(request.job_id());
  create.set_request_id(request.request_id());
  create.set_validate_only(request.validate_only());
  create.mutable_job()->set_project(from.project());
  *create.mutable_job()->mutable_labels() = from.labels();
  v1::JobSpec& spec = *create.mutable_job()->mutable_spec();
  spec = from.resolved_spec();
  // What is derived from the rest, and names that the first job has taken.
  spec.mutable_parallelism()->clear_data_parallel_size();
  spec.mutable_output()->clear_name();
  KeepUnmet(context_.store, *spec.mutable_resources());
  for (const std::string& path : request.update_mask().paths()) {
    if (FieldMaskUtil::GetFieldDescriptors(v1::JobSpec::descriptor(), path, nullptr)) continue;
    return rpc::ErrorBuilder(
               absl::StatusCode::kInvalidArgument,
               absl::StrCat("update_mask names '", path, "', which a job's spec does not have"))
        .Reason("FIELD_MASK_INVALID")
        .Metadata("path", path)
        .Build();
  }
  FieldMaskUtil::MergeOptions options;
  options.set_replace_message_fields(true);
  options.set_replace_repeated_fields(true);
  FieldMaskUtil::MergeMessageTo(request.spec(), request.update_mask(), options, &spec);
  GRAFT_RETURN_IF_ERROR(SetStart(context_.store, request, from, *spec.mutable_model()));
  return create;
}

void JobService::ForkJob(CallPtr call, const v1::ForkJobRequest& request,
                         rpc::Responder<v1::Job> responder) {
  const absl::StatusOr<v1::Job> from = Read(request.name());
  if (!from.ok()) return responder.Answer(from.status());
  absl::StatusOr<v1::CreateJobRequest> create = ForkRequest(request, *from);
  if (!create.ok()) return responder.Answer(create.status());
  Create(std::move(call), *std::move(create), request.name(), std::move(responder));
}

}  // namespace graft::scheduler
