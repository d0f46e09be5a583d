#include "scheduler/service/job_service.h"

#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "rpc/status.h"
#include "scheduler/service/events_stream.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/names.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
constexpr absl::Duration kPoll = absl::Milliseconds(300);  // of metrics and logs that are followed
constexpr absl::Duration kDefaultWait = absl::Seconds(30);
constexpr absl::Duration kLongestWait = absl::Minutes(5);
constexpr int kChangesAtATime = 1000;

bool IsOver(v1::JobState state) {
  return state == v1::JOB_STATE_COMPLETED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

void LeaveOutBulk(v1::Job& job) {
  job.clear_resolved_spec();
  job.clear_estimate();
  job.mutable_status()->clear_history();
  job.mutable_status()->clear_epochs();
}

}  // namespace

rpc::Service JobService::Bind() {
  rpc::Service service("graft.v1.JobService");
  service.Async("CreateJob", this, &JobService::CreateJob)
      .Unary("GetJob", this, &JobService::GetJob)
      .Unary("BatchGetJobs", this, &JobService::BatchGetJobs)
      .Unary("ListJobs", this, &JobService::ListJobs)
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
      .Async("ValidateJob", this, &JobService::ValidateJob);
  return service;
}

absl::StatusOr<v1::Job> JobService::Read(const std::string& name) const {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "workspaces/*/jobs/*"));
  GRAFT_ASSIGN_OR_RETURN(v1::Job job,
                         ReadResource<v1::Job>(context_.store, JobRecordKey(ids[0], ids[1]), name));
  if (!IsOver(job.status().state())) {
    progress_.Overlay(absl::StrCat(ids[0], "/", ids[1]), *job.mutable_status());
  }
  return job;
}

absl::StatusOr<v1::Job> JobService::GetJob(const rpc::Call&, const v1::GetJobRequest& request) {
  return Read(request.name());
}

absl::StatusOr<v1::BatchGetJobsResponse> JobService::BatchGetJobs(
    const rpc::Call& call, const v1::BatchGetJobsRequest& request) {
  v1::BatchGetJobsResponse response;
  for (const std::string& name : request.names()) {
    GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "workspaces/*/jobs/*"));
    GRAFT_RETURN_IF_ERROR(call.CheckWorkspace(ids[0]));
    GRAFT_ASSIGN_OR_RETURN(*response.add_jobs(), Read(name));
  }
  return response;
}

absl::StatusOr<v1::ListJobsResponse> JobService::ListJobs(const rpc::Call& call,
                                                          const v1::ListJobsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), "workspaces/*", true));
  GRAFT_RETURN_IF_ERROR(NoFilters(request.filter(), request.order_by()));
  const bool all = ids[0] == "-";
  const std::string prefix = all ? "job.time/" : absl::StrCat("job.time/", ids[0], "/");
  const auto visible = [&](const Record& record) {
    const std::vector<std::string> parts = absl::StrSplit(record.key, '/');
    return !all || call.identity->RoleIn(parts[1]) >= rpc::Role::kViewer;
  };
  GRAFT_ASSIGN_OR_RETURN(
      Page page,
      ReadPage(context_.store,
               {.prefix = prefix, .page_size = request.page_size(), .token = request.page_token()},
               visible));
  v1::ListJobsResponse response;
  for (const Record& record : page.records) {
    const std::vector<std::string> parts = absl::StrSplit(record.key, '/');
    absl::StatusOr<v1::Job> job = Read(absl::StrCat("workspaces/", parts[1], "/jobs/", parts[3]));
    if (!job.ok()) continue;  // deleted since
    LeaveOutBulk(*job);
    *response.add_jobs() = *std::move(job);
  }
  response.set_next_page_token(page.next_token);
  response.set_revision(page.revision);
  return response;
}

