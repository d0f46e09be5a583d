#include "scheduler/service/cluster_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/digest.h"
#include "rpc/status.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/names.h"
#include "scheduler/service/records.h"
#include "scheduler/service/resources.h"
#include "worker/spec/load.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::Empty;

constexpr absl::Duration kJoinTokenTtl = absl::Minutes(10);
constexpr absl::Duration kLongestJoinTokenTtl = absl::Hours(24);
constexpr int kMostJoinTokenUses = 10'000;

bool Everything(const Record&) { return true; }

// What the core decides with.
absl::Status StepQueue(Turn& turn, const v1::Queue& queue) {
  GRAFT_RETURN_IF_ERROR(
      turn.Step(QueuePut{{.name = queue.name().substr(std::string("queues/").size()),
                          .priority = queue.priority(),
                          .preempts = !queue.has_preempts() || queue.preempts()}}));
  for (const v1::Share& share : queue.shares()) {
    GRAFT_RETURN_IF_ERROR(
        turn.Step(QuotaPut{share.workspace().substr(std::string("workspaces/").size()),
                           share.has_quota() ? share.quota() + share.borrow_limit() : -1}));
  }
  return absl::OkStatus();
}

absl::Status CheckShares(const v1::Queue& queue) {
  for (const v1::Share& share : queue.shares()) {
    GRAFT_RETURN_IF_ERROR(ParseName(share.workspace(), "workspaces/*").status());
  }
  return absl::OkStatus();
}

}  // namespace

std::vector<rpc::Service> ClusterService::Bind() {
  std::vector<rpc::Service> services;
  services.emplace_back("graft.v1.NodeService")
      .Unary("GetNode", this, &ClusterService::GetNode)
      .Unary("ListNodes", this, &ClusterService::ListNodes)
      .Async("CordonNode", this, &ClusterService::CordonNode)
      .Async("UncordonNode", this, &ClusterService::UncordonNode)
      .Async("DrainNode", this, &ClusterService::DrainNode)
      .Async("DeleteNode", this, &ClusterService::DeleteNode)
      .Async("CreateJoinToken", this, &ClusterService::CreateJoinToken);
  services.emplace_back("graft.v1.QueueService")
      .Unary("GetQueue", this, &ClusterService::GetQueue)
      .Unary("ListQueues", this, &ClusterService::ListQueues)
      .Async("CreateQueue", this, &ClusterService::CreateQueue)
      .Async("UpdateQueue", this, &ClusterService::UpdateQueue)
      .Async("ListQueueEntries", this, &ClusterService::ListQueueEntries);
  services.emplace_back("graft.v1.WorkspaceService")
      .Unary("GetWorkspace", this, &ClusterService::GetWorkspace)
      .Unary("ListWorkspaces", this, &ClusterService::ListWorkspaces)
      .Async("CreateWorkspace", this, &ClusterService::CreateWorkspace);
  services.emplace_back("graft.v1.ServerService")
      .Unary("GetServerInfo", this, &ClusterService::GetServerInfo);
  return services;
}

absl::Status ClusterService::Bootstrap(Turn& turn) {
  if (!Exists(turn, "workspace/default")) {
    v1::Workspace workspace;
    workspace.set_name("workspaces/default");
    workspace.set_state(v1::Workspace::STATE_ACTIVE);
    *workspace.mutable_create_time() = ToTimestamp(turn.now());
    PutResource(turn, "workspace/default", workspace);
  }
  // Interactive sessions wait for a person.
  for (const auto& [id, priority] : {std::pair("default", 0), std::pair("interactive", 100)}) {
    const std::string key = absl::StrCat("queue/", id);
    if (Exists(turn, key)) continue;
    v1::Queue queue;
    queue.set_name(absl::StrCat("queues/", id));
    queue.set_state(v1::Queue::STATE_OPEN);
    queue.set_priority(priority);
    *queue.mutable_create_time() = ToTimestamp(turn.now());
    PutResource(turn, key, queue);
    GRAFT_RETURN_IF_ERROR(StepQueue(turn, queue));
  }
  return absl::OkStatus();
}

// --- Nodes ---

