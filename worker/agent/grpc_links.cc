#include "worker/agent/grpc_links.h"

#include <thread>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "graft/agent/v1/agent.grpc.pb.h"
#include "rpc/client.h"
#include "rpc/status.h"

namespace graft::agent {
namespace {

void AttachToken(grpc::ClientContext& context, const std::string& token) {
  if (!token.empty()) context.AddMetadata("authorization", absl::StrCat("Bearer ", token));
}

// A call must not keep its thread after the scheduler has gone: streams have keep-alive, and a
// Synchronize has a deadline.
class GrpcEventStream final : public EventStream {
 public:
  GrpcEventStream(v1::AgentService::Stub& stub, const std::string& token, OnAck on_ack) {
    AttachToken(context_, token);
    stream_ = stub.PushEvents(&context_);
    reader_ = std::thread([this, on_ack = std::move(on_ack)] {
      v1::PushEventsResponse response;
      while (stream_->Read(&response)) on_ack(response);
      context_.TryCancel();
    });
  }
  ~GrpcEventStream() override {
    context_.TryCancel();
    reader_.join();
    stream_->Finish();
  }
  bool Write(const v1::PushEventsRequest& request) override { return stream_->Write(request); }
  void Cancel() override { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReaderWriter<v1::PushEventsRequest, v1::PushEventsResponse>> stream_;
  std::thread reader_;
};

class GrpcInferenceStream final : public InferenceStream {
 public:
  GrpcInferenceStream(v1::AgentService::Stub& stub, const std::string& token,
                      SchedulerLink::OnInference on_command,
                      std::function<void(absl::Status)> on_end) {
    AttachToken(context_, token);
    stream_ = stub.ServeInference(&context_);
    reader_ = std::thread([this, on_command = std::move(on_command), on_end = std::move(on_end)] {
      v1::ServeInferenceResponse response;
      while (stream_->Read(&response)) on_command(response);
      context_.TryCancel();
      on_end(rpc::FromGrpcStatus(stream_->Finish()));
    });
  }
  ~GrpcInferenceStream() override {
    context_.TryCancel();
    reader_.join();
  }
  bool Write(const v1::ServeInferenceRequest& request) override {
    MutexLock lock(mu_);
    return stream_->Write(request);
  }
  void Cancel() override { context_.TryCancel(); }

 private:
  grpc::ClientContext context_;
  Mutex mu_;  // one writer at a time
  std::unique_ptr<grpc::ClientReaderWriter<v1::ServeInferenceRequest, v1::ServeInferenceResponse>>
      stream_;
  std::thread reader_;
};

// One Synchronize in flight.
struct SynchronizeCall {
  grpc::ClientContext context;
  v1::SynchronizeRequest request;
  v1::SynchronizeResponse response;
  SchedulerLink::OnSynchronized done;
};

}  // namespace

struct GrpcSchedulerLink::State {
  Mutex mu;
  std::string token GRAFT_GUARDED_BY(mu);
  std::unique_ptr<rpc::Connection> connection;
  std::unique_ptr<v1::AgentService::Stub> stub;
  // Mostly one; an older one is open until the scheduler has seen the newer.
  absl::flat_hash_set<std::shared_ptr<SynchronizeCall>> open GRAFT_GUARDED_BY(mu);
  CondVar idle;
};

absl::StatusOr<std::unique_ptr<GrpcSchedulerLink>> GrpcSchedulerLink::Connect(
    const SchedulerAddress& address) {
  auto state = std::make_unique<State>();
  GRAFT_ASSIGN_OR_RETURN(state->connection,
                         rpc::Connection::Dial({.address = address.address,
                                                .insecure = address.insecure,
                                                .server_ca = address.server_ca,
                                                .client_certificate = address.client_certificate,
                                                .client_key = address.client_key}));
  state->stub = v1::AgentService::NewStub(state->connection->channel());
  return std::unique_ptr<GrpcSchedulerLink>(new GrpcSchedulerLink(std::move(state)));
}

GrpcSchedulerLink::GrpcSchedulerLink(std::unique_ptr<State> state) : state_(std::move(state)) {}

GrpcSchedulerLink::~GrpcSchedulerLink() {
  CancelSynchronize();
  MutexLock lock(state_->mu);
  while (!state_->open.empty()) state_->idle.Wait(state_->mu);
}

void GrpcSchedulerLink::SetAccessToken(const std::string& token) {
  MutexLock lock(state_->mu);
  state_->token = token;
}

std::string GrpcSchedulerLink::Token() {
  MutexLock lock(state_->mu);
  return state_->token;
}

absl::StatusOr<v1::RegisterResponse> GrpcSchedulerLink::Register(const v1::RegisterRequest& request,
                                                                 absl::Duration deadline) {
  return state_->connection->Call<v1::RegisterResponse>(
      *state_->stub, &v1::AgentService::Stub::Register, request, {.deadline = deadline});
}

void GrpcSchedulerLink::Synchronize(const v1::SynchronizeRequest& request, absl::Duration deadline,
                                    OnSynchronized done) {
  auto call = std::make_shared<SynchronizeCall>();
  call->request = request;
  call->done = std::move(done);
  call->context.set_deadline(absl::ToChronoTime(absl::Now() + deadline));
  {
    MutexLock lock(state_->mu);
    state_->open.insert(call);
    AttachToken(call->context, state_->token);
  }
  state_->stub->async()->Synchronize(&call->context, &call->request, &call->response,
                                     [this, call](grpc::Status status) {
                                       if (status.ok()) {
                                         call->done(std::move(call->response));
                                       } else {
                                         call->done(rpc::FromGrpcStatus(status));
                                       }
                                       MutexLock lock(state_->mu);
                                       state_->open.erase(call);
                                       if (state_->open.empty()) state_->idle.SignalAll();
                                     });
}

void GrpcSchedulerLink::CancelSynchronize() {
  MutexLock lock(state_->mu);
  for (const auto& call : state_->open) call->context.TryCancel();
}

std::unique_ptr<EventStream> GrpcSchedulerLink::OpenEvents(EventStream::OnAck on_ack) {
  return std::make_unique<GrpcEventStream>(*state_->stub, Token(), std::move(on_ack));
}

std::unique_ptr<InferenceStream> GrpcSchedulerLink::OpenInference(
    OnInference on_command, std::function<void(absl::Status)> on_end) {
  return std::make_unique<GrpcInferenceStream>(*state_->stub, Token(), std::move(on_command),
                                               std::move(on_end));
}

}  // namespace graft::agent