void JobService::Command(CallPtr call, const std::string& name, const std::string& etag,
                         JobVerb verb, const std::string& why, rpc::Responder<v1::Job> responder) {
  Mutate<v1::Job>(context_.control, std::move(responder),
                  [=](Turn& turn) -> absl::StatusOr<v1::Job> {
                    GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "workspaces/*/jobs/*"));
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

void JobService::DeleteJob(CallPtr call, const v1::DeleteJobRequest& request,
                           rpc::Responder<google::protobuf::Empty> responder) {
  using google::protobuf::Empty;
  Mutate<Empty>(context_.control, std::move(responder),
                [this, call, request](Turn& turn) -> absl::StatusOr<Empty> {
                  GRAFT_ASSIGN_OR_RETURN(const auto ids,
                                         ParseName(request.name(), "workspaces/*/jobs/*"));
                  const std::string key = JobRecordKey(ids[0], ids[1]);
                  absl::StatusOr<v1::Job> job = ReadResource<v1::Job>(turn, key, request.name());
                  if (absl::IsNotFound(job.status()) && request.allow_missing()) return Empty();
                  if (!job.ok()) return job.status();
                  GRAFT_RETURN_IF_ERROR(CheckEtag(request.name(), request.etag(), job->etag()));
                  const JobKey job_key = absl::StrCat(ids[0], "/", ids[1]);
                  const absl::Status erased = turn.Step(JobErased{job_key});
                  if (!erased.ok()) {
                    return rpc::ErrorBuilder(erased)
                        .Reason("STATE_CONFLICT")
                        .Metadata("resource", request.name())
                        .Build();
                  }
                  turn.Remove(Family::kRecords, key);
                  turn.Remove(Family::kRecords,
                              JobTimeKey(ids[0], ids[1], FromTimestamp(job->create_time())));
                  for (absl::string_view kind : {"attempt/", "checkpoint/"}) {
                    const auto records = turn.List(absl::StrCat(kind, job_key, "/"));
                    if (!records.ok()) continue;
                    for (const Record& record : *records) turn.Remove(Family::kRecords, record.key);
                  }
                  const std::string series = SeriesPrefix(job_key);
                  for (Series kind : {Series::kMetrics, Series::kLogs}) {
                    (void)context_.store.Erase(kind, series, AfterPrefix(series));
                  }
                  progress_.Remove(job_key);
                  AuditCall(turn, *call, request.name());
                  return Empty();
                });
}

void JobService::WatchJobs(CallPtr call, const v1::WatchJobsRequest& request,
                           std::shared_ptr<rpc::StreamWriter<v1::WatchJobsResponse>> writer) {
  const bool one = absl::StrContains(request.parent(), "/jobs/");
  const auto ids = ParseName(request.parent(), one ? "workspaces/*/jobs/*" : "workspaces/*", !one);
  if (!ids.ok()) return writer->Finish(ids.status());
  if (absl::Status status = NoFilters(request.filter(), ""); !status.ok()) {
    return writer->Finish(status);
  }
  const bool all = !one && (*ids)[0] == "-";
  const std::string prefix = all   ? "job/"
                             : one ? JobRecordKey((*ids)[0], (*ids)[1])
                                   : absl::StrCat("job/", (*ids)[0], "/");
  struct State {
    int64_t revision;
    bool snapshot_sent;
    std::map<std::string, v1::Job> shown;  // names, and whether they are over
  };
  // Shared with the watcher, which outlives this call.
  auto state = std::make_shared<State>(State{request.revision(), request.revision() != 0, {}});
  const auto send = [=, this](v1::ChangeType type, const Record& record, int64_t revision) {
    const std::vector<std::string> parts = absl::StrSplit(record.key, '/');
    if (all && call->identity->RoleIn(parts[1]) < rpc::Role::kViewer) return absl::OkStatus();
    if (one && record.key != prefix) return absl::OkStatus();
    absl::StatusOr<v1::Job> job = ToResource<v1::Job>(record);
    if (!job.ok()) return absl::OkStatus();
    if (!IsOver(job->status().state())) {
      progress_.Overlay(absl::StrCat(parts[1], "/", parts[2]), *job->mutable_status());
    }
    if (!one) LeaveOutBulk(*job);
    const bool known = state->shown.contains(record.key);
    v1::Job& shown = state->shown[record.key];
    shown.mutable_status()->set_state(job->status().state());
    shown.set_name(job->name());
    v1::WatchJobsResponse response;
    response.set_type(type == v1::CHANGE_TYPE_UPDATED && !known && !one ? v1::CHANGE_TYPE_CREATED
                                                                        : type);
    *response.mutable_job() = *std::move(job);
    response.set_revision(revision);
    return writer->Write(std::move(response));
  };
  watchers_.Add([=, this, until_terminal = request.until_terminal()]() -> bool {
    if (writer->closed()) return true;
    if (!state->snapshot_sent) {
      state->snapshot_sent = true;
      ListRequest list{.prefix = prefix};
      for (bool more = true; more;) {
        const absl::StatusOr<ListResult> page = context_.store.List(list);
        if (!page.ok()) return writer->Finish(page.status()), true;
        if (state->revision == 0) state->revision = page->revision;
        for (const Record& record : page->records) {
          list.after = record.key;
          if (absl::Status sent = send(v1::CHANGE_TYPE_SNAPSHOT, record, page->revision);
              !sent.ok()) {
            return writer->Finish(sent), true;
          }
        }
        more = page->more;
      }
      v1::WatchJobsResponse bookmark;
      bookmark.set_type(v1::CHANGE_TYPE_BOOKMARK);
      bookmark.set_revision(state->revision);
      (void)writer->Write(std::move(bookmark));
    }
    for (;;) {
      const auto changes = context_.store.Changes(state->revision, kChangesAtATime);
      if (!changes.ok()) {
        writer->Finish(rpc::ErrorBuilder(changes.status()).Reason("REVISION_COMPACTED").Build());
        return true;
      }
      if (changes->empty()) break;
      for (const Change& change : *changes) {
        state->revision = change.revision;
        if (!absl::StartsWith(change.key, prefix)) continue;
        absl::Status sent;
        if (change.removed) {
          v1::WatchJobsResponse gone;
          gone.set_type(v1::CHANGE_TYPE_DELETED);
          const std::vector<std::string> parts = absl::StrSplit(change.key, '/');
          gone.mutable_job()->set_name(absl::StrCat("workspaces/", parts[1], "/jobs/", parts[2]));
          gone.set_revision(change.revision);
          state->shown.erase(change.key);
          sent = writer->Write(std::move(gone));
        } else if (const auto record = context_.store.Get(Family::kRecords, change.key);
                   record.ok()) {
          sent = send(v1::CHANGE_TYPE_UPDATED, *record, change.revision);
        }
        if (!sent.ok()) return writer->Finish(sent), true;
      }
    }
    const bool over = std::all_of(state->shown.begin(), state->shown.end(), [](const auto& entry) {
      return IsOver(entry.second.status().state());
    });
    if (until_terminal && over) return writer->Finish(absl::OkStatus()), true;
    return false;
  });
}

void JobService::WaitJob(CallPtr, const v1::WaitJobRequest& request,
                         rpc::Responder<v1::WaitJobResponse> responder) {
  absl::Duration timeout =
      absl::Seconds(request.timeout().seconds()) + absl::Nanoseconds(request.timeout().nanos());
  if (timeout <= absl::ZeroDuration()) timeout = kDefaultWait;
  timeout = std::min(timeout, kLongestWait);
  struct State {
    explicit State(rpc::Responder<v1::WaitJobResponse> r) : responder(std::move(r)) {}
    Mutex mu;
    bool answered GRAFT_GUARDED_BY(mu) = false;
    rpc::Responder<v1::WaitJobResponse> responder;
  };
  auto state = std::make_shared<State>(std::move(responder));
  const auto look = [this, request, state](bool timed_out) {
    absl::StatusOr<v1::Job> job = Read(request.name());
    bool there = !job.ok() || timed_out;
    if (job.ok() && request.until().empty()) {
      there |= IsOver(job->status().state()) || job->status().state() == v1::JOB_STATE_PAUSED;
    } else if (job.ok()) {
      const auto& until = request.until();
      there |= std::find(until.begin(), until.end(), job->status().state()) != until.end();
    }
    if (!there) return false;
    {
      MutexLock lock(state->mu);
      if (std::exchange(state->answered, true)) return true;
    }
    if (!job.ok()) {
      state->responder.Answer(job.status());
      return true;
    }
    v1::WaitJobResponse response;
    response.set_timed_out(timed_out);
    *response.mutable_job() = *std::move(job);
    state->responder.Answer(std::move(response));
    return true;
  };
  watchers_.Add([look, state] {
    {
      MutexLock lock(state->mu);
      if (state->answered) return true;
    }
    return look(false);
  });
  context_.background.PostAt(context_.clock.Now() + timeout, [look] { (void)look(true); });
}

absl::StatusOr<v1::ListAttemptsResponse> JobService::ListAttempts(
    const rpc::Call&, const v1::ListAttemptsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), "workspaces/*/jobs/*"));
  GRAFT_RETURN_IF_ERROR(Read(request.parent()).status());
  GRAFT_ASSIGN_OR_RETURN(const Page page,
                         ReadPage(context_.store,
                                  {.prefix = absl::StrCat("attempt/", ids[0], "/", ids[1], "/"),
                                   .page_size = request.page_size(),
                                   .token = request.page_token()},
                                  [](const Record&) { return true; }));
  v1::ListAttemptsResponse response;
  for (const Record& record : page.records) {
    GRAFT_RETURN_IF_ERROR(DecodeResource(record.key, record.value, *response.add_attempts()));
  }
  response.set_next_page_token(page.next_token);
  return response;
}

