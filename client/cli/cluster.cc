// graft node, graft workspace.
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/resources.h"

namespace graft::cli {

std::string NodeState(const Terminal& terminal, const v1::Node& node) {
  if (node.state() != v1::Node::STATE_READY) {
    return terminal.Paint(Style::kRed, WordOf(v1::Node::State_Name(node.state()), "STATE_"));
  }
  if (node.drain().state() == v1::Drain::STATE_DRAINING)
    return terminal.Paint(Style::kYellow, "draining");
  if (node.drain().state() == v1::Drain::STATE_DRAINED)
    return terminal.Paint(Style::kYellow, "drained");
  if (node.has_cordon()) return terminal.Paint(Style::kYellow, "cordoned");
  return terminal.Paint(Style::kGreen, "ready");
}

namespace {

std::string NodeTable(const Terminal& terminal, const std::vector<v1::Node>& nodes) {
  Table table({"NAME", "STATE", "DEVICES", "USED", "PRODUCT", "MEMORY", "CORES", "REASON"});
  for (size_t column : {2u, 3u, 6u}) table.AlignRight(column);
  for (const v1::Node& node : nodes) {
    int used = 0;
    for (const v1::Device& device : node.devices()) used += device.attempt().empty() ? 0 : 1;
    const bool any = node.devices_size() > 0;
    table.Add({ShortName(node.name()), NodeState(terminal, node), absl::StrCat(node.devices_size()),
               absl::StrCat(used), any ? Sanitize(node.devices(0).product()) : "-",
               any ? FormatBytes(node.devices(0).memory_bytes()) : "-",
               absl::StrCat(node.cpu_cores()),
               Sanitize(node.has_cordon() ? node.cordon().reason() : node.message())});
  }
  return table.Render(terminal);
}

absl::Status ListNodes(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft node list"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(std::vector<v1::Node> nodes, FetchNodes(*client));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Job> jobs, FetchLiveJobs(*client));
  GRAFT_RETURN_IF_ERROR(FillHolders(*client, jobs, nodes));
  return invocation.PrintList(Messages(nodes), [&] { return NodeTable(invocation.out, nodes); });
}

absl::StatusOr<std::string> NodeName(const Invocation& invocation) {
  GRAFT_ASSIGN_OR_RETURN(const std::string id, invocation.Word(0, "the NODE"));
  return id.rfind("nodes/", 0) == 0 ? id : absl::StrCat("nodes/", id);
}

absl::Status GetNode(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft node get NODE"));
  v1::GetNodeRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), NodeName(invocation));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const auto node,
                         client->Call<v1::Node>(client->nodes(), &v1::NodeService::Stub::GetNode,
                                                request, {.idempotent = true}));
  return invocation.Print(node, [&] { return NodeTable(invocation.out, {node}); });
}

template <typename Request>
absl::Status NodeVerb(Invocation& invocation, absl::string_view usage, bool with_reason,
                      grpc::Status (v1::NodeService::Stub::*method)(grpc::ClientContext*,
                                                                    const Request&, v1::Node*)) {
  std::string reason;
  if (with_reason) invocation.flags.String("reason", &reason, "TEXT", "why, for those who see it");
  constexpr bool kDrains = std::is_same_v<Request, v1::DrainNodeRequest>;
  int64_t timeout = -1;
  if (kDrains) {
    invocation.flags.Int("timeout", &timeout, "SECONDS",
                         "end what has left no checkpoint by then without one");
  }
  GRAFT_RETURN_IF_ERROR(invocation.Parse(usage));
  Request request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), NodeName(invocation));
  if constexpr (kDrains) {
    if (timeout >= 0) request.mutable_timeout()->set_seconds(timeout);
  }
  if constexpr (!std::is_same_v<Request, v1::UncordonNodeRequest>) request.set_reason(reason);
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const v1::Node node,
                         client->Call<v1::Node>(client->nodes(), method, request));
  return invocation.Print(node, [&] { return NodeTable(invocation.out, {node}); });
}

