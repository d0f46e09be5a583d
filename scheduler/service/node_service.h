// graft.v1.NodeService.
//
//   node/{n}   node.credential/{n}   join.token/{sha256}
#pragma once

#include <memory>
#include <string>

#include "google/protobuf/empty.pb.h"
#include "graft/v1/node.pb.h"
#include "scheduler/core/event.h"
#include "scheduler/service/mutate.h"
#include "scheduler/service/node_use.h"

namespace graft::scheduler {

class NodeService {
 public:
  NodeService(const ServiceContext& context, const NodeUseBoard& use)
      : context_(context), use_(use) {}
  rpc::Service Bind();

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  using NodeWriter = rpc::StreamWriter<graft::v1::WatchNodesResponse>;
  struct NodeWatch;

  absl::StatusOr<graft::v1::Node> GetNode(const rpc::Call& call,
                                          const graft::v1::GetNodeRequest& request);
  absl::StatusOr<graft::v1::ListNodesResponse> ListNodes(
      const rpc::Call& call, const graft::v1::ListNodesRequest& request);
  void UpdateNode(CallPtr call, const graft::v1::UpdateNodeRequest& request,
                  rpc::Responder<graft::v1::Node> responder);
  void CordonNode(CallPtr call, const graft::v1::CordonNodeRequest& request,
                  rpc::Responder<graft::v1::Node> responder);
  void UncordonNode(CallPtr call, const graft::v1::UncordonNodeRequest& request,
                    rpc::Responder<graft::v1::Node> responder);
  void DrainNode(CallPtr call, const graft::v1::DrainNodeRequest& request,
                 rpc::Responder<graft::v1::Node> responder);
  void DeleteNode(CallPtr call, const graft::v1::DeleteNodeRequest& request,
                  rpc::Responder<google::protobuf::Empty> responder);
  void WatchNodes(CallPtr call, const graft::v1::WatchNodesRequest& request,
                  std::shared_ptr<NodeWriter> writer);
  void CreateJoinToken(CallPtr call, const graft::v1::CreateJoinTokenRequest& request,
                       rpc::Responder<graft::v1::CreateJoinTokenResponse> responder);

  void CommandNode(CallPtr call, const std::string& name, NodeVerb verb, const std::string& why,
                   absl::Duration timeout, rpc::Responder<graft::v1::Node> responder);
  // The stored body with what the core's record says laid over it.
  absl::StatusOr<graft::v1::Node> ReadNode(const std::string& id, const rpc::Identity& who) const;
  absl::Status SendNode(const rpc::Call& call, NodeWatch& watch, const std::string& id,
                        bool snapshot, int64_t revision, NodeWriter& writer);
  absl::Status SendNews(const rpc::Call& call, NodeWatch& watch, NodeWriter& writer);

  const ServiceContext& context_;
  const NodeUseBoard& use_;
};

}  // namespace graft::scheduler
