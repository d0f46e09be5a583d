#include "scheduler/service/job_service.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "graft/v1/queue.pb.h"
#include "rpc/status.h"
#include "scheduler/core/core.h"
#include "scheduler/service/events_stream.h"
#include "scheduler/service/explain_convert.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/layout_choice.h"
#include "scheduler/service/names.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
constexpr absl::Duration kPoll = absl::Milliseconds(300);  // of metrics and logs that are followed

}  // namespace

rpc::Service JobService::Bind() {
  rpc::Service service("graft.v1.JobService");
  service.Async("CreateJob", this, &JobService::CreateJob)
      .Unary("GetJob", this, &JobService::GetJob)
      .Unary("BatchGetJobs", this, &JobService::BatchGetJobs)
      .Unary("ListJobs", this, &JobService::ListJobs)
      .Async("UpdateJob", this, &JobService::UpdateJob)
      .Async("ForkJob", this, &JobService::ForkJob)
      .Async("CheckpointJob", this, &JobService::CheckpointJob)
      .Async("FinishJob", this, &JobService::FinishJob)
      .Async("CancelJob", this, &JobService::CancelJob)
      .Async("PauseJob", this, &JobService::PauseJob)
      .Async("ResumeJob", this, &JobService::ResumeJob)
      .Async("DeleteJob", this, &JobService::DeleteJob)
      .Stream("WatchJobs", this, &JobService::WatchJobs)
      .Async("WaitJob", this, &JobService::WaitJob)
      .Unary("ListAttempts", this, &JobService::ListAttempts)
      .Unary("ListCheckpoints", this, &JobService::ListCheckpoints)
      .Stream("ReadLogs", this, &JobService::ReadLogs)
      .Unary("QueryMetrics", this, &JobService::QueryMetrics)
      .Stream("WatchMetrics", this, &JobService::WatchMetrics)
      .Async("ExplainJob", this, &JobService::ExplainJob)
      .Async("EstimateJob", this, &JobService::EstimateJob)
      .Unary("GetJobSchema", this, &JobService::GetJobSchema)
      .Async("ValidateJob", this, &JobService::ValidateJob);
  return service;
}

void JobService::Command(CallPtr call, const std::string& name, const std::string& etag,
                         JobVerb verb, const std::string& why, rpc::Responder<v1::Job> responder) {
  Mutate<v1::Job>(context_.control, std::move(responder),
                  [=](Turn& turn) -> absl::StatusOr<v1::Job> {
                    GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, kJobName));
                    const std::string key = JobRecordKey(ids[0], ids[1]);
                    GRAFT_ASSIGN_OR_RETURN(v1::Job job, ReadResource<v1::Job>(turn, key, name));
                    GRAFT_RETURN_IF_ERROR(CheckEtag(name, etag, job.etag()));
                    const JobKey job_key = absl::StrCat(ids[0], "/", ids[1]);
                    const absl::Status status = turn.Step(JobCommanded{job_key, verb, why});
                    if (!status.ok()) {
                      return rpc::ErrorBuilder(status)
                          .Reason("STATE_CONFLICT")
                          .Metadata("resource", name)
                          .Metadata("state", v1::JobState_Name(job.status().state()).substr(10))
                          .Build();
                    }
                    AuditCall(turn, *call, name, why);
                    // Written now and not only at the turn's end, so that the answer is what Get
                    // will say.
                    WriteJobStatus(turn, *turn.core().FindJob(job_key));
                    return ReadResource<v1::Job>(turn, key, name);
                  });
}

void JobService::CancelJob(CallPtr call, const v1::CancelJobRequest& request,
                           rpc::Responder<v1::Job> responder) {
  const std::string why = request.comment().empty()
                              ? absl::StrCat("cancelled by ", call->identity->subject)
                              : request.comment();
  Command(std::move(call), request.name(), request.etag(), JobVerb::kCancel, why,
          std::move(responder));
}

void JobService::PauseJob(CallPtr call, const v1::PauseJobRequest& request,
                          rpc::Responder<v1::Job> responder) {
  const std::string why = request.comment().empty()
                              ? absl::StrCat("paused by ", call->identity->subject)
                              : request.comment();
  Command(std::move(call), request.name(), request.etag(), JobVerb::kPause, why,
          std::move(responder));
}

void JobService::ResumeJob(CallPtr call, const v1::ResumeJobRequest& request,
                           rpc::Responder<v1::Job> responder) {
  Command(std::move(call), request.name(), request.etag(), JobVerb::kResume, "",
          std::move(responder));
}

