#include "scheduler/service/workspace_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/log.h"
#include "graft/v1/job.pb.h"
#include "graft/v1/model.pb.h"
#include "rpc/status.h"
#include "scheduler/core/core.h"
#include "scheduler/service/bindings.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/lists.h"
#include "scheduler/service/names.h"
#include "scheduler/service/references.h"
#include "scheduler/service/standard.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::Empty;

std::string WorkspaceKey(absl::string_view id) { return absl::StrCat("workspace/", id); }
std::string ProjectKey(const std::vector<std::string>& ids) {
  return absl::StrCat("project/", ids[0], "/", ids[1]);
}

// What a workspace consists of besides jobs: kind of key, and the plural under which it is counted
// (empty: it goes with something that is).
constexpr std::pair<absl::string_view, absl::string_view> kContents[] = {
    {"adapter", "adapters"},  {"model", "models"},   {"template", "templates"},
    {"template.version", ""}, {"secret", "secrets"}, {"secret.value", ""},
    {"project", "projects"}};

int64_t CountUnder(Turn& turn, absl::string_view kind, absl::string_view workspace) {
  const auto records = turn.List(absl::StrCat(kind, "/", workspace, "/"));
  return records.ok() ? static_cast<int64_t>(records->size()) : 0;
}

// Live jobs and models of other workspaces that refer into this one.
std::vector<std::string> ForeignHolders(Turn& turn, const std::string& name) {
  const std::string inside = absl::StrCat(name, "/");
  std::vector<std::string> holders = LiveJobsThat(turn, [&](const v1::Job& job) {
    return !absl::StartsWith(job.name(), inside) && Mentions(job.resolved_spec(), name);
  });
  const auto models = turn.List("model/");
  for (const Record& record : models.ok() ? *models : std::vector<Record>()) {
    const auto model = ToResource<v1::Model>(record);
    if (!model.ok() || absl::StartsWith(model->name(), inside)) continue;
    if (absl::StartsWith(model->base_model(), inside)) holders.push_back(model->name());
  }
  return holders;
}

}  // namespace

void WorkspaceService::Bootstrap(Turn& turn) {
  if (Exists(turn, WorkspaceKey("default"))) return;
  v1::Workspace workspace;
  workspace.set_name("workspaces/default");
  workspace.set_state(v1::Workspace::STATE_ACTIVE);
  StampNew(workspace, turn.now(), "", "");
  PutResource(turn, WorkspaceKey("default"), workspace);
}

rpc::Service WorkspaceService::Bind() {
  rpc::Service service("graft.v1.WorkspaceService");
  service.Async("CreateWorkspace", this, &WorkspaceService::CreateWorkspace)
      .Unary("GetWorkspace", this, &WorkspaceService::GetWorkspace)
      .Unary("ListWorkspaces", this, &WorkspaceService::ListWorkspaces)
      .Async("UpdateWorkspace", this, &WorkspaceService::UpdateWorkspace)
      .Async("DeleteWorkspace", this, &WorkspaceService::DeleteWorkspace)
      .Async("CreateProject", this, &WorkspaceService::CreateProject)
      .Unary("GetProject", this, &WorkspaceService::GetProject)
      .Unary("ListProjects", this, &WorkspaceService::ListProjects)
      .Async("UpdateProject", this, &WorkspaceService::UpdateProject)
      .Async("DeleteProject", this, &WorkspaceService::DeleteProject);
  return service;
}

void WorkspaceService::CreateWorkspace(CallPtr call, const v1::CreateWorkspaceRequest& request,
                                       rpc::Responder<v1::Workspace> responder) {
  Mutate<v1::Workspace>(
      context_.control, std::move(responder),
      [call, request, uid = context_.random.Id(24)](Turn& turn) -> absl::StatusOr<v1::Workspace> {
        const std::string& id = request.workspace_id();
        GRAFT_RETURN_IF_ERROR(CheckId(id, "workspace_id"));
        v1::Workspace workspace = request.workspace();
        ClearOutputOnly(workspace);
        workspace.set_name(absl::StrCat("workspaces/", id));
        workspace.set_state(v1::Workspace::STATE_ACTIVE);
        return CreateIn(
            turn, *call, request, WorkspaceKey(id), workspace,
            {.uid = uid, .validate_only = request.validate_only(), .on_new = [&](Turn& now) {
               const std::string& subject = call->identity->subject;
               PutBinding(now, subject.substr(subject.find('/') + 1), id, rpc::Role::kAdmin);
             }});
      });
}