absl::StatusOr<v1::Node> ClusterService::ReadNode(const std::string& id,
                                                  const rpc::Identity& who) const {
  const std::string name = absl::StrCat("nodes/", id);
  GRAFT_ASSIGN_OR_RETURN(v1::Node node,
                         ReadResource<v1::Node>(context_.store, absl::StrCat("node/", id), name));
  const auto record = context_.store.Get(Family::kRecords, absl::StrCat(kCoreNodePrefix, id));
  if (!record.ok()) return node;
  const auto decoded = DecodeNode(record->value);
  if (!decoded.ok()) return decoded.status();
  const NodeState& state = decoded->first;
  node.set_state(state.alive ? v1::Node::STATE_READY : v1::Node::STATE_LOST);
  node.set_epoch(state.epoch);
  if (state.cordoned) node.mutable_cordon()->set_reason(state.why);
  if (state.draining) node.mutable_drain()->set_state(v1::Drain::STATE_DRAINING);
  if (who.RoleInCluster() < rpc::Role::kOperator) {
    for (v1::Device& device : *node.mutable_devices()) {
      if (!device.attempt().empty()) device.set_attempt("-");
    }
  }
  return node;
}

absl::StatusOr<v1::Node> ClusterService::GetNode(const rpc::Call& call,
                                                 const v1::GetNodeRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "nodes/*"));
  return ReadNode(ids[0], *call.identity);
}

absl::StatusOr<v1::ListNodesResponse> ClusterService::ListNodes(
    const rpc::Call& call, const v1::ListNodesRequest& request) {
  GRAFT_RETURN_IF_ERROR(NoFilters(request.filter(), request.order_by()));
  GRAFT_ASSIGN_OR_RETURN(
      const Page page,
      ReadPage(context_.store,
               {.prefix = "node/", .page_size = request.page_size(), .token = request.page_token()},
               Everything));
  v1::ListNodesResponse response;
  for (const Record& record : page.records) {
    absl::StatusOr<v1::Node> node =
        ReadNode(record.key.substr(std::string("node/").size()), *call.identity);
    if (node.ok()) *response.add_nodes() = *std::move(node);
  }
  response.set_next_page_token(page.next_token);
  response.set_revision(page.revision);
  return response;
}

void ClusterService::CommandNode(CallPtr call, const std::string& name, NodeVerb verb,
                                 const std::string& why, rpc::Responder<v1::Node> responder) {
  Mutate<v1::Node>(context_.control, std::move(responder),
                   [=, this](Turn& turn) -> absl::StatusOr<v1::Node> {
                     GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "nodes/*"));
                     const std::string key = absl::StrCat("node/", ids[0]);
                     GRAFT_ASSIGN_OR_RETURN(v1::Node node, ReadResource<v1::Node>(turn, key, name));
                     GRAFT_RETURN_IF_ERROR(turn.Step(NodeCommanded{ids[0], verb, why}));
                     node.clear_cordon();
                     node.clear_drain();
                     if (verb != NodeVerb::kUncordon) {
                       node.mutable_cordon()->set_by(call->identity->subject);
                       node.mutable_cordon()->set_reason(why);
                       *node.mutable_cordon()->mutable_time() = ToTimestamp(turn.now());
                     }
                     if (verb == NodeVerb::kDrain)
                       node.mutable_drain()->set_state(v1::Drain::STATE_DRAINING);
                     *node.mutable_update_time() = ToTimestamp(turn.now());
                     PutResource(turn, key, node);
                     AuditCall(turn, *call, name, why);
                     return node;
                   });
}

void ClusterService::CordonNode(CallPtr call, const v1::CordonNodeRequest& request,
                                rpc::Responder<v1::Node> responder) {
  CommandNode(std::move(call), request.name(), NodeVerb::kCordon, request.reason(),
              std::move(responder));
}
void ClusterService::UncordonNode(CallPtr call, const v1::UncordonNodeRequest& request,
                                  rpc::Responder<v1::Node> responder) {
  CommandNode(std::move(call), request.name(), NodeVerb::kUncordon, "", std::move(responder));
}
void ClusterService::DrainNode(CallPtr call, const v1::DrainNodeRequest& request,
                               rpc::Responder<v1::Node> responder) {
  CommandNode(std::move(call), request.name(), NodeVerb::kDrain, request.reason(),
              std::move(responder));
}

