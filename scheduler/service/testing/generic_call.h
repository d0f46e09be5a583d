// Calls any method of a server by its descriptor, with bytes for a request.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/generic/generic_stub.h"
#include "rpc/status.h"

namespace graft::scheduler {

// One call at a time.
class GenericCaller {
 public:
  explicit GenericCaller(std::shared_ptr<grpc::Channel> channel) : stub_(std::move(channel)) {}

  // The final status; OK as soon as a first message has come, after which a stream is cancelled.
  absl::Status Call(const google::protobuf::MethodDescriptor& method, const std::string& request,
                    const std::string& token, std::chrono::milliseconds timeout) {
    const grpc::Slice slice(request);
    const grpc::ByteBuffer buffer(&slice, 1);
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + timeout);
    if (!token.empty()) context.AddMetadata("authorization", "Bearer " + token);
    grpc::CompletionQueue queue;
    const std::string path = absl::StrCat("/", method.service()->full_name(), "/", method.name());
    auto stream = stub_.PrepareCall(&context, path, &queue);
    stream->StartCall(this);
    if (Next(queue)) {
      stream->Write(buffer, this);
      Next(queue);
      stream->WritesDone(this);
      Next(queue);
    }
    grpc::ByteBuffer answer;
    stream->Read(&answer, this);
    const bool read = Next(queue);
    if (read && method.server_streaming()) context.TryCancel();
    grpc::Status status;
    stream->Finish(&status, this);
    Next(queue);
    return read && method.server_streaming() ? absl::OkStatus() : rpc::FromGrpcStatus(status);
  }

 private:
  static bool Next(grpc::CompletionQueue& queue) {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  }
  grpc::GenericStub stub_;
};

// The services of the contract that the scheduler has, whole or by name alone.
inline constexpr const char* kContractServices[] = {
    "graft.v1.AccessService",    "graft.v1.AuthService",       "graft.v1.EventService",
    "graft.v1.JobService",       "graft.v1.ModelService",      "graft.v1.NodeService",
    "graft.v1.QueueService",     "graft.v1.SecretService",     "graft.v1.ServerService",
    "graft.v1.TemplateService",  "graft.v1.UsageService",      "graft.v1.WorkspaceService",
    "graft.v1.InferenceService", "graft.v1.EvaluationService", "graft.v1.NotificationService"};

}  // namespace graft::scheduler