absl::StatusOr<v1::Workspace> WorkspaceService::GetWorkspace(
    const rpc::Call&, const v1::GetWorkspaceRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "workspaces/*"));
  return ReadResource<v1::Workspace>(context_.store, WorkspaceKey(ids[0]), request.name());
}

absl::StatusOr<v1::ListWorkspacesResponse> WorkspaceService::ListWorkspaces(
    const rpc::Call& call, const v1::ListWorkspacesRequest& request) {
  static const ListFields kFields{
      .filter = {{"name"}, {"state"}, {"labels"}, {"creator"}, {"create_time"}},
      .order = {"name", "create_time", "update_time"}};
  GRAFT_ASSIGN_OR_RETURN(
      auto page,
      ListResources<v1::Workspace>(context_.store, context_.page_tokens,
                                   QueryOf(call, request, "workspace/"), kFields, VisibleTo(call)));
  v1::ListWorkspacesResponse response;
  for (v1::Workspace& workspace : page.resources) {
    *response.add_workspaces() = std::move(workspace);
  }
  response.set_next_page_token(page.next_page_token);
  return response;
}

void WorkspaceService::UpdateWorkspace(CallPtr call, const v1::UpdateWorkspaceRequest& request,
                                       rpc::Responder<v1::Workspace> responder) {
  Mutate<v1::Workspace>(
      context_.control, std::move(responder),
      [call, request](Turn& turn) -> absl::StatusOr<v1::Workspace> {
        GRAFT_ASSIGN_OR_RETURN(const auto ids,
                               ParseName(request.workspace().name(), "workspaces/*"));
        GRAFT_ASSIGN_OR_RETURN(
            const v1::Workspace before,
            ReadResource<v1::Workspace>(turn, WorkspaceKey(ids[0]), request.workspace().name()));
        const auto check = [&](v1::Workspace& now) -> absl::Status {
          const bool same = now.has_storage_quota_bytes() == before.has_storage_quota_bytes() &&
                            now.storage_quota_bytes() == before.storage_quota_bytes();
          if (!same && call->identity->RoleInCluster() < rpc::Role::kOperator) {
            return rpc::ErrorBuilder(absl::StatusCode::kPermissionDenied,
                                     "storage_quota_bytes is set by operators of the cluster alone")
                .Reason("ROLE_MISSING")
                .Metadata("role", "operator")
                .Build();
          }
          if (now.storage_quota_bytes() >= 0) return absl::OkStatus();
          return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                                   "storage_quota_bytes is below 0")
              .Reason("FIELD_INVALID")
              .Field("workspace.storage_quota_bytes", "is below 0")
              .Build();
        };
        return UpdateIn<v1::Workspace>(turn, *call, WorkspaceKey(ids[0]), request.workspace(),
                                       request.update_mask(), check);
      });
}

// --- Deletion ---