void JobService::ReadLogs(CallPtr call, const v1::ReadLogsRequest& request,
                          std::shared_ptr<rpc::StreamWriter<v1::ReadLogsResponse>> writer) {
  FollowLogs(std::move(call), request, request.cursor(), std::move(writer));
}

void JobService::FollowLogs(CallPtr call, v1::ReadLogsRequest request, std::string cursor,
                            std::shared_ptr<rpc::StreamWriter<v1::ReadLogsResponse>> writer) {
  const absl::StatusOr<v1::Job> job = Read(request.name());
  if (!job.ok()) return writer->Finish(job.status());
  const JobKey key = JobKeyOf(request.name());
  for (;;) {
    absl::StatusOr<v1::ReadLogsResponse> lines = ReadLogLines(context_.store, key, request, cursor);
    if (!lines.ok()) return writer->Finish(lines.status());
    if (lines->cursor() == cursor) break;
    cursor = lines->cursor();
    if (lines->entries_size() == 0) continue;
    if (absl::Status sent = writer->Write(*std::move(lines)); !sent.ok())
      return writer->Finish(sent);
  }
  if (!request.follow() || IsOver(job->status().state())) return writer->Finish(absl::OkStatus());
  if (writer->closed()) return;
  context_.background.PostAt(context_.clock.Now() + kPoll, [this, call, request, cursor, writer] {
    FollowLogs(call, request, cursor, writer);
  });
}

absl::StatusOr<v1::QueryMetricsResponse> JobService::QueryMetrics(
    const rpc::Call&, const v1::QueryMetricsRequest& request) {
  GRAFT_RETURN_IF_ERROR(Read(request.name()).status());
  return ReadMetrics(context_.store, JobKeyOf(request.name()), request);
}

void JobService::WatchMetrics(CallPtr call, const v1::WatchMetricsRequest& request,
                              std::shared_ptr<rpc::StreamWriter<v1::WatchMetricsResponse>> writer) {
  FollowMetrics(std::move(call), request, std::move(writer));
}

void JobService::FollowMetrics(
    CallPtr call, v1::WatchMetricsRequest request,
    std::shared_ptr<rpc::StreamWriter<v1::WatchMetricsResponse>> writer) {
  const absl::StatusOr<v1::Job> job = Read(request.name());
  if (!job.ok()) return writer->Finish(job.status());
  v1::QueryMetricsRequest query;
  *query.mutable_metrics() = request.metrics();
  query.set_from_step(request.after_step() + 1);
  absl::StatusOr<v1::QueryMetricsResponse> found =
      ReadMetrics(context_.store, JobKeyOf(request.name()), query);
  if (!found.ok()) return writer->Finish(found.status());
  v1::WatchMetricsResponse response;
  response.set_step(request.after_step());
  for (v1::MetricSeries& series : *found->mutable_series()) {
    response.set_step(std::max(response.step(), series.points().rbegin()->step()));
    *response.add_series() = std::move(series);
  }
  request.set_after_step(response.step());
  if (response.series_size() > 0) {
    if (absl::Status sent = writer->Write(std::move(response)); !sent.ok()) {
      return writer->Finish(sent);
    }
  }
  if (IsOver(job->status().state())) return writer->Finish(absl::OkStatus());
  if (writer->closed()) return;
  context_.background.PostAt(context_.clock.Now() + kPoll, [this, call, request, writer] {
    FollowMetrics(call, request, writer);
  });
}