void ClusterService::DeleteNode(CallPtr call, const v1::DeleteNodeRequest& request,
                                rpc::Responder<Empty> responder) {
  Mutate<Empty>(
      context_.control, std::move(responder), [call, request](Turn& turn) -> absl::StatusOr<Empty> {
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "nodes/*"));
        const NodeState* state = turn.core().FindNode(ids[0]);
        if (state == nullptr) return NoSuchResource(request.name());
        if (state->alive) {
          return rpc::ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                                   absl::StrCat(request.name(), " is READY; stop its worker first"))
              .Reason("STATE_CONFLICT")
              .Build();
        }
        GRAFT_RETURN_IF_ERROR(turn.Step(NodeRemoved{ids[0]}));
        turn.Remove(Family::kRecords, absl::StrCat("node/", ids[0]));
        turn.Remove(Family::kRecords, absl::StrCat("node.credential/", ids[0]));
        AuditCall(turn, *call, request.name());
        return Empty();
      });
}

void ClusterService::CreateJoinToken(CallPtr call, const v1::CreateJoinTokenRequest& request,
                                     rpc::Responder<v1::CreateJoinTokenResponse> responder) {
  absl::Duration ttl = absl::Seconds(request.ttl().seconds());
  if (ttl <= absl::ZeroDuration()) ttl = kJoinTokenTtl;
  ttl = std::min(ttl, kLongestJoinTokenTtl);
  const int uses = request.has_uses() ? std::clamp(request.uses(), 1, kMostJoinTokenUses) : 1;
  const std::string token =
      absl::StrCat("graft_join_", absl::WebSafeBase64Escape(context_.random.Bytes(32)));
  Mutate<v1::CreateJoinTokenResponse>(
      context_.control, std::move(responder),
      [=, node = request.node_id()](Turn& turn) -> absl::StatusOr<v1::CreateJoinTokenResponse> {
        const absl::Time expires = turn.now() + ttl;
        turn.Put(Family::kRecords, absl::StrCat("join.token/", Sha256::HexOf(token)),
                 absl::StrCat(absl::ToUnixSeconds(expires), "\n", uses, "\n", node));
        AuditCall(turn, *call, "joinTokens", node);
        v1::CreateJoinTokenResponse response;
        response.set_token(token);
        *response.mutable_expire_time() = ToTimestamp(expires);
        return response;
      });
}

// --- Queues ---

absl::StatusOr<v1::Queue> ClusterService::GetQueue(const rpc::Call&,
                                                   const v1::GetQueueRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "queues/*"));
  return ReadResource<v1::Queue>(context_.store, absl::StrCat("queue/", ids[0]), request.name());
}

absl::StatusOr<v1::ListQueuesResponse> ClusterService::ListQueues(
    const rpc::Call&, const v1::ListQueuesRequest& request) {
  GRAFT_RETURN_IF_ERROR(NoFilters(request.filter(), ""));
  GRAFT_ASSIGN_OR_RETURN(const Page page, ReadPage(context_.store,
                                                   {.prefix = "queue/",
                                                    .page_size = request.page_size(),
                                                    .token = request.page_token()},
                                                   Everything));
  v1::ListQueuesResponse response;
  for (const Record& record : page.records) {
    GRAFT_ASSIGN_OR_RETURN(*response.add_queues(), ToResource<v1::Queue>(record));
  }
  response.set_next_page_token(page.next_token);
  return response;
}

void ClusterService::CreateQueue(CallPtr call, const v1::CreateQueueRequest& request,
                                 rpc::Responder<v1::Queue> responder) {
  Mutate<v1::Queue>(context_.control, std::move(responder),
                    [call, request](Turn& turn) -> absl::StatusOr<v1::Queue> {
                      GRAFT_RETURN_IF_ERROR(CheckId(request.queue_id(), "queue_id"));
                      const std::string key = absl::StrCat("queue/", request.queue_id());
                      v1::Queue queue = request.queue();
                      GRAFT_ASSIGN_OR_RETURN(const bool replayed,
                                             Replay(turn, call->identity->subject, call->method,
                                                    request.request_id(), request, queue));
                      if (replayed) return queue;
                      queue.set_name(absl::StrCat("queues/", request.queue_id()));
                      if (Exists(turn, key)) return ResourceExists(queue.name());
                      GRAFT_RETURN_IF_ERROR(CheckShares(queue));
                      *queue.mutable_create_time() = ToTimestamp(turn.now());
                      *queue.mutable_update_time() = queue.create_time();
                      if (request.validate_only()) return queue;
                      PutResource(turn, key, queue);
                      RememberRequest(turn, call->identity->subject, call->method,
                                      request.request_id(), request, queue);
                      AuditCall(turn, *call, queue.name());
                      GRAFT_RETURN_IF_ERROR(StepQueue(turn, queue));
                      return queue;
                    });
}