void WorkspaceService::DeleteWorkspace(CallPtr call, const v1::DeleteWorkspaceRequest& request,
                                       rpc::Responder<v1::DeleteWorkspaceResponse> responder) {
  using Response = v1::DeleteWorkspaceResponse;
  Mutate<Response>(context_.control, std::move(responder),
                   [this, call, request](Turn& turn) -> absl::StatusOr<Response> {
                     const std::string& name = request.name();
                     GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "workspaces/*"));
                     Response response;
                     v1::Workspace& workspace = *response.mutable_workspace();
                     GRAFT_ASSIGN_OR_RETURN(
                         workspace, ReadResource<v1::Workspace>(turn, WorkspaceKey(ids[0]), name));
                     GRAFT_RETURN_IF_ERROR(CheckEtag(name, request.etag(), workspace.etag()));
                     int64_t inside = CountUnder(turn, "job", ids[0]);
                     if (inside > 0) (*response.mutable_counts())["jobs"] = inside;
                     for (const auto& [kind, plural] : kContents) {
                       const int64_t count = plural.empty() ? 0 : CountUnder(turn, kind, ids[0]);
                       if (count > 0) (*response.mutable_counts())[std::string(plural)] = count;
                       inside += count;
                     }
                     std::vector<std::string> holders = ForeignHolders(turn, name);
                     holders.resize(std::min(holders.size(), kMaxHolders));
                     for (const std::string& holder : holders) response.add_holders(holder);
                     if (request.validate_only()) return response;
                     if (ids[0] == "default") return InUse(name, {"the cluster itself"});
                     if (!holders.empty()) return InUse(name, holders);
                     if (inside > 0 && !request.force()) {
                       return InUse(name, {absl::StrCat(inside, " resources in it (set force)")});
                     }
                     if (workspace.state() != v1::Workspace::STATE_DELETING) {
                       workspace.set_state(v1::Workspace::STATE_DELETING);
                       workspace.set_message("its jobs are being ended");
                       StampUpdate(workspace, turn.now());
                       PutResource(turn, WorkspaceKey(ids[0]), workspace);
                       AuditCall(turn, *call, name);
                     }
                     (void)context_.background.Post([this, id = ids[0]] { Advance(id); });
                     return response;
                   });
}

void WorkspaceService::AdvanceDeletions() {
  ListRequest list{.prefix = "workspace/"};
  for (bool more = true; more;) {
    const auto page = context_.store.List(list);
    if (!page.ok()) return;
    for (const Record& record : page->records) {
      list.after = record.key;
      const auto workspace = ToResource<v1::Workspace>(record);
      if (!workspace.ok() || workspace->state() != v1::Workspace::STATE_DELETING) continue;
      Advance(record.key.substr(record.key.find('/') + 1));
    }
    more = page->more;
  }
}

namespace {

// Ends the jobs that live and erases those that are over. Whether none is left.
absl::StatusOr<bool> EraseJobs(Turn& turn, Store& store, const std::string& workspace) {
  GRAFT_ASSIGN_OR_RETURN(const auto records, turn.List(absl::StrCat("job/", workspace, "/")));
  bool none_left = true;
  for (const Record& record : records) {
    const JobKey key = record.key.substr(record.key.find('/') + 1);
    const Job* job = turn.core().FindJob(key);
    if (job != nullptr && !IsTerminal(job->state)) {
      (void)turn.Step(JobCommanded{key, JobVerb::kCancel, "its workspace is being deleted"});
      job = turn.core().FindJob(key);
    }
    // Steps of other jobs cannot be taken back: what fails here is tried again with the next round.
    const absl::StatusOr<v1::Job> body = ToResource<v1::Job>(record);
    const bool live = job != nullptr && !IsTerminal(job->state);
    if (live || !body.ok() || !EraseJob(turn, store, key, *body).ok()) none_left = false;
  }
  return none_left;
}

absl::Status EraseContents(Turn& turn, const std::string& workspace) {
  for (const auto& [kind, plural] : kContents) {
    GRAFT_ASSIGN_OR_RETURN(const auto records, turn.List(absl::StrCat(kind, "/", workspace, "/")));
    for (const Record& record : records) turn.Remove(Family::kRecords, record.key);
  }
  GRAFT_ASSIGN_OR_RETURN(const auto bindings, turn.List("binding/"));
  for (const Record& record : bindings) {
    const std::vector<std::string> parts = absl::StrSplit(record.key, '/');
    if (parts.size() == 3 && parts[2] == workspace) RemoveBinding(turn, parts[1], workspace);
  }
  return absl::OkStatus();
}

}  // namespace

