// Workers that benchmarks play in this process, over real gRPC.
#pragma once

#include <atomic>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/mutex.h"
#include "graft/agent/v1/agent.grpc.pb.h"
#include "graft/v1/node.grpc.pb.h"
#include "grpcpp/impl/codegen/client_callback.h"
#include "rpc/client.h"
#include "rpc/status.h"

namespace graft::scheduler {

// Registers a node with so many GPUs under `join_token`.
inline graft::agent::v1::RegisterResponse JoinAs(graft::agent::v1::AgentService::Stub& stub,
                                                 const std::string& join_token,
                                                 const std::string& node, int gpus) {
  graft::agent::v1::RegisterRequest request;
  request.add_protocol_versions(1);
  request.set_node_id(node);
  request.set_join_token(join_token);
  for (int i = 0; i < gpus; ++i) {
    graft::v1::Device& device = *request.mutable_inventory()->add_devices();
    device.set_index(i);
    device.set_kind(graft::v1::Device::KIND_CUDA);
    device.set_memory_bytes(int64_t{80} << 30);
    device.set_health(graft::v1::Device::HEALTH_OK);
  }
  grpc::ClientContext context;
  graft::agent::v1::RegisterResponse response;
  GRAFT_CHECK_OK(rpc::FromGrpcStatus(stub.Register(&context, request, &response)));
  return response;
}

inline std::string MakeJoinToken(rpc::Connection& connection, int uses) {
  const auto nodes = graft::v1::NodeService::NewStub(connection.channel());
  graft::v1::CreateJoinTokenRequest request;
  request.set_uses(uses);
  const auto token = connection.Call<graft::v1::CreateJoinTokenResponse>(
      *nodes, &graft::v1::NodeService::Stub::CreateJoinToken, request);
  GRAFT_CHECK_OK(token.status());
  return token->token();
}

// A worker of one GPU that reports every attempt as running as soon as it is told of it, and as
// ended in the call after.
class SimulatedWorker {
 public:
  explicit SimulatedWorker(rpc::Connection& connection)
      : stub_(graft::agent::v1::AgentService::NewStub(connection.channel())) {
    const auto joined = JoinAs(*stub_, MakeJoinToken(connection, 1), "n0", 1);
    token_ = joined.access_token();
    sync_.set_node(joined.node());
    sync_.set_epoch(joined.epoch());
  }

  // Returns when an attempt of `job` stands in the desired state.
  void WaitFor(const std::string& job) {
    for (;;) {
      const graft::agent::v1::SynchronizeResponse desired = Synchronize();
      for (const graft::agent::v1::DesiredAttempt& attempt : desired.attempts()) {
        if (absl::StartsWith(attempt.attempt(), job + "/")) return;
      }
    }
  }
  // Says that everything has failed for good, until nothing is desired any more.
  void EndAll() {
    while (sync_.attempts_size() > 0) {
      for (graft::agent::v1::ActualAttempt& attempt : *sync_.mutable_attempts()) {
        attempt.set_state(graft::agent::v1::ActualAttempt::STATE_FAILED);
        attempt.set_retryable(false);
      }
      Synchronize();
    }
  }

 private:
  graft::agent::v1::SynchronizeResponse Synchronize() {
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + token_);
    graft::agent::v1::SynchronizeResponse response;
    GRAFT_CHECK_OK(rpc::FromGrpcStatus(stub_->Synchronize(&context, sync_, &response)));
    sync_.set_revision(response.revision());
    graft::agent::v1::SynchronizeRequest next = sync_;
    next.clear_attempts();
    for (const graft::agent::v1::DesiredAttempt& wanted : response.attempts()) {
      graft::agent::v1::ActualAttempt& actual = *next.add_attempts();
      actual.set_attempt(wanted.attempt());
      actual.set_state(graft::agent::v1::ActualAttempt::STATE_RUNNING);
    }
    sync_ = std::move(next);
    return response;
  }
  std::unique_ptr<graft::agent::v1::AgentService::Stub> stub_;
  std::string token_;
  graft::agent::v1::SynchronizeRequest sync_;
};

// Nodes of 8 GPUs whose calls hang as a worker's do. A node that is told of an attempt says in its
// next call that it is over.
class SimulatedCluster {
 public:
  // `attempts`: how many WaitForAll waits for.
  SimulatedCluster(rpc::Connection& connection, int nodes, int attempts)
      : stub_(graft::agent::v1::AgentService::NewStub(connection.channel())), attempts_(attempts) {
    const std::string token = MakeJoinToken(connection, nodes);
    for (int i = 0; i < nodes; ++i) {
      const auto joined = JoinAs(*stub_, token, absl::StrCat("n", 1000 + i), 8);
      auto node = std::make_unique<Node>();
      node->token = joined.access_token();
      node->report.set_node(joined.node());
      node->report.set_epoch(joined.epoch());
      nodes_.push_back(std::move(node));
    }
    open_ = nodes;
    for (auto& node : nodes_) Call(*node);
  }

  void WaitForAll() { told_all_.Wait(); }
  // No node calls again; returns when the last call has ended.
  void Stop() {
    stopping_ = true;
    for (auto& node : nodes_) {
      MutexLock lock(node->mu);
      if (node->context != nullptr) node->context->TryCancel();
    }
    closed_.Wait();
  }

 private:
  struct Node {
    std::string token;
    graft::agent::v1::SynchronizeRequest report;
    graft::agent::v1::SynchronizeResponse desired;
    Mutex mu;
    std::unique_ptr<grpc::ClientContext> context GRAFT_GUARDED_BY(mu);
  };

  void Call(Node& node) {
    grpc::ClientContext* context = nullptr;
    {
      MutexLock lock(node.mu);
      node.context = std::make_unique<grpc::ClientContext>();
      context = node.context.get();
      context->AddMetadata("authorization", "Bearer " + node.token);
    }
    if (stopping_) context->TryCancel();
    stub_->async()->Synchronize(context, &node.report, &node.desired,
                                [this, &node](const grpc::Status& status) {
                                  if (stopping_) return Close();
                                  GRAFT_CHECK_OK(rpc::FromGrpcStatus(status));
                                  Answered(node);
                                  Call(node);
                                });
  }

  void Answered(Node& node) {
    node.report.set_revision(node.desired.revision());
    node.report.clear_attempts();
    for (const graft::agent::v1::DesiredAttempt& wanted : node.desired.attempts()) {
      Note(wanted.attempt());
      graft::agent::v1::ActualAttempt& actual = *node.report.add_attempts();
      actual.set_attempt(wanted.attempt());
      actual.set_state(graft::agent::v1::ActualAttempt::STATE_FAILED);
      actual.set_retryable(false);
    }
  }
  void Note(const std::string& attempt) {
    MutexLock lock(mu_);
    if (told_.insert(attempt).second && static_cast<int>(told_.size()) == attempts_) {
      told_all_.Notify();
    }
  }
  void Close() {
    if (--open_ == 0) closed_.Notify();
  }

  const std::unique_ptr<graft::agent::v1::AgentService::Stub> stub_;
  const int attempts_;
  std::vector<std::unique_ptr<Node>> nodes_;
  std::atomic<bool> stopping_{false};
  std::atomic<int> open_{0};
  Mutex mu_;
  std::set<std::string> told_ GRAFT_GUARDED_BY(mu_);
  Notification told_all_, closed_;
};

}  // namespace graft::scheduler
