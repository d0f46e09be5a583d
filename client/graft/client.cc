#include "client/graft/client.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/file.h"
#include "base/status_macros.h"

namespace graft::client {
namespace {

absl::Time FromProto(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

}  // namespace

Client::Client(Context context)
    : context_(std::move(context)), tokens_(clock_, [this] { return Exchange(); }) {}

absl::StatusOr<std::unique_ptr<Client>> Client::Connect(const Context& context) {
  std::unique_ptr<Client> client(new Client(context));
  GRAFT_RETURN_IF_ERROR(client->Dial());
  return client;
}

rpc::DialOptions Client::OptionsFor(const std::string& address) const {
  rpc::DialOptions options;
  options.address = address;
  options.insecure = context_.insecure;
  options.server_ca = server_ca_;
  options.client_certificate = certificate_;
  options.client_key = key_;
  return options;
}

absl::Status Client::Dial() {
  if (!context_.ca_file.empty()) {
    GRAFT_ASSIGN_OR_RETURN(server_ca_, ReadFile(context_.ca_file, 1 << 20));
  }
  if (!context_.certificate_file.empty()) {
    GRAFT_ASSIGN_OR_RETURN(certificate_, ReadFile(context_.certificate_file, 1 << 20));
    GRAFT_ASSIGN_OR_RETURN(key_, ReadFile(context_.key_file, 1 << 20));
  }
  rpc::DialOptions options = OptionsFor(context_.address);
  GRAFT_ASSIGN_OR_RETURN(exchange_connection_, rpc::Connection::Dial(options));
  exchange_ = v1::AuthService::NewStub(exchange_connection_->channel());
  if (!context_.token.empty()) options.tokens = &tokens_;
  GRAFT_ASSIGN_OR_RETURN(connection_, rpc::Connection::Dial(options));
  auth_ = v1::AuthService::NewStub(connection_->channel());
  access_ = v1::AccessService::NewStub(connection_->channel());
  jobs_ = v1::JobService::NewStub(connection_->channel());
  models_ = v1::ModelService::NewStub(connection_->channel());
  nodes_ = v1::NodeService::NewStub(connection_->channel());
  queues_ = v1::QueueService::NewStub(connection_->channel());
  workspaces_ = v1::WorkspaceService::NewStub(connection_->channel());
  inference_ = v1::InferenceService::NewStub(connection_->channel());
  server_ = v1::ServerService::NewStub(connection_->channel());
  return absl::OkStatus();
}

absl::StatusOr<rpc::AccessToken> Client::Exchange() {
  v1::ExchangeRequest request;
  request.set_token(context_.token);
  GRAFT_ASSIGN_OR_RETURN(
      const v1::ExchangeResponse response,
      exchange_connection_->Call<v1::ExchangeResponse>(*exchange_, &v1::AuthService::Stub::Exchange,
                                                       request, {.idempotent = true}));
  // The server's clock may differ from ours: its life counts, not its end.
  absl::Duration life = FromProto(response.expire_time()) - absl::Now();
  if (life < absl::Minutes(1)) life = absl::Minutes(1);
  return rpc::AccessToken{.token = response.access_token(), .expires = clock_.Now() + life};
}

std::string Client::workspace() const { return absl::StrCat("workspaces/", context_.workspace); }

std::string Client::Name(absl::string_view collection, absl::string_view written) const {
  if (absl::StartsWith(written, "workspaces/")) return std::string(written);
  const std::vector<std::string> parts = absl::StrSplit(written, '/');
  if (parts.size() == 2)
    return absl::StrCat("workspaces/", parts[0], "/", collection, "/", parts[1]);
  return absl::StrCat(workspace(), "/", collection, "/", written);
}

absl::StatusOr<std::string> Client::FileserviceAddress() {
  if (!fileservice_address_.empty()) return fileservice_address_;
  GRAFT_ASSIGN_OR_RETURN(const v1::ServerInfo info,
                         Call<v1::ServerInfo>(*server_, &v1::ServerService::Stub::GetServerInfo,
                                              v1::GetServerInfoRequest(), {.idempotent = true}));
  if (info.fileservice_address().empty()) {
    return absl::FailedPreconditionError(
        "the scheduler names no fileservice; its configuration lacks fileservice_address");
  }
  return fileservice_address_ = info.fileservice_address();
}

absl::StatusOr<fileservice::Client*> Client::Files() {
  MutexLock lock(mu_);
  if (files_ != nullptr) return files_.get();
  fileservice::Client::Options options;
  GRAFT_ASSIGN_OR_RETURN(options.address, FileserviceAddress());
  options.insecure = context_.insecure;
  options.root_certificates = server_ca_;
  options.client_certificate = certificate_;
  options.client_key = key_;
  if (!context_.token.empty()) options.token = [this] { return tokens_.Get(); };
  GRAFT_ASSIGN_OR_RETURN(files_, fileservice::Client::Connect(std::move(options)));
  return files_.get();
}

absl::StatusOr<rpc::Connection*> Client::FilesConnection() {
  MutexLock lock(mu_);
  if (files_connection_ != nullptr) return files_connection_.get();
  GRAFT_ASSIGN_OR_RETURN(const std::string address, FileserviceAddress());
  rpc::DialOptions options = OptionsFor(address);
  if (!context_.token.empty()) options.tokens = &tokens_;
  GRAFT_ASSIGN_OR_RETURN(files_connection_, rpc::Connection::Dial(options));
  return files_connection_.get();
}

}  // namespace graft::client