void WorkspaceService::Advance(const std::string& workspace) {
  struct Round {
    Notification done;
    absl::Status status;
    bool empty = false;
  } round;
  context_.control.Submit({.work =
                               [&](Turn& turn) {
                                 const auto erased = EraseJobs(turn, context_.store, workspace);
                                 if (!erased.ok()) return erased.status();
                                 round.empty = *erased;
                                 return *erased ? EraseContents(turn, workspace) : absl::OkStatus();
                               },
                           .done =
                               [&](absl::Status status, int64_t) {
                                 round.status = std::move(status);
                                 round.done.Notify();
                               }});
  round.done.Wait();
  if (round.status.ok() && round.empty) {
    round.status = context_.files.DeleteFilesets(absl::StrCat("workspaces/", workspace));
  }
  // Where no fileservice is configured there are no files either.
  const bool gone = round.empty && (round.status.ok() || context_.fileservice_address.empty());
  if (!gone) {
    LOG_INFO("a workspace's deletion goes on later",
             {{"workspace", workspace}, {"why", round.status.message()}});
    return;
  }
  context_.control.Submit({.work = [workspace](Turn& turn) {
    turn.Remove(Family::kRecords, WorkspaceKey(workspace));
    turn.Emit({.type = "workspace.gone", .resource = absl::StrCat("workspaces/", workspace)});
    return absl::OkStatus();
  }});
}

// --- Projects ---

void WorkspaceService::CreateProject(CallPtr call, const v1::CreateProjectRequest& request,
                                     rpc::Responder<v1::Project> responder) {
  Mutate<v1::Project>(
      context_.control, std::move(responder),
      [call, request, uid = context_.random.Id(24)](Turn& turn) -> absl::StatusOr<v1::Project> {
        GRAFT_ASSIGN_OR_RETURN(auto ids, ParseName(request.parent(), "workspaces/*"));
        GRAFT_RETURN_IF_ERROR(CheckId(request.project_id(), "project_id"));
        GRAFT_RETURN_IF_ERROR(CheckWorkspaceOpen(turn, ids[0]));
        ids.push_back(request.project_id());
        v1::Project project = request.project();
        ClearOutputOnly(project);
        project.set_name(absl::StrCat(request.parent(), "/projects/", request.project_id()));
        return CreateIn(turn, *call, request, ProjectKey(ids), project, {.uid = uid});
      });
}

absl::StatusOr<v1::Project> WorkspaceService::GetProject(const rpc::Call&,
                                                         const v1::GetProjectRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "workspaces/*/projects/*"));
  return ReadResource<v1::Project>(context_.store, ProjectKey(ids), request.name());
}

absl::StatusOr<v1::ListProjectsResponse> WorkspaceService::ListProjects(
    const rpc::Call& call, const v1::ListProjectsRequest& request) {
  static const ListFields kFields{.filter = {{"name"}, {"labels"}, {"creator"}, {"create_time"}},
                                  .order = {"name", "create_time", "update_time"}};
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.parent(), "workspaces/*", true));
  GRAFT_ASSIGN_OR_RETURN(
      auto page, ListResources<v1::Project>(context_.store, context_.page_tokens,
                                            QueryOf(call, request, "project/", ids), kFields,
                                            VisibleTo(call)));
  v1::ListProjectsResponse response;
  for (v1::Project& project : page.resources) *response.add_projects() = std::move(project);
  response.set_next_page_token(page.next_page_token);
  return response;
}

void WorkspaceService::UpdateProject(CallPtr call, const v1::UpdateProjectRequest& request,
                                     rpc::Responder<v1::Project> responder) {
  Mutate<v1::Project>(context_.control, std::move(responder),
                      [call, request](Turn& turn) -> absl::StatusOr<v1::Project> {
                        GRAFT_ASSIGN_OR_RETURN(
                            const auto ids,
                            ParseName(request.project().name(), "workspaces/*/projects/*"));
                        return UpdateIn<v1::Project>(turn, *call, ProjectKey(ids),
                                                     request.project(), request.update_mask());
                      });
}

void WorkspaceService::DeleteProject(CallPtr call, const v1::DeleteProjectRequest& request,
                                     rpc::Responder<Empty> responder) {
  Mutate<Empty>(
      context_.control, std::move(responder), [call, request](Turn& turn) -> absl::StatusOr<Empty> {
        const std::string& name = request.name();
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "workspaces/*/projects/*"));
        const auto holders =
            LiveJobsThat(turn, [&](const v1::Job& job) { return job.project() == name; });
        if (!holders.empty()) return InUse(name, holders);
        GRAFT_RETURN_IF_ERROR(
            DeleteIn<v1::Project>(turn, *call, ProjectKey(ids), name, request.etag()).status());
        return Empty();
      });
}

}  // namespace graft::scheduler
