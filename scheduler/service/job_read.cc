// JobService: how jobs are read, listed, watched and waited for.
#include <algorithm>
#include <map>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "google/protobuf/util/field_mask_util.h"
#include "rpc/status.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/job_service.h"
#include "scheduler/service/lists.h"
#include "scheduler/service/names.h"
#include "scheduler/service/watchers.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::FieldMask;

constexpr absl::Duration kDefaultWait = absl::Seconds(30);
constexpr absl::Duration kLongestWait = absl::Minutes(5);
constexpr int kMaxBatch = 1000;

const ListFields& JobFields() {
  static const ListFields fields{.filter = {{"name"},
                                            {"status.state"},
                                            {"status.reason"},
                                            {"creator"},
                                            {"project"},
                                            {"labels"},
                                            {"create_time"},
                                            {"end_time", "status.end_time"},
                                            {"resolved_spec.model.base"},
                                            {"resolved_spec.resources.queue"},
                                            {"method", "resolved_spec.method"},
                                            {"tuning", "resolved_spec.tuning.type"}},
                                 .order = {"name", "create_time", "update_time", "status.state"}};
  return fields;
}

// What lists and watches of many show when nobody says otherwise.
void LeaveOutBulk(v1::Job& job) {
  job.clear_resolved_spec();
  job.clear_estimate();
  job.mutable_status()->clear_history();
  job.mutable_status()->clear_epochs();
}

void ShowOnly(const FieldMask& mask, bool bulk, v1::Job& job) {
  if (mask.paths().empty() && !bulk) return LeaveOutBulk(job);
  ApplyReadMask(mask, job);
}

}  // namespace

bool IsOver(v1::JobState state) {
  return state == v1::JOB_STATE_COMPLETED || state == v1::JOB_STATE_FAILED ||
         state == v1::JOB_STATE_CANCELLED;
}

absl::StatusOr<v1::Job> JobService::Read(const std::string& name) const {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, kJobName));
  GRAFT_ASSIGN_OR_RETURN(v1::Job job,
                         ReadResource<v1::Job>(context_.store, JobRecordKey(ids[0], ids[1]), name));
  Overlay(job);
  return job;
}

void JobService::Overlay(v1::Job& job) const {
  if (IsOver(job.status().state())) return;
  const JobKey key = JobKeyOf(job.name());
  progress_.Overlay(key, *job.mutable_status());
  places_.Overlay(key, *job.mutable_status());
}

absl::StatusOr<v1::Job> JobService::GetJob(const rpc::Call&, const v1::GetJobRequest& request) {
  GRAFT_RETURN_IF_ERROR(CheckReadMask(request.read_mask(), *v1::Job::descriptor()));
  GRAFT_ASSIGN_OR_RETURN(v1::Job job, Read(request.name()));
  ApplyReadMask(request.read_mask(), job);
  return job;
}

absl::StatusOr<v1::BatchGetJobsResponse> JobService::BatchGetJobs(
    const rpc::Call& call, const v1::BatchGetJobsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto parent, ParseName(request.parent(), "workspaces/*", true));
  GRAFT_RETURN_IF_ERROR(CheckReadMask(request.read_mask(), *v1::Job::descriptor()));
  if (request.names_size() > kMaxBatch) {
    return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                             absl::StrCat(request.names_size(), " names; at most ", kMaxBatch))
        .Reason("TOO_LARGE")
        .Field("names", "too many")
        .Build();
  }
  v1::BatchGetJobsResponse response;
  for (const std::string& name : request.names()) {
    GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, kJobName));
    if (parent[0] != "-" && ids[0] != parent[0]) {
      return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                               absl::StrCat(name, " is not in ", request.parent()))
          .Reason("NAME_INVALID")
          .Field("names", "of another workspace than parent")
          .Build();
    }
    GRAFT_RETURN_IF_ERROR(call.CheckWorkspace(ids[0]));
    GRAFT_ASSIGN_OR_RETURN(v1::Job job, Read(name));
    ApplyReadMask(request.read_mask(), job);
    *response.add_jobs() = std::move(job);
  }
  return response;
}