absl::Status CordonNode(Invocation& invocation) {
  return NodeVerb<v1::CordonNodeRequest>(invocation, "graft node cordon NODE [--reason TEXT]", true,
                                         &v1::NodeService::Stub::CordonNode);
}
absl::Status UncordonNode(Invocation& invocation) {
  return NodeVerb<v1::UncordonNodeRequest>(invocation, "graft node uncordon NODE", false,
                                           &v1::NodeService::Stub::UncordonNode);
}
absl::Status DrainNode(Invocation& invocation) {
  return NodeVerb<v1::DrainNodeRequest>(invocation,
                                        "graft node drain NODE [--reason TEXT] [--timeout SECONDS]",
                                        true, &v1::NodeService::Stub::DrainNode);
}

absl::Status JoinToken(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft node join-token [NODE]"));
  v1::CreateJoinTokenRequest request;
  if (invocation.word_count() > 0) request.set_node_id(invocation.flags.words()[0]);
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const auto response,
                         client->Call<v1::CreateJoinTokenResponse>(
                             client->nodes(), &v1::NodeService::Stub::CreateJoinToken, request));
  printf("%s\n", response.token().c_str());
  return absl::OkStatus();
}

absl::Status ListWorkspaces(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft workspace list"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::ListWorkspacesRequest request;
  GRAFT_ASSIGN_OR_RETURN(
      const std::vector<v1::Workspace> workspaces,
      AllPages(*client, client->workspaces(), &v1::WorkspaceService::Stub::ListWorkspaces,
               std::move(request), &v1::ListWorkspacesResponse::workspaces));
  return invocation.PrintList(Messages(workspaces), [&] {
    Table table({"NAME", "DESCRIPTION", "AGE"});
    for (const v1::Workspace& workspace : workspaces) {
      table.Add({ShortName(workspace.name()), Sanitize(workspace.description()),
                 AgeOf(workspace.create_time())});
    }
    return table.Render(invocation.out);
  });
}

absl::Status CreateWorkspace(Invocation& invocation) {
  std::string description;
  invocation.flags.String("description", &description, "TEXT", "what it is for");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft workspace create NAME"));
  v1::CreateWorkspaceRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_workspace_id(), invocation.Word(0, "the NAME"));
  request.mutable_workspace()->set_description(description);
  request.set_request_id(NewRequestId());
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const auto workspace,
                         client->Call<v1::Workspace>(client->workspaces(),
                                                     &v1::WorkspaceService::Stub::CreateWorkspace,
                                                     request, {.idempotent = true}));
  return invocation.Print(
      workspace, [&] { return absl::StrCat("workspace ", ShortName(workspace.name()), "\n"); });
}

absl::Status Version(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft version"));
  printf("graft %s\n", GRAFT_VERSION);
  const auto client = invocation.Connect();
  if (!client.ok()) return absl::OkStatus();
  const auto info =
      (*client)->Call<v1::ServerInfo>((*client)->server(), &v1::ServerService::Stub::GetServerInfo,
                                      v1::GetServerInfoRequest(), {.deadline = absl::Seconds(2)});
  if (info.ok()) {
    printf("server %s, cluster %s%s\n", Sanitize(info->version()).c_str(),
           Sanitize(info->cluster()).c_str(), info->fake_trainer() ? ", with a FAKE trainer" : "");
  }
  return absl::OkStatus();
}

}  // namespace

const std::vector<Command>& ClusterCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"node list", "the workers and their devices", ListNodes},
      {"node get", "one worker", GetNode},
      {"node cordon", "place nothing new on it", CordonNode},
      {"node uncordon", "place on it again", UncordonNode},
      {"node drain", "checkpoint and move what runs there", DrainNode},
      {"node join-token", "a token that a new worker registers with", JoinToken},
      {"workspace list", "the workspaces you may see", ListWorkspaces},
      {"workspace create", "make a workspace", CreateWorkspace},
      {"version", "of this program and of the server", Version},
  };
  return commands;
}

}  // namespace graft::cli
