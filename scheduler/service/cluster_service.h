// graft.v1.NodeService, QueueService, WorkspaceService and ServerService.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "google/protobuf/empty.pb.h"
#include "graft/v1/node.pb.h"
#include "graft/v1/queue.pb.h"
#include "graft/v1/server.pb.h"
#include "graft/v1/workspace.pb.h"
#include "scheduler/service/mutate.h"

namespace graft::scheduler {

class ClusterService {
 public:
  explicit ClusterService(ServiceContext context)
      : context_(context), started_(context.clock.WallNow()) {}
  std::vector<rpc::Service> Bind();

  // Makes what is always there: workspaces/default, queues/default and queues/interactive.
  static absl::Status Bootstrap(Turn& turn);

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  absl::StatusOr<graft::v1::Node> GetNode(const rpc::Call& call,
                                          const graft::v1::GetNodeRequest& request);
  absl::StatusOr<graft::v1::ListNodesResponse> ListNodes(
      const rpc::Call& call, const graft::v1::ListNodesRequest& request);
  void CordonNode(CallPtr call, const graft::v1::CordonNodeRequest& request,
                  rpc::Responder<graft::v1::Node> responder);
  void UncordonNode(CallPtr call, const graft::v1::UncordonNodeRequest& request,
                    rpc::Responder<graft::v1::Node> responder);
  void DrainNode(CallPtr call, const graft::v1::DrainNodeRequest& request,
                 rpc::Responder<graft::v1::Node> responder);
  void DeleteNode(CallPtr call, const graft::v1::DeleteNodeRequest& request,
                  rpc::Responder<google::protobuf::Empty> responder);
  void CreateJoinToken(CallPtr call, const graft::v1::CreateJoinTokenRequest& request,
                       rpc::Responder<graft::v1::CreateJoinTokenResponse> responder);
  void CommandNode(CallPtr call, const std::string& name, NodeVerb verb, const std::string& why,
                   rpc::Responder<graft::v1::Node> responder);
  // The stored body with what the core's record says laid over it.
  absl::StatusOr<graft::v1::Node> ReadNode(const std::string& id, const rpc::Identity& who) const;

  absl::StatusOr<graft::v1::Queue> GetQueue(const rpc::Call& call,
                                            const graft::v1::GetQueueRequest& request);
  absl::StatusOr<graft::v1::ListQueuesResponse> ListQueues(
      const rpc::Call& call, const graft::v1::ListQueuesRequest& request);
  void CreateQueue(CallPtr call, const graft::v1::CreateQueueRequest& request,
                   rpc::Responder<graft::v1::Queue> responder);
  void UpdateQueue(CallPtr call, const graft::v1::UpdateQueueRequest& request,
                   rpc::Responder<graft::v1::Queue> responder);
  void ListQueueEntries(CallPtr call, const graft::v1::ListQueueEntriesRequest& request,
                        rpc::Responder<graft::v1::ListQueueEntriesResponse> responder);

  absl::StatusOr<graft::v1::Workspace> GetWorkspace(const rpc::Call& call,
                                                    const graft::v1::GetWorkspaceRequest& request);
  absl::StatusOr<graft::v1::ListWorkspacesResponse> ListWorkspaces(
      const rpc::Call& call, const graft::v1::ListWorkspacesRequest& request);
  void CreateWorkspace(CallPtr call, const graft::v1::CreateWorkspaceRequest& request,
                       rpc::Responder<graft::v1::Workspace> responder);

  absl::StatusOr<graft::v1::ServerInfo> GetServerInfo(
      const rpc::Call& call, const graft::v1::GetServerInfoRequest& request);

  const ServiceContext context_;
  const absl::Time started_;
};

}  // namespace graft::scheduler
