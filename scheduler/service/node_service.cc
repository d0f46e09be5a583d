#include "scheduler/service/node_service.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "rpc/status.h"
#include "scheduler/core/core.h"
#include "scheduler/service/agent_convert.h"
#include "scheduler/service/lists.h"
#include "scheduler/service/names.h"
#include "scheduler/service/records.h"
#include "scheduler/service/standard.h"
#include "scheduler/service/watchers.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using google::protobuf::Empty;

constexpr absl::Duration kJoinTokenTtl = absl::Minutes(10);
constexpr absl::Duration kLongestJoinTokenTtl = absl::Hours(24);
constexpr int kMostJoinTokenUses = 10'000;
constexpr absl::string_view kBodyPrefix = "node/";

const ListFields& NodeFields() {
  static const ListFields fields{.filter = {{"name"},
                                            {"state"},
                                            {"labels"},
                                            {"taints"},
                                            {"topology.rack"},
                                            {"topology.spine"},
                                            {"devices.product"},
                                            {"cordon.by"}},
                                 .order = {"name", "create_time", "update_time", "state"}};
  return fields;
}

// "n" of "node/n", of "core.node/n" and of "core.holders/n".
std::string NodeOfKey(absl::string_view key) {
  for (absl::string_view prefix : {kBodyPrefix, kCoreNodePrefix, kCoreHoldersPrefix}) {
    if (absl::StartsWith(key, prefix)) return std::string(key.substr(prefix.size()));
  }
  return "";
}

// Of workspaces that the caller does not see, that they hold it and no more.
void ShowHolders(const std::vector<Holder>& holders, const rpc::Identity& who, v1::Node& node) {
  for (v1::Device& device : *node.mutable_devices()) {
    device.clear_attempt();
    for (const Holder& holder : holders) {
      const auto& held = holder.devices;
      if (!std::binary_search(held.begin(), held.end(), device.index())) continue;
      const std::string workspace = holder.job.substr(0, holder.job.find('/'));
      const bool seen = who.RoleInCluster() >= rpc::Role::kOperator ||
                        who.RoleIn(workspace) >= rpc::Role::kViewer;
      device.set_attempt(seen ? AttemptName(holder.job, holder.attempt) : "-");
    }
  }
}

void SetDrain(size_t attempts_left, absl::Time until, v1::Node& node) {
  node.mutable_drain()->set_state(attempts_left == 0 ? v1::Drain::STATE_DRAINED
                                                     : v1::Drain::STATE_DRAINING);
  node.mutable_drain()->set_attempts_left(static_cast<int>(attempts_left));
  if (until != absl::InfiniteFuture()) {
    *node.mutable_drain()->mutable_deadline() = ToTimestamp(until);
  }
}

}  // namespace

rpc::Service NodeService::Bind() {
  rpc::Service service("graft.v1.NodeService");
  service.Unary("GetNode", this, &NodeService::GetNode)
      .Unary("ListNodes", this, &NodeService::ListNodes)
      .Async("UpdateNode", this, &NodeService::UpdateNode)
      .Async("CordonNode", this, &NodeService::CordonNode)
      .Async("UncordonNode", this, &NodeService::UncordonNode)
      .Async("DrainNode", this, &NodeService::DrainNode)
      .Async("DeleteNode", this, &NodeService::DeleteNode)
      .Stream("WatchNodes", this, &NodeService::WatchNodes)
      .Async("CreateJoinToken", this, &NodeService::CreateJoinToken);
  return service;
}

absl::StatusOr<v1::Node> NodeService::ReadNode(const std::string& id,
                                               const rpc::Identity& who) const {
  const std::string name = absl::StrCat("nodes/", id);
  GRAFT_ASSIGN_OR_RETURN(v1::Node node,
                         ReadResource<v1::Node>(context_.store, absl::StrCat("node/", id), name));
  use_.Overlay(id, context_.clock.Now(), node);
  const auto record = context_.store.Get(Family::kRecords, absl::StrCat(kCoreNodePrefix, id));
  if (!record.ok()) return node;
  const auto decoded = DecodeNode(record->value);
  if (!decoded.ok()) return decoded.status();
  const NodeState& state = decoded->first;
  node.set_state(state.alive     ? v1::Node::STATE_READY
                 : state.leaving ? v1::Node::STATE_OFFLINE
                                 : v1::Node::STATE_LOST);
  if (state.leaving) {
    node.set_message(state.alive
                         ? "its worker shuts down or its allocation ends; what runs there moves"
                         : "its worker has shut down");
  }
  node.set_epoch(state.epoch);
  if (state.cordoned) node.mutable_cordon()->set_reason(state.why);
  const auto held = context_.store.Get(Family::kRecords, absl::StrCat(kCoreHoldersPrefix, id));
  std::vector<Holder> holders;
  if (held.ok()) {
    GRAFT_ASSIGN_OR_RETURN(holders, DecodeHolders(held->value));
  }
  ShowHolders(holders, who, node);
  if (state.draining || (state.alive && state.leaving)) {
    SetDrain(holders.size(), state.drain_until, node);
  }
  return node;
}

