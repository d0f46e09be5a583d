// A worker that a test plays: it joins with a token of its own and says what the test lets it say.
//
//   TestWorker worker(server->channel());
//   worker.Register();
//   agent::SynchronizeResponse desired = worker.Sync();
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "graft/agent/v1/agent.grpc.pb.h"
#include "graft/v1/node.grpc.pb.h"
#include "gtest/gtest.h"
#include "rpc/status.h"

namespace graft::scheduler {

class TestWorker {
 public:
  // With one CPU device.
  explicit TestWorker(const std::shared_ptr<grpc::Channel>& channel, const std::string& id = "n0") {
    Connect(channel);
    request_.add_protocol_versions(1);
    request_.set_node_id(id);
    graft::v1::Device& device = *request_.mutable_inventory()->add_devices();
    device.set_kind(graft::v1::Device::KIND_CPU);
    device.set_health(graft::v1::Device::HEALTH_OK);
    device.set_uuid(absl::StrCat("cpu-", id, "-0"));
  }

  // To a scheduler that has started again.
  void Connect(const std::shared_ptr<grpc::Channel>& channel) {
    nodes_ = graft::v1::NodeService::NewStub(channel);
    agents_ = graft::agent::v1::AgentService::NewStub(channel);
  }
  // What it will say of itself when it registers.
  graft::agent::v1::RegisterRequest& introduction() { return request_; }
  // What it says with each Sync.
  graft::agent::v1::SynchronizeRequest& report() { return report_; }
  const graft::agent::v1::RegisterResponse& registered() const { return registered_; }
  graft::agent::v1::AgentService::Stub& stub() { return *agents_; }

  void Register() {
    if (request_.join_token().empty()) {
      grpc::ClientContext context;
      graft::v1::CreateJoinTokenResponse token;
      ASSERT_TRUE(nodes_->CreateJoinToken(&context, {}, &token).ok());
      request_.set_join_token(token.token());
    }
    ASSERT_THAT(TryRegister(), IsOk());
  }
  absl::Status TryRegister() {
    grpc::ClientContext context;
    graft::agent::v1::RegisterResponse response;
    const absl::Status status =
        rpc::FromGrpcStatus(agents_->Register(&context, request_, &response));
    if (!status.ok()) return status;
    registered_ = response;
    token_ = response.access_token();
    report_.set_node(response.node());
    report_.set_epoch(response.epoch());
    return status;
  }

  // Calls as this worker bear its token.
  void Sign(grpc::ClientContext& context) const {
    context.AddMetadata("authorization", "Bearer " + token_);
  }
  void UseToken(const std::string& token) { token_ = token; }

  absl::Status TrySync(graft::agent::v1::SynchronizeResponse& response) {
    grpc::ClientContext context;
    Sign(context);
    return rpc::FromGrpcStatus(agents_->Synchronize(&context, report_, &response));
  }
  // Reports no revision unless the test has set one, so that no call is held.
  graft::agent::v1::SynchronizeResponse Sync() {
    graft::agent::v1::SynchronizeResponse response;
    EXPECT_THAT(TrySync(response), IsOk());
    return response;
  }

 private:
  std::unique_ptr<graft::v1::NodeService::Stub> nodes_;
  std::unique_ptr<graft::agent::v1::AgentService::Stub> agents_;
  graft::agent::v1::RegisterRequest request_;
  graft::agent::v1::RegisterResponse registered_;
  graft::agent::v1::SynchronizeRequest report_;
  std::string token_;
};

}  // namespace graft::scheduler
