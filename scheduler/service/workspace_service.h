// graft.v1.WorkspaceService: workspaces, the walls between tenants, and projects.
//
//   workspace/{w}   project/{w}/{p}
//
// A workspace is deleted in steps, each of which may be repeated: its jobs are cancelled and
// erased, its records removed, its filesets deleted, then it is gone itself. What is left to do is
// seen from what is still there, so that a restart goes on.
#pragma once

#include <memory>
#include <string>

#include "google/protobuf/empty.pb.h"
#include "graft/v1/workspace.pb.h"
#include "scheduler/service/mutate.h"

namespace graft::scheduler {

class WorkspaceService {
 public:
  explicit WorkspaceService(const ServiceContext& context) : context_(context) {}
  rpc::Service Bind();

  // Makes workspaces/default.
  static void Bootstrap(Turn& turn);

  // Goes on with every deletion under way. Blocking: on a thread of Background's.
  void AdvanceDeletions();

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  void CreateWorkspace(CallPtr call, const graft::v1::CreateWorkspaceRequest& request,
                       rpc::Responder<graft::v1::Workspace> responder);
  absl::StatusOr<graft::v1::Workspace> GetWorkspace(const rpc::Call& call,
                                                    const graft::v1::GetWorkspaceRequest& request);
  absl::StatusOr<graft::v1::ListWorkspacesResponse> ListWorkspaces(
      const rpc::Call& call, const graft::v1::ListWorkspacesRequest& request);
  void UpdateWorkspace(CallPtr call, const graft::v1::UpdateWorkspaceRequest& request,
                       rpc::Responder<graft::v1::Workspace> responder);
  void DeleteWorkspace(CallPtr call, const graft::v1::DeleteWorkspaceRequest& request,
                       rpc::Responder<graft::v1::DeleteWorkspaceResponse> responder);
  void CreateProject(CallPtr call, const graft::v1::CreateProjectRequest& request,
                     rpc::Responder<graft::v1::Project> responder);
  absl::StatusOr<graft::v1::Project> GetProject(const rpc::Call& call,
                                                const graft::v1::GetProjectRequest& request);
  absl::StatusOr<graft::v1::ListProjectsResponse> ListProjects(
      const rpc::Call& call, const graft::v1::ListProjectsRequest& request);
  void UpdateProject(CallPtr call, const graft::v1::UpdateProjectRequest& request,
                     rpc::Responder<graft::v1::Project> responder);
  void DeleteProject(CallPtr call, const graft::v1::DeleteProjectRequest& request,
                     rpc::Responder<google::protobuf::Empty> responder);

  void Advance(const std::string& workspace);

  const ServiceContext& context_;
};

}  // namespace graft::scheduler