absl::StatusOr<v1::Node> NodeService::GetNode(const rpc::Call& call,
                                              const v1::GetNodeRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "nodes/*"));
  return ReadNode(ids[0], *call.identity);
}

absl::StatusOr<v1::ListNodesResponse> NodeService::ListNodes(const rpc::Call& call,
                                                             const v1::ListNodesRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(
      auto page,
      ListLoaded<v1::Node>(
          context_.store, context_.page_tokens, QueryOf(call, request, std::string(kBodyPrefix)),
          NodeFields(), [&](const Record& record) -> absl::StatusOr<MessagePtr> {
            GRAFT_ASSIGN_OR_RETURN(v1::Node node, ReadNode(NodeOfKey(record.key), *call.identity));
            return std::make_unique<v1::Node>(std::move(node));
          }));
  v1::ListNodesResponse response;
  for (v1::Node& node : page.resources) *response.add_nodes() = std::move(node);
  response.set_next_page_token(page.next_page_token);
  response.set_revision(page.revision);
  return response;
}

// The core decides by labels, taints and topology: it is told in the same turn.
void NodeService::UpdateNode(CallPtr call, const v1::UpdateNodeRequest& request,
                             rpc::Responder<v1::Node> responder) {
  Mutate<v1::Node>(
      context_.control, std::move(responder),
      [call, request](Turn& turn) -> absl::StatusOr<v1::Node> {
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.node().name(), "nodes/*"));
        GRAFT_ASSIGN_OR_RETURN(v1::Node node,
                               UpdateIn<v1::Node>(turn, *call, absl::StrCat(kBodyPrefix, ids[0]),
                                                  request.node(), request.update_mask()));
        const Node* known = turn.core().cluster().Find(ids[0]);
        if (known == nullptr) return node;
        NodeDescribed described{
            .node = ids[0], .rack = node.topology().rack(), .spine = node.topology().spine()};
        for (const auto& [label, value] : node.labels()) {
          described.labels[label] = value;
        }
        described.taints.assign(node.taints().begin(), node.taints().end());
        GRAFT_RETURN_IF_ERROR(turn.Step(described));
        return node;
      });
}

void NodeService::CommandNode(CallPtr call, const std::string& name, NodeVerb verb,
                              const std::string& why, absl::Duration timeout,
                              rpc::Responder<v1::Node> responder) {
  Mutate<v1::Node>(context_.control, std::move(responder),
                   [=](Turn& turn) -> absl::StatusOr<v1::Node> {
                     GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "nodes/*"));
                     const std::string key = absl::StrCat("node/", ids[0]);
                     GRAFT_ASSIGN_OR_RETURN(v1::Node node, ReadResource<v1::Node>(turn, key, name));
                     GRAFT_RETURN_IF_ERROR(turn.Step(NodeCommanded{ids[0], verb, why, timeout}));
                     node.clear_cordon();
                     node.clear_drain();
                     if (verb != NodeVerb::kUncordon) {
                       node.mutable_cordon()->set_by(call->identity->subject);
                       node.mutable_cordon()->set_reason(why);
                       *node.mutable_cordon()->mutable_time() = ToTimestamp(turn.now());
                     }
                     if (verb == NodeVerb::kDrain) {
                       const NodeState& drained = *turn.core().FindNode(ids[0]);
                       SetDrain(drained.jobs.size(), drained.drain_until, node);
                     }
                     *node.mutable_update_time() = ToTimestamp(turn.now());
                     PutResource(turn, key, node);
                     AuditCall(turn, *call, name, why);
                     return node;
                   });
}

void NodeService::CordonNode(CallPtr call, const v1::CordonNodeRequest& request,
                             rpc::Responder<v1::Node> responder) {
  CommandNode(std::move(call), request.name(), NodeVerb::kCordon, request.reason(),
              absl::InfiniteDuration(), std::move(responder));
}
void NodeService::UncordonNode(CallPtr call, const v1::UncordonNodeRequest& request,
                               rpc::Responder<v1::Node> responder) {
  CommandNode(std::move(call), request.name(), NodeVerb::kUncordon, "", absl::InfiniteDuration(),
              std::move(responder));
}
void NodeService::DrainNode(CallPtr call, const v1::DrainNodeRequest& request,
                            rpc::Responder<v1::Node> responder) {
  absl::Duration timeout = absl::InfiniteDuration();
  if (request.has_timeout()) {
    timeout =
        absl::Seconds(request.timeout().seconds()) + absl::Nanoseconds(request.timeout().nanos());
    if (timeout < absl::ZeroDuration()) {
      return responder.Answer(InvalidField("timeout", "must not be negative"));
    }
  }
  CommandNode(std::move(call), request.name(), NodeVerb::kDrain, request.reason(), timeout,
              std::move(responder));
}