void ClusterService::UpdateQueue(CallPtr call, const v1::UpdateQueueRequest& request,
                                 rpc::Responder<v1::Queue> responder) {
  Mutate<v1::Queue>(
      context_.control, std::move(responder),
      [call, request](Turn& turn) -> absl::StatusOr<v1::Queue> {
        const std::string& name = request.queue().name();
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "queues/*"));
        const std::string key = absl::StrCat("queue/", ids[0]);
        GRAFT_ASSIGN_OR_RETURN(v1::Queue queue, ReadResource<v1::Queue>(turn, key, name));
        GRAFT_RETURN_IF_ERROR(CheckEtag(name, request.queue().etag(), queue.etag()));
        GRAFT_RETURN_IF_ERROR(CheckShares(request.queue()));
        const google::protobuf::Timestamp created = queue.create_time();
        // The whole body is set; paths of the mask that are absent in it are cleared by their
        // absence.
        if (request.update_mask().paths().empty()) {
          queue.MergeFrom(request.queue());
        } else {
          const auto& reflection = *queue.GetReflection();
          for (const std::string& path : request.update_mask().paths()) {
            const auto* field = queue.GetDescriptor()->FindFieldByName(path);
            if (field == nullptr || path == "name" || path == "status") {
              return rpc::ErrorBuilder(
                         absl::StatusCode::kInvalidArgument,
                         absl::StrCat("update_mask names '", path, "', which cannot be set"))
                  .Reason("FIELD_MASK_INVALID")
                  .Metadata("path", path)
                  .Build();
            }
            v1::Queue from = request.queue();
            reflection.SwapFields(&queue, &from, {field});
          }
        }
        *queue.mutable_create_time() = created;
        *queue.mutable_update_time() = ToTimestamp(turn.now());
        if (request.validate_only()) return queue;
        PutResource(turn, key, queue);
        AuditCall(turn, *call, name);
        GRAFT_RETURN_IF_ERROR(StepQueue(turn, queue));
        return queue;
      });
}

void ClusterService::ListQueueEntries(CallPtr call, const v1::ListQueueEntriesRequest& request,
                                      rpc::Responder<v1::ListQueueEntriesResponse> responder) {
  const auto ids = ParseName(request.parent(), "queues/*");
  if (!ids.ok()) return responder.Answer(ids.status());
  auto answer =
      std::make_shared<rpc::Responder<v1::ListQueueEntriesResponse>>(std::move(responder));
  const int limit = request.page_size() > 0 ? std::min(request.page_size(), 1000) : 50;
  context_.control.Inspect([this, call, answer, limit, queue = (*ids)[0]](const Core& core) {
    v1::ListQueueEntriesResponse response;
    int64_t position = 0;
    for (const Job* job : core.Waiting()) {
      if (job->request.queue != queue) continue;
      ++position;
      if (response.entries_size() == limit) break;
      v1::QueueEntry& entry = *response.add_entries();
      if (call->identity->RoleIn(job->request.workspace) >= rpc::Role::kViewer) {
        entry.set_job(JobNameOf(job->request.key));
      }
      entry.set_position(position);
      entry.set_devices(job->request.gang.layout.world());
      entry.set_priority(job->request.priority);
      *entry.mutable_queued_time() = ToTimestamp(job->created);
      const auto reasons = core.Explain(*job, context_.clock.Now());
      if (!reasons.empty()) entry.set_cause(CauseCode(reasons[0].code));
    }
    answer->Answer(std::move(response));
  });
}

// --- Workspaces ---