namespace {

// Whether the queue shows everyone in it the names of all.
bool ShowsNames(const Store& store, const std::string& queue) {
  const auto body =
      ReadResource<v1::Queue>(store, absl::StrCat("queue/", queue), absl::StrCat("queues/", queue));
  return body.ok() && body->visibility() == v1::Queue::VISIBILITY_NAMES;
}

// Jobs ahead by name where the caller may see them; foreign ones are counted, and named where their
// queue says so.
void FillAhead(const Core& core, const Store& store, const JobExplanation& why,
               const rpc::Identity& caller, v1::Explanation& message) {
  for (const JobKey& ahead : why.first_ahead) {
    const std::string workspace(ahead.substr(0, ahead.find('/')));
    const bool seen = caller.RoleIn(workspace) >= rpc::Role::kViewer ||
                      ShowsNames(store, core.FindJob(ahead)->request.queue);
    if (seen) message.add_jobs_ahead(JobNameOf(ahead));
  }
  for (const auto& [workspace, ahead] : why.ahead) {
    if (caller.RoleIn(workspace) >= rpc::Role::kViewer) continue;
    message.set_foreign_jobs_ahead(message.foreign_jobs_ahead() + ahead.jobs);
    message.set_foreign_devices_ahead(message.foreign_devices_ahead() + ahead.devices);
  }
}

// What each remedy does to the step time.
void FillSlowdown(const Core& core, const v1::JobSpec& spec, const v1::ModelSpec& model,
                  const GangRequest& gang, const JobExplanation& why, v1::Explanation& message) {
  for (size_t i = 0; i < why.counterfactuals.size(); ++i) {
    const GangRequest& changed = why.counterfactuals[i].job.gang;
    if (changed.layout == gang.layout && changed.max_level == gang.max_level) continue;
    message.mutable_counterfactuals(static_cast<int>(i))
        ->set_slowdown(StepChange(spec, model, core.cluster(), gang, changed));
  }
}

// Empty where the model is there no more.
v1::ModelSpec BaseOf(const Store& store, const v1::JobSpec& spec) {
  const auto ids = ParseName(spec.model().base(), "workspaces/*/models/*");
  if (!ids.ok()) return {};
  const auto model =
      ReadResource<v1::Model>(store, ModelRecordKey((*ids)[0], (*ids)[1]), spec.model().base());
  return model.ok() ? model->spec() : v1::ModelSpec();
}

}  // namespace

void JobService::ExplainJob(CallPtr call, const v1::ExplainJobRequest& request,
                            rpc::Responder<v1::Explanation> responder) {
  auto answer = std::make_shared<rpc::Responder<v1::Explanation>>(std::move(responder));
  if (request.has_spec()) return ExplainSpec(std::move(call), request, std::move(answer));
  const absl::StatusOr<v1::Job> body = Read(request.name());
  if (!body.ok()) return answer->Answer(body.status());
  context_.control.Inspect(
      [this, call, name = request.name(), answer, spec = body->resolved_spec(),
       model = BaseOf(context_.store, body->resolved_spec())](const Core& core) {
        v1::Explanation explanation;
        const absl::Time now = context_.clock.Now();
        *explanation.mutable_time() = ToTimestamp(now);
        const Job* job = core.FindJob(JobKeyOf(name));
        if (job == nullptr) return answer->Answer(std::move(explanation));
        const JobExplanation why = core.Explain(*job, now);
        FillExplanation(why, job->state == JobState::kQueued, explanation);
        FillSlowdown(core, spec, model, job->request.gang, why, explanation);
        FillAhead(core, context_.store, why, *call->identity, explanation);
        answer->Answer(std::move(explanation));
      });
}

// What a specification would wait for, were it submitted now.
void JobService::ExplainSpec(CallPtr call, const v1::ExplainJobRequest& request,
                             std::shared_ptr<rpc::Responder<v1::Explanation>> answer) {
  const absl::Status posted = context_.background.Post([this, call, request, answer] {
    Prepared prepared;
    const auto check = PrepareUnsubmitted(*call, request.parent(), request.spec(), prepared);
    if (!check.ok()) return answer->Answer(check.status());
    if (!check->violations.empty()) return answer->Answer(ViolationsStatus(check->violations));
    context_.control.Inspect([this, call, prepared, answer](const Core& core) mutable {
      v1::Explanation explanation;
      const absl::Time now = context_.clock.Now();
      *explanation.mutable_time() = ToTimestamp(now);
      const absl::StatusOr<JobRequest> job = RequestFor(core, prepared);
      if (job.ok()) {
        const JobExplanation why = core.ExplainUnsubmitted(*job, now);
        FillExplanation(why, true, explanation);
        FillSlowdown(core, prepared.body.resolved_spec(), prepared.model, job->gang, why,
                     explanation);
        FillAhead(core, context_.store, why, *call->identity, explanation);
      } else {
        v1::Explanation::Cause& cause = *explanation.add_causes();
        cause.set_code(v1::Explanation::CODE_INVALID_SHAPE);
        cause.set_message(std::string(job.status().message()));
        explanation.set_text(cause.message());
      }
      answer->Answer(std::move(explanation));
    });
  });
  if (!posted.ok()) answer->Answer(posted);
}

}  // namespace graft::scheduler