void NodeService::DeleteNode(CallPtr call, const v1::DeleteNodeRequest& request,
                             rpc::Responder<Empty> responder) {
  Mutate<Empty>(
      context_.control, std::move(responder), [call, request](Turn& turn) -> absl::StatusOr<Empty> {
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "nodes/*"));
        const NodeState* state = turn.core().FindNode(ids[0]);
        if (state == nullptr) return NoSuchResource(request.name());
        GRAFT_ASSIGN_OR_RETURN(
            const v1::Node body,
            ReadResource<v1::Node>(turn, absl::StrCat(kBodyPrefix, ids[0]), request.name()));
        GRAFT_RETURN_IF_ERROR(CheckEtag(request.name(), request.etag(), body.etag()));
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

void NodeService::CreateJoinToken(CallPtr call, const v1::CreateJoinTokenRequest& request,
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

// --- Watch ---

struct NodeService::NodeWatch {
  rpc::Filter filter;
  int64_t revision = 0;
  bool snapshot_sent = false;
  absl::Time last_sent;
  std::set<std::string> shown;  // ids
};

absl::Status NodeService::SendNode(const rpc::Call& call, NodeWatch& watch, const std::string& id,
                                   bool snapshot, int64_t revision, NodeWriter& writer) {
  v1::WatchNodesResponse response;
  response.set_revision(revision);
  const absl::StatusOr<v1::Node> node = ReadNode(id, *call.identity);
  if (!node.ok() || !Matches(watch.filter, NodeFields(), *node)) {
    if (watch.shown.erase(id) == 0) return absl::OkStatus();
    response.set_type(v1::CHANGE_TYPE_DELETED);
    response.mutable_node()->set_name(absl::StrCat("nodes/", id));
    return writer.Write(std::move(response));
  }
  const bool is_new = watch.shown.insert(id).second;
  response.set_type(snapshot ? v1::CHANGE_TYPE_SNAPSHOT
                    : is_new ? v1::CHANGE_TYPE_CREATED
                             : v1::CHANGE_TYPE_UPDATED);
  *response.mutable_node() = *node;
  return writer.Write(std::move(response));
}

absl::Status NodeService::SendNews(const rpc::Call& call, NodeWatch& watch, NodeWriter& writer) {
  bool bookmark = context_.clock.Now() - watch.last_sent >= kBookmark;
  if (!watch.snapshot_sent) {
    if (watch.revision == 0) watch.revision = context_.store.revision();
    GRAFT_RETURN_IF_ERROR(ForEachRecord(context_.store, {.prefix = std::string(kBodyPrefix)},
                                        [&](const Record& record, int64_t revision) {
                                          return SendNode(call, watch, NodeOfKey(record.key), true,
                                                          revision, writer);
                                        }));
    watch.snapshot_sent = bookmark = true;
  }
  for (;;) {
    GRAFT_ASSIGN_OR_RETURN(const auto changes, ReadChanges(context_.store, watch.revision));
    if (changes.empty()) break;
    // Body and core's record of one node mostly change together: it is told once a round.
    std::map<std::string, int64_t> changed;
    for (const Change& change : changes) {
      watch.revision = change.revision;
      if (const std::string id = NodeOfKey(change.key); !id.empty()) changed[id] = change.revision;
    }
    for (const auto& [id, revision] : changed) {
      GRAFT_RETURN_IF_ERROR(SendNode(call, watch, id, false, revision, writer));
      watch.last_sent = context_.clock.Now();
    }
  }
  if (!bookmark) return absl::OkStatus();
  watch.last_sent = context_.clock.Now();
  v1::WatchNodesResponse response;
  response.set_type(v1::CHANGE_TYPE_BOOKMARK);
  response.set_revision(watch.revision);
  return writer.Write(std::move(response));
}

void NodeService::WatchNodes(CallPtr call, const v1::WatchNodesRequest& request,
                             std::shared_ptr<NodeWriter> writer) {
  auto filter = ParseFilter(request.filter(), NodeFields(), *v1::Node::descriptor());
  if (!filter.ok()) return writer->Finish(filter.status());
  // Shared with the watcher, which outlives this call.
  auto watch = std::make_shared<NodeWatch>(NodeWatch{.filter = *std::move(filter),
                                                     .revision = request.revision(),
                                                     .snapshot_sent = request.revision() != 0,
                                                     .last_sent = context_.clock.Now()});
  context_.watchers.Add([this, call, watch, writer]() -> bool {
    if (writer->closed()) return true;
    const absl::Status sent = SendNews(*call, *watch, *writer);
    if (sent.ok()) return false;
    writer->Finish(sent);
    return true;
  });
}

}  // namespace graft::scheduler
