#include "rpc/service.h"

#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/message_allocator.h"

namespace graft::rpc::internal {
namespace {

using google::protobuf::Message;

// What gRPC's handlers take for a request or a response: a message of any type.
class AnyMessage {
 public:
  AnyMessage() = default;  // for gRPC's own holder, which is never made
  explicit AnyMessage(Message* message) : message_(message) {}
  Message& operator*() const { return *message_; }

 private:
  std::unique_ptr<Message> message_;
};

}  // namespace
}  // namespace graft::rpc::internal

template <>
class grpc::SerializationTraits<graft::rpc::internal::AnyMessage> {
  using Message = google::protobuf::Message;

 public:
  static Status Serialize(const graft::rpc::internal::AnyMessage& message, ByteBuffer* buffer,
                          bool* own_buffer) {
    return SerializationTraits<Message>::Serialize(*message, buffer, own_buffer);
  }
  static Status Deserialize(ByteBuffer* buffer, graft::rpc::internal::AnyMessage* message) {
    return SerializationTraits<Message>::Deserialize(buffer, &**message);
  }
};

namespace graft::rpc::internal {
namespace {

using AnyUnaryHandler = grpc::internal::CallbackUnaryHandler<AnyMessage, AnyMessage>;
using GetReactor = std::function<grpc::ServerUnaryReactor*(grpc::CallbackServerContext&,
                                                           const Message&, Message&)>;

// The messages of one call, from its arrival until it is done.
class Messages final : public grpc::MessageHolder<AnyMessage, AnyMessage> {
 public:
  Messages(Message* request, Message* response) : request_(request), response_(response) {
    set_request(&request_);
    set_response(&response_);
  }
  void Release() override { delete this; }

 private:
  AnyMessage request_;
  AnyMessage response_;
};

// Allocates for itself, because gRPC's template does not know the types.
class UnaryHandler final : public AnyUnaryHandler,
                           private grpc::MessageAllocator<AnyMessage, AnyMessage> {
 public:
  UnaryHandler(const Method& method, GetReactor get_reactor)
      : AnyUnaryHandler([get_reactor = std::move(get_reactor)](grpc::CallbackServerContext* context,
                                                               const AnyMessage* request,
                                                               AnyMessage* response) {
          return get_reactor(*context, **request, **response);
        }),
        request_(PrototypeOf(method.request)),
        response_(PrototypeOf(method.response)) {
    SetMessageAllocator(this);
  }

 private:
  static const Message& PrototypeOf(const google::protobuf::Descriptor* type) {
    return *google::protobuf::MessageFactory::generated_factory()->GetPrototype(type);
  }
  Messages* AllocateMessages() override { return new Messages(request_.New(), response_.New()); }

  const Message& request_;
  const Message& response_;
};

grpc::ServerUnaryReactor* FinishAtOnce(grpc::CallbackServerContext& context, Call& call,
                                       const absl::Status& status) {
  grpc::ServerUnaryReactor* reactor = context.DefaultReactor();
  reactor->Finish(ToGrpcStatus(call.Finish(status)));
  return reactor;
}

}  // namespace

std::unique_ptr<grpc::internal::MethodHandler> MakeUnaryHandler(const Method& method,
                                                                AnswerNow answer) {
  return std::make_unique<UnaryHandler>(
      method, [&method, answer = std::move(answer)](grpc::CallbackServerContext& context,
                                                    const Message& request, Message& response) {
        Call call;
        absl::Status status = method.Begin(context, &request, call);
        if (status.ok()) status = answer(call, request, response);
        return FinishAtOnce(context, call, status);
      });
}

std::unique_ptr<grpc::internal::MethodHandler> MakeAsyncHandler(const Method& method,
                                                                AnswerLater answer) {
  return std::make_unique<UnaryHandler>(
      method,
      [&method, answer = std::move(answer)](grpc::CallbackServerContext& context,
                                            const Message& request,
                                            Message& response) -> grpc::ServerUnaryReactor* {
        auto call = std::make_shared<Call>();
        const absl::Status status = method.Begin(context, &request, *call);
        if (!status.ok()) return FinishAtOnce(context, *call, status);
        auto async = AsyncCall::Start(call, method, &response);
        if (context.deadline() == std::chrono::system_clock::time_point::max()) {
          async->ExpireAt(call->deadline);
        }
        grpc::ServerUnaryReactor* reactor = async.get();
        answer(std::move(call), request, std::move(async));
        return reactor;
      });
}

std::shared_ptr<AsyncCall> AsyncCall::Start(std::shared_ptr<Call> call, const Method& method,
                                            Message* response) {
  auto self = std::make_shared<AsyncCall>(std::move(call), method, response);
  self->self_ = self;
  return self;
}

void AsyncCall::ExpireAt(absl::Time when) {
  std::weak_ptr<AsyncCall> weak = self_;
  timer_ = method_.ScheduleDeadline(when, [weak] {
    if (auto self = weak.lock()) {
      self->End(absl::DeadlineExceededError("the server's time limit for this call has passed"));
    }
  });
}

Message* AsyncCall::Claim() {
  MutexLock lock(mu_);
  if (finished_) return nullptr;
  finished_ = true;
  on_cancel_ = nullptr;
  return response_;
}

void AsyncCall::Send(const absl::Status& status) { Finish(ToGrpcStatus(call_->Finish(status))); }

void AsyncCall::SetOnCancel(std::function<void()> on_cancel) {
  {
    MutexLock lock(mu_);
    if (finished_) return;
    if (!cancelled_) {
      on_cancel_ = std::move(on_cancel);
      return;
    }
  }
  on_cancel();
}

bool AsyncCall::cancelled() {
  MutexLock lock(mu_);
  return cancelled_ || finished_;
}

void AsyncCall::OnCancel() { End(absl::CancelledError("the client has gone away")); }

void AsyncCall::OnDone() {
  if (timer_ != 0) method_.CancelDeadline(timer_);
  const std::shared_ptr<AsyncCall> self = std::move(self_);
}

void AsyncCall::End(const absl::Status& status) {
  std::function<void()> on_cancel;
  {
    MutexLock lock(mu_);
    cancelled_ = true;
    on_cancel.swap(on_cancel_);
  }
  if (on_cancel) on_cancel();
  if (Claim() != nullptr) Send(status);
}

}  // namespace graft::rpc::internal
