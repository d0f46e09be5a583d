// The C++ client library: one connection to a scheduler and, on demand, its fileservice.
//
//   GRAFT_ASSIGN_OR_RETURN(const Context context, ResolveContext(""));
//   GRAFT_ASSIGN_OR_RETURN(const auto client, Client::Connect(context));
//   v1::GetJobRequest request;
//   request.set_name(client->Name("jobs", "tickets-v1"));
//   GRAFT_ASSIGN_OR_RETURN(const v1::Job job,
//                          client->Call<v1::Job>(client->jobs(), &v1::JobService::Stub::GetJob,
//                          request));
//
// The context's token is exchanged for access tokens of ten minutes, which are renewed by
// themselves. Thread-safe.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/clock.h"
#include "client/graft/context.h"
#include "fileservice/transfer/client.h"
#include "graft/v1/auth.grpc.pb.h"
#include "graft/v1/inference.grpc.pb.h"
#include "graft/v1/job.grpc.pb.h"
#include "graft/v1/model.grpc.pb.h"
#include "graft/v1/node.grpc.pb.h"
#include "graft/v1/queue.grpc.pb.h"
#include "graft/v1/server.grpc.pb.h"
#include "graft/v1/workspace.grpc.pb.h"
#include "rpc/client.h"

namespace graft::client {

class Client {
 public:
  // Connects lazily: an unreachable server is UNAVAILABLE at the first call.
  static absl::StatusOr<std::unique_ptr<Client>> Connect(const Context& context);

  const Context& context() const { return context_; }
  // "workspaces/default"
  std::string workspace() const;
  // A name as users write it, made whole: "x" is workspaces/{this}/{collection}/x, "w/x" is in
  // another workspace, and a whole name stays.
  std::string Name(absl::string_view collection, absl::string_view written) const;

  v1::AuthService::Stub& auth() { return *auth_; }
  v1::AccessService::Stub& access() { return *access_; }
  v1::JobService::Stub& jobs() { return *jobs_; }
  v1::ModelService::Stub& models() { return *models_; }
  v1::NodeService::Stub& nodes() { return *nodes_; }
  v1::QueueService::Stub& queues() { return *queues_; }
  v1::WorkspaceService::Stub& workspaces() { return *workspaces_; }
  v1::InferenceService::Stub& inference() { return *inference_; }
  v1::ServerService::Stub& server() { return *server_; }

  template <typename Response, typename Stub, typename Request>
  absl::StatusOr<Response> Call(Stub& stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request, rpc::CallOptions options = {}) {
    return connection_->Call<Response>(stub, method, request, options);
  }
  rpc::Connection& connection() { return *connection_; }

  // The fileservice that the scheduler names, with the same token.
  absl::StatusOr<fileservice::Client*> Files();
  // Its connection, for what the transfer library does not cover.
  absl::StatusOr<rpc::Connection*> FilesConnection();

 private:
  explicit Client(Context context);
  absl::Status Dial();
  rpc::DialOptions OptionsFor(const std::string& address) const;
  absl::StatusOr<rpc::AccessToken> Exchange();
  absl::StatusOr<std::string> FileserviceAddress() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const Context context_;
  RealClock clock_;
  std::string server_ca_, certificate_, key_;             // PEM
  std::unique_ptr<rpc::Connection> exchange_connection_;  // without a token
  rpc::TokenSource tokens_;
  std::unique_ptr<rpc::Connection> connection_;
  std::unique_ptr<v1::AuthService::Stub> exchange_;
  std::unique_ptr<v1::AuthService::Stub> auth_;
  std::unique_ptr<v1::AccessService::Stub> access_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  std::unique_ptr<v1::ModelService::Stub> models_;
  std::unique_ptr<v1::NodeService::Stub> nodes_;
  std::unique_ptr<v1::QueueService::Stub> queues_;
  std::unique_ptr<v1::WorkspaceService::Stub> workspaces_;
  std::unique_ptr<v1::InferenceService::Stub> inference_;
  std::unique_ptr<v1::ServerService::Stub> server_;
  Mutex mu_;
  std::string fileservice_address_ GRAFT_GUARDED_BY(mu_);
  std::unique_ptr<fileservice::Client> files_ GRAFT_GUARDED_BY(mu_);
  std::unique_ptr<rpc::Connection> files_connection_ GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::client