absl::StatusOr<v1::Workspace> ClusterService::GetWorkspace(const rpc::Call&,
                                                           const v1::GetWorkspaceRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "workspaces/*"));
  return ReadResource<v1::Workspace>(context_.store, absl::StrCat("workspace/", ids[0]),
                                     request.name());
}

absl::StatusOr<v1::ListWorkspacesResponse> ClusterService::ListWorkspaces(
    const rpc::Call& call, const v1::ListWorkspacesRequest& request) {
  GRAFT_RETURN_IF_ERROR(NoFilters(request.filter(), request.order_by()));
  GRAFT_ASSIGN_OR_RETURN(
      const Page page,
      ReadPage(
          context_.store,
          {.prefix = "workspace/", .page_size = request.page_size(), .token = request.page_token()},
          [&](const Record& record) {
            return call.identity->RoleIn(record.key.substr(std::string("workspace/").size())) >=
                   rpc::Role::kViewer;
          }));
  v1::ListWorkspacesResponse response;
  for (const Record& record : page.records) {
    GRAFT_ASSIGN_OR_RETURN(*response.add_workspaces(), ToResource<v1::Workspace>(record));
  }
  response.set_next_page_token(page.next_token);
  return response;
}

void ClusterService::CreateWorkspace(CallPtr call, const v1::CreateWorkspaceRequest& request,
                                     rpc::Responder<v1::Workspace> responder) {
  Mutate<v1::Workspace>(
      context_.control, std::move(responder),
      [call, request, uid = context_.random.Id(24),
       binding = context_.random.Id(16)](Turn& turn) -> absl::StatusOr<v1::Workspace> {
        GRAFT_RETURN_IF_ERROR(CheckId(request.workspace_id(), "workspace_id"));
        const std::string key = absl::StrCat("workspace/", request.workspace_id());
        v1::Workspace workspace = request.workspace();
        GRAFT_ASSIGN_OR_RETURN(const bool replayed,
                               Replay(turn, call->identity->subject, call->method,
                                      request.request_id(), request, workspace));
        if (replayed) return workspace;
        workspace.set_name(absl::StrCat("workspaces/", request.workspace_id()));
        if (Exists(turn, key)) return ResourceExists(workspace.name());
        workspace.set_uid(uid);
        workspace.set_creator(call->identity->subject);
        workspace.set_state(v1::Workspace::STATE_ACTIVE);
        *workspace.mutable_create_time() = ToTimestamp(turn.now());
        *workspace.mutable_update_time() = workspace.create_time();
        if (request.validate_only()) return workspace;
        PutResource(turn, key, workspace);
        // "binding/{user}/{place}": the caller is its admin.
        const std::string user =
            call->identity->subject.substr(call->identity->subject.find('/') + 1);
        turn.Put(Family::kRecords, absl::StrCat("binding/", user, "/", request.workspace_id()),
                 absl::StrCat(static_cast<int>(rpc::Role::kAdmin)));
        RememberRequest(turn, call->identity->subject, call->method, request.request_id(), request,
                        workspace);
        AuditCall(turn, *call, workspace.name());
        return workspace;
      });
}

// --- The server ---

absl::StatusOr<v1::ServerInfo> ClusterService::GetServerInfo(const rpc::Call&,
                                                             const v1::GetServerInfoRequest&) {
  v1::ServerInfo info;
  info.set_program("scheduler");
  info.set_version(GRAFT_VERSION);
  info.set_cluster(context_.cluster);
  info.add_api_versions("v1");
  info.add_agent_versions(1);
  info.mutable_limits()->set_max_page_size(1000);
  info.mutable_limits()->set_max_message_bytes(16 << 20);
  info.mutable_limits()->set_request_id_ttl_s(24 * 3600);
  info.mutable_limits()->set_access_token_ttl_s(600);
  info.mutable_limits()->set_default_deadline_s(60);
  info.add_methods(v1::METHOD_SFT);
  for (const std::string& family : spec::KnownFamilies()) info.add_model_families(family);
  info.set_fileservice_address(context_.fileservice_address);
  *info.mutable_start_time() = ToTimestamp(started_);
  *info.mutable_time() = ToTimestamp(context_.clock.WallNow());
  info.set_revision(context_.store.revision());
  return info;
}

}  // namespace graft::scheduler