absl::StatusOr<v1::ListCheckpointsResponse> JobService::ListCheckpoints(
    const rpc::Call&, const v1::ListCheckpointsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), "workspaces/*/jobs/*"));
  GRAFT_RETURN_IF_ERROR(Read(request.parent()).status());
  GRAFT_ASSIGN_OR_RETURN(const Page page,
                         ReadPage(context_.store,
                                  {.prefix = absl::StrCat("checkpoint/", ids[0], "/", ids[1], "/"),
                                   .page_size = request.page_size(),
                                   .token = request.page_token()},
                                  [](const Record&) { return true; }));
  v1::ListCheckpointsResponse response;
  for (const Record& record : page.records) {
    GRAFT_RETURN_IF_ERROR(DecodeResource(record.key, record.value, *response.add_checkpoints()));
  }
  response.set_next_page_token(page.next_token);
  return response;
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

void JobService::ExplainJob(CallPtr call, const v1::ExplainJobRequest& request,
                            rpc::Responder<v1::Explanation> responder) {
  if (request.has_spec()) {
    return responder.Answer(rpc::ErrorBuilder(absl::StatusCode::kUnimplemented,
                                              "this build explains jobs, not specifications")
                                .Reason("FEATURE_UNAVAILABLE")
                                .Metadata("feature", "explain.spec")
                                .Build());
  }
  const absl::StatusOr<v1::Job> body = Read(request.name());
  if (!body.ok()) return responder.Answer(body.status());
  auto answer = std::make_shared<rpc::Responder<v1::Explanation>>(std::move(responder));
  context_.control.Inspect([this, call, name = request.name(), answer](const Core& core) {
    v1::Explanation explanation;
    const absl::Time now = context_.clock.Now();
    *explanation.mutable_time() = ToTimestamp(now);
    const JobKey key = JobKeyOf(name);
    const Job* job = core.FindJob(key);
    if (job == nullptr) return answer->Answer(std::move(explanation));
    for (const WaitReason& reason : core.Explain(*job, now)) {
      auto& cause = *explanation.add_causes();
      cause.set_code(CauseCode(reason.code));
      cause.set_message(reason.text);
      absl::StrAppend(explanation.mutable_text(), explanation.text().empty() ? "" : "; ",
                      reason.text);
    }
    const Funnel funnel = Measure(core.cluster(), job->request.gang);
    const auto step = [&](absl::string_view demand, int64_t nodes, int64_t devices) {
      auto& one = *explanation.add_funnel();
      one.set_demand(std::string(demand));
      one.set_nodes(nodes);
      one.set_devices(devices);
    };
    step("all nodes", funnel.nodes, 0);
    step("labels, taints, device kind and memory", funnel.nodes_matching, funnel.devices_matching);
    step("takes jobs", funnel.nodes_schedulable, funnel.devices_schedulable);
    step("free", funnel.nodes_schedulable, funnel.devices_free);
    for (const Job* ahead : core.Waiting()) {
      if (ahead->request.key == key) break;
      // Foreign jobs are counted, never named.
      if (call->identity->RoleIn(ahead->request.workspace) >= rpc::Role::kViewer) {
        if (explanation.jobs_ahead_size() < 20) {
          explanation.add_jobs_ahead(JobNameOf(ahead->request.key));
        }
      } else {
        explanation.set_foreign_jobs_ahead(explanation.foreign_jobs_ahead() + 1);
        explanation.set_foreign_devices_ahead(explanation.foreign_devices_ahead() +
                                              ahead->request.gang.layout.world());
      }
    }
    answer->Answer(std::move(explanation));
  });
}

}  // namespace graft::scheduler