// Newest first goes along an index of creation times and reads no more than it shows; any other
// order, and deleted jobs among the others, cost a scan.
absl::StatusOr<v1::ListJobsResponse> JobService::ListJobs(const rpc::Call& call,
                                                          const v1::ListJobsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), "workspaces/*", true));
  GRAFT_RETURN_IF_ERROR(CheckReadMask(request.read_mask(), *v1::Job::descriptor()));
  const bool all = ids[0] == "-";
  const bool indexed = request.order_by().empty() && !request.show_deleted();
  ListQuery query =
      QueryOf(call, request, indexed ? (all ? "job.newest/" : "job.time/") : "job/", ids);
  if (!indexed && query.order_by.empty()) query.order_by = "create_time desc";
  if (request.show_deleted()) query.also_prefix = "job.deleted/";
  const auto load = [&](const Record& record) -> absl::StatusOr<MessagePtr> {
    const absl::optional<JobPlace> place = PlaceOfJob(record.key);
    if (!place.has_value() || (!all && place->workspace != ids[0])) return nullptr;
    if (all && call.identity->RoleIn(place->workspace) < rpc::Role::kViewer) return nullptr;
    auto job = std::make_unique<v1::Job>();
    if (indexed) {
      absl::StatusOr<v1::Job> read =
          ReadResource<v1::Job>(context_.store, JobRecordKey(place->workspace, place->job), "");
      if (!read.ok()) return nullptr;  // deleted since
      *job = *std::move(read);
    } else {
      GRAFT_ASSIGN_OR_RETURN(*job, ToResource<v1::Job>(record));
    }
    Overlay(*job);
    return job;
  };
  GRAFT_ASSIGN_OR_RETURN(auto page, ListLoaded<v1::Job>(context_.store, context_.page_tokens, query,
                                                        JobFields(), load));
  v1::ListJobsResponse response;
  for (v1::Job& job : page.resources) {
    ShowOnly(request.read_mask(), false, job);
    *response.add_jobs() = std::move(job);
  }
  response.set_next_page_token(page.next_page_token);
  response.set_revision(page.revision);
  return response;
}

// --- Watch ---

// What a watch of jobs remembers between two commits.
struct JobService::JobWatch {
  bool one = false;  // a single job, and not a workspace's
  bool all = false;  // every workspace in which the caller has a role
  std::string prefix;
  rpc::Filter filter;
  FieldMask mask;
  bool until_terminal = false;
  int64_t revision = 0;
  bool snapshot_sent = false;
  absl::Time last_sent;
  std::map<std::string, v1::JobState> shown;  // by record key
};

namespace {

v1::WatchJobsResponse Gone(const std::string& key, int64_t revision) {
  v1::WatchJobsResponse gone;
  gone.set_type(v1::CHANGE_TYPE_DELETED);
  const std::vector<std::string> parts = absl::StrSplit(key, '/');
  gone.mutable_job()->set_name(JobNameOf(absl::StrCat(parts[1], "/", parts[2])));
  gone.set_revision(revision);
  return gone;
}

}  // namespace

absl::Status JobService::SendJob(const rpc::Call& call, JobWatch& watch, const Record& record,
                                 bool snapshot, int64_t revision, JobWriter& writer) {
  const std::vector<std::string> parts = absl::StrSplit(record.key, '/');
  if (watch.all && call.identity->RoleIn(parts[1]) < rpc::Role::kViewer) return absl::OkStatus();
  if (watch.one && record.key != watch.prefix) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(v1::Job job, ToResource<v1::Job>(record));
  Overlay(job);
  const bool known = watch.shown.contains(record.key);
  if (!Matches(watch.filter, JobFields(), job)) {
    // It was there for the watcher and is no more.
    return watch.shown.erase(record.key) > 0 ? writer.Write(Gone(record.key, revision))
                                             : absl::OkStatus();
  }
  watch.shown[record.key] = job.status().state();
  v1::WatchJobsResponse response;
  response.set_type(snapshot             ? v1::CHANGE_TYPE_SNAPSHOT
                    : known || watch.one ? v1::CHANGE_TYPE_UPDATED
                                         : v1::CHANGE_TYPE_CREATED);
  ShowOnly(watch.mask, watch.one, job);
  *response.mutable_job() = std::move(job);
  response.set_revision(revision);
  return writer.Write(std::move(response));
}

absl::Status JobService::SendSnapshot(const rpc::Call& call, JobWatch& watch, JobWriter& writer) {
  // What changes between two pages comes as a change after the first page's revision.
  if (watch.revision == 0) watch.revision = context_.store.revision();
  GRAFT_RETURN_IF_ERROR(ForEachRecord(context_.store, {.prefix = watch.prefix},
                                      [&](const Record& record, int64_t revision) {
                                        return SendJob(call, watch, record, true, revision, writer);
                                      }));
  watch.snapshot_sent = true;
  return SendBookmark(watch, writer);
}

absl::Status JobService::SendBookmark(JobWatch& watch, JobWriter& writer) {
  watch.last_sent = context_.clock.Now();
  v1::WatchJobsResponse bookmark;
  bookmark.set_type(v1::CHANGE_TYPE_BOOKMARK);
  bookmark.set_revision(watch.revision);
  return writer.Write(std::move(bookmark));
}

absl::Status JobService::SendChanges(const rpc::Call& call, JobWatch& watch, JobWriter& writer) {
  for (;;) {
    GRAFT_ASSIGN_OR_RETURN(const auto changes, ReadChanges(context_.store, watch.revision));
    if (changes.empty()) break;
    for (const Change& change : changes) {
      watch.revision = change.revision;
      if (!absl::StartsWith(change.key, watch.prefix)) continue;
      watch.last_sent = context_.clock.Now();
      if (change.removed) {
        if (watch.shown.erase(change.key) == 0 && watch.all) continue;
        GRAFT_RETURN_IF_ERROR(writer.Write(Gone(change.key, change.revision)));
      } else if (const auto record = context_.store.Get(Family::kRecords, change.key);
                 record.ok()) {
        GRAFT_RETURN_IF_ERROR(SendJob(call, watch, *record, false, change.revision, writer));
      }
    }
  }
  const bool quiet = context_.clock.Now() - watch.last_sent >= kBookmark;
  return quiet ? SendBookmark(watch, writer) : absl::OkStatus();
}

void JobService::WatchJobs(CallPtr call, const v1::WatchJobsRequest& request,
                           std::shared_ptr<JobWriter> writer) {
  const bool one = absl::StrContains(request.parent(), "/jobs/");
  const auto ids = ParseName(request.parent(), one ? kJobName : "workspaces/*", !one);
  if (!ids.ok()) return writer->Finish(ids.status());
  auto filter = ParseFilter(request.filter(), JobFields(), *v1::Job::descriptor());
  if (!filter.ok()) return writer->Finish(filter.status());
  if (absl::Status mask = CheckReadMask(request.read_mask(), *v1::Job::descriptor()); !mask.ok()) {
    return writer->Finish(mask);
  }
  const bool all = !one && (*ids)[0] == "-";
  // Shared with the watcher, which outlives this call.
  auto watch =
      std::make_shared<JobWatch>(JobWatch{.one = one,
                                          .all = all,
                                          .prefix = all   ? "job/"
                                                    : one ? JobRecordKey((*ids)[0], (*ids)[1])
                                                          : absl::StrCat("job/", (*ids)[0], "/"),
                                          .filter = *std::move(filter),
                                          .mask = request.read_mask(),
                                          .until_terminal = request.until_terminal(),
                                          .revision = request.revision(),
                                          .snapshot_sent = request.revision() != 0,
                                          .last_sent = context_.clock.Now()});
  context_.watchers.Add([this, call, watch, writer]() -> bool {
    if (writer->closed()) return true;
    absl::Status sent = absl::OkStatus();
    if (!watch->snapshot_sent) sent = SendSnapshot(*call, *watch, *writer);
    if (sent.ok()) sent = SendChanges(*call, *watch, *writer);
    const bool over = std::all_of(watch->shown.begin(), watch->shown.end(),
                                  [](const auto& entry) { return IsOver(entry.second); });
    if (sent.ok() && !(watch->until_terminal && over)) return false;
    writer->Finish(sent);
    return true;
  });
}

// --- Wait ---

void JobService::WaitJob(CallPtr call, const v1::WaitJobRequest& request,
                         rpc::Responder<v1::WaitJobResponse> responder) {
  absl::Duration timeout =
      absl::Seconds(request.timeout().seconds()) + absl::Nanoseconds(request.timeout().nanos());
  if (timeout <= absl::ZeroDuration()) timeout = kDefaultWait;
  timeout = std::min(timeout, kLongestWait);
  struct State {
    explicit State(rpc::Responder<v1::WaitJobResponse> r) : responder(std::move(r)) {}
    // True for the first, who must answer.
    bool Claim() {
      MutexLock lock(mu);
      return !std::exchange(answered, true);
    }
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
    if (!state->Claim()) return true;
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
  context_.watchers.Add([look, state] {
    {
      MutexLock lock(state->mu);
      if (state->answered) return true;
    }
    return look(false);
  });
  context_.background.PostAt(context_.clock.Now() + timeout, [look] { (void)look(true); });
  call->OnShutdown([state](const absl::Status& status) {
    if (state->Claim()) state->responder.Answer(status);
  });
}

// --- What hangs on a job ---

namespace {

template <typename T>
LoadRecord DecodeAs() {
  return [](const Record& record) -> absl::StatusOr<MessagePtr> {
    auto resource = std::make_unique<T>();
    GRAFT_RETURN_IF_ERROR(DecodeResource(record.key, record.value, *resource));
    return resource;
  };
}

}  // namespace

absl::StatusOr<v1::ListAttemptsResponse> JobService::ListAttempts(
    const rpc::Call& call, const v1::ListAttemptsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), kJobName));
  GRAFT_RETURN_IF_ERROR(Read(request.parent()).status());
  GRAFT_ASSIGN_OR_RETURN(auto page, ListLoaded<v1::Attempt>(context_.store, context_.page_tokens,
                                                            QueryOf(call, request, "attempt/", ids),
                                                            {}, DecodeAs<v1::Attempt>()));
  v1::ListAttemptsResponse response;
  for (v1::Attempt& attempt : page.resources) *response.add_attempts() = std::move(attempt);
  response.set_next_page_token(page.next_page_token);
  return response;
}

absl::StatusOr<v1::ListCheckpointsResponse> JobService::ListCheckpoints(
    const rpc::Call& call, const v1::ListCheckpointsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), kJobName));
  GRAFT_RETURN_IF_ERROR(Read(request.parent()).status());
  GRAFT_ASSIGN_OR_RETURN(auto page,
                         ListLoaded<v1::Checkpoint>(context_.store, context_.page_tokens,
                                                    QueryOf(call, request, "checkpoint/", ids), {},
                                                    DecodeAs<v1::Checkpoint>()));
  v1::ListCheckpointsResponse response;
  for (v1::Checkpoint& one : page.resources) *response.add_checkpoints() = std::move(one);
  response.set_next_page_token(page.next_page_token);
  return response;
}

}  // namespace graft::scheduler
