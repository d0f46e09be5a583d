// How a service's methods are bound to handlers. It stands in the place of gRPC's generated service
// classes, because every call then passes one door: identity, access rule, deadline, request id,
// metrics and the log line are there for each method, and none can be forgotten.
//
//   rpc::Service Jobs::Bind() {
//     rpc::Service service("graft.v1.JobService");
//     service.Unary("GetJob", this, &Jobs::GetJob)        // StatusOr<Job> (const Call&, const
//     Req&)
//         .Async("CreateJob", this, &Jobs::CreateJob)     // answers later, from any thread
//         .Stream("WatchJobs", this, &Jobs::WatchJobs);   // writes messages, from any thread
//     return service;
//   }
//
// Handlers run on gRPC's threads and must not block for long. Methods left unbound answer
// UNIMPLEMENTED. A name or type that does not fit the contract keeps the server from starting.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/mutex.h"
#include "google/protobuf/message.h"
#include "grpcpp/impl/codegen/server_callback_handlers.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "rpc/call.h"
#include "rpc/status.h"

namespace graft::rpc {

namespace internal {

class ServerCore;

// One bound method. Filled in three steps: by Service's functions, by Server::Start, by nobody.
struct Method {
  std::string name;  // "GetJob"
  std::string path;  // "/graft.v1.JobService/GetJob"
  // Descriptors of what the handler takes and gives; nullptr for raw bytes.
  const google::protobuf::Descriptor* request = nullptr;
  const google::protobuf::Descriptor* response = nullptr;
  bool client_streaming = false;
  bool server_streaming = false;
  bool raw = false;
  std::unique_ptr<grpc::internal::MethodHandler> handler;

  AccessRule rule;
  // Fields that lead from the request to the resource's name; empty when none does.
  std::vector<const google::protobuf::FieldDescriptor*> resource_path;
  size_t metrics_index = 0;
  ServerCore* core = nullptr;

  // Fills `call`, authenticates and authorises; `request` is nullptr where it cannot be read.
  absl::Status Begin(grpc::CallbackServerContext& context, const google::protobuf::Message* request,
                     Call& call) const;
  // Calls `expire` at `when` unless cancelled by the id returned.
  uint64_t ScheduleDeadline(absl::Time when, std::function<void()> expire) const;
  void CancelDeadline(uint64_t id) const;
};

template <typename T>
inline constexpr bool kIsRaw = std::is_same_v<T, grpc::ByteBuffer>;

template <typename T>
const google::protobuf::Descriptor* DescriptorOf() {
  if constexpr (kIsRaw<T>) {
    return nullptr;
  } else {
    return T::descriptor();
  }
}

template <typename T>
const google::protobuf::Message* AsMessage(const T* message) {
  if constexpr (kIsRaw<T>) {
    return nullptr;
  } else {
    return message;
  }
}

// Ends a stream that was refused before its handler saw it.
template <typename Reactor>
class RefusedCall final : public Reactor {
 public:
  explicit RefusedCall(grpc::Status status) { this->Finish(std::move(status)); }
  void OnDone() override { delete this; }
};

// Shared by the reactor and the Responder of a call that is answered later. It knows no type of
// message: the Responder fills the response in, between Claim and Send.
class AsyncCall final : public grpc::ServerUnaryReactor {
 public:
  static std::shared_ptr<AsyncCall> Start(std::shared_ptr<Call> call, const Method& method,
                                          google::protobuf::Message* response);
  AsyncCall(std::shared_ptr<Call> call, const Method& method, google::protobuf::Message* response)
      : call_(std::move(call)), method_(method), response_(response) {}

  // The server's own deadline, for clients that gave none.
  void ExpireAt(absl::Time when);
  // The response, for the first who asks: who gets it must fill it in and call Send. nullptr for
  // all others.
  google::protobuf::Message* Claim();
  void Send(const absl::Status& status);
  void SetOnCancel(std::function<void()> on_cancel);
  bool cancelled();

 private:
  void OnCancel() override;
  void OnDone() override;
  // Of a call that nobody waits for any more: tells the handler, and answers unless it has.
  void End(const absl::Status& status);

  const std::shared_ptr<Call> call_;  // shared with the handler
  const Method& method_;
  google::protobuf::Message* const response_;
  uint64_t timer_ = 0;  // set before the handler runs
  Mutex mu_;
  bool finished_ GRAFT_GUARDED_BY(mu_) = false;
  bool cancelled_ GRAFT_GUARDED_BY(mu_) = false;
  std::function<void()> on_cancel_ GRAFT_GUARDED_BY(mu_);
  std::shared_ptr<AsyncCall> self_;  // gRPC's reference, until OnDone
};

// Handlers of the two kinds of unary calls. gRPC's own are templates; these are made of one
// instance for all types of messages, because one for each method costs 0.7 s of compile time. A
// method's own code is a cast and the call of its handler.
using AnswerNow = std::function<absl::Status(const Call&, const google::protobuf::Message& request,
                                             google::protobuf::Message& response)>;
using AnswerLater = std::function<void(
    std::shared_ptr<Call>, const google::protobuf::Message& request, std::shared_ptr<AsyncCall>)>;
std::unique_ptr<grpc::internal::MethodHandler> MakeUnaryHandler(const Method& method,
                                                                AnswerNow answer);
std::unique_ptr<grpc::internal::MethodHandler> MakeAsyncHandler(const Method& method,
                                                                AnswerLater answer);

}  // namespace internal

// The right and the duty to answer one call, once, from any thread. Dropped unanswered, the caller
// gets INTERNAL. Movable; not for use by two threads at a time.
template <typename Response>
class Responder {
 public:
  explicit Responder(std::shared_ptr<internal::AsyncCall> call) : call_(std::move(call)) {}
  Responder(Responder&&) noexcept = default;
  Responder& operator=(Responder&&) = delete;
  ~Responder() {
    if (call_) Answer(absl::InternalError("the server dropped this call"));
  }

  void Answer(absl::StatusOr<Response> result) {
    const std::shared_ptr<internal::AsyncCall> call = std::exchange(call_, nullptr);
    google::protobuf::Message* response = call->Claim();
    if (response == nullptr) return;
    if (result.ok()) static_cast<Response&>(*response) = *std::move(result);
    call->Send(result.status());
  }
  // Runs `on_cancel` on a thread of gRPC's when the client goes away or the deadline passes; at
  // once if that has happened. The call then ends by itself; a later Answer does nothing.
  void OnCancel(std::function<void()> on_cancel) { call_->SetOnCancel(std::move(on_cancel)); }
  bool cancelled() const { return call_->cancelled(); }

 private:
  std::shared_ptr<internal::AsyncCall> call_;  // shared with gRPC
};

// A server's stream of messages. Thread-safe. Writes are queued; the queue is bounded, so that a
// reader that does not keep up is told so instead of growing the server's memory.
template <typename Response>
class StreamWriter final : public grpc::ServerWriteReactor<Response> {
 public:
  static constexpr size_t kMaxQueued = 1024;

  explicit StreamWriter(std::shared_ptr<Call> call) : call_(std::move(call)) {}

  // RESOURCE_EXHAUSTED when the queue is full (Finish with it and let the client resume), CANCELLED
  // once the stream has ended.
  absl::Status Write(Response message) {
    MutexLock lock(mu_);
    if (closed_) return absl::CancelledError("the stream has ended");
    if (queue_.size() >= kMaxQueued) {
      return absl::ResourceExhaustedError("the reader of this stream is too slow; resume it");
    }
    queue_.push_back(std::move(message));
    if (queue_.size() == 1) this->StartWrite(&queue_.front());
    return absl::OkStatus();
  }

  // Ends the stream once what is queued has been sent. Calls after the first do nothing.
  void Finish(const absl::Status& status) {
    MutexLock lock(mu_);
    if (closed_) return;
    closed_ = true;
    final_ = status;
    if (queue_.empty()) FinishNow();
  }

  // Runs once when the client has gone away or a write failed; at once if that has happened.
  void OnClosed(std::function<void()> on_closed) {
    {
      MutexLock lock(mu_);
      if (!cancelled_) {
        on_closed_ = std::move(on_closed);
        return;
      }
    }
    on_closed();
  }

  bool closed() {
    MutexLock lock(mu_);
    return closed_;
  }
  // What waits to be sent: a writer that holds back while it is large never meets the limit.
  size_t queued() {
    MutexLock lock(mu_);
    return queue_.size();
  }
  // The two below are for the server's templates. gRPC's reference:
  void KeepUntilDone(std::shared_ptr<StreamWriter> self) { self_ = std::move(self); }
  void EndWithServer() {
    call_->OnShutdown([weak = std::weak_ptr<StreamWriter>(self_)](const absl::Status& status) {
      if (const auto self = weak.lock()) self->Finish(status);
    });
  }

 private:
  void FinishNow() GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (finish_called_) return;
    finish_called_ = true;
    grpc::ServerWriteReactor<Response>::Finish(ToGrpcStatus(call_->Finish(final_)));
  }
  void OnWriteDone(bool ok) override {
    if (!ok) {
      Close();
      return;
    }
    MutexLock lock(mu_);
    queue_.pop_front();
    if (!queue_.empty()) {
      this->StartWrite(&queue_.front());
    } else if (closed_) {
      FinishNow();
    }
  }
  void OnCancel() override { Close(); }
  void OnDone() override { const std::shared_ptr<StreamWriter> self = std::move(self_); }
  void Close() {
    std::function<void()> on_closed;
    {
      MutexLock lock(mu_);
      if (!closed_) final_ = absl::CancelledError("the client has gone away");
      closed_ = cancelled_ = true;
      on_closed.swap(on_closed_);
      FinishNow();
    }
    if (on_closed) on_closed();
  }

  const std::shared_ptr<Call> call_;  // shared with the handler
  Mutex mu_;
  std::deque<Response> queue_ GRAFT_GUARDED_BY(mu_);
  absl::Status final_ GRAFT_GUARDED_BY(mu_);
  bool closed_ GRAFT_GUARDED_BY(mu_) = false;
  bool cancelled_ GRAFT_GUARDED_BY(mu_) = false;
  bool finish_called_ GRAFT_GUARDED_BY(mu_) = false;
  std::function<void()> on_closed_ GRAFT_GUARDED_BY(mu_);
  std::shared_ptr<StreamWriter> self_;  // until OnDone
};

class Service {
 public:
  // `full_name` as in the contract: "graft.v1.JobService".
  explicit Service(absl::string_view full_name) : full_name_(full_name) {}

  template <typename T, typename Request, typename Response>
  Service& Unary(absl::string_view name, T* object,
                 absl::StatusOr<Response> (T::*handle)(const Call&, const Request&)) {
    internal::Method* method = Add<Request, Response>(name, false, false);
    method->handler = internal::MakeUnaryHandler(
        *method, [=](const Call& call, const google::protobuf::Message& request,
                     google::protobuf::Message& response) {
          absl::StatusOr<Response> result =
              (object->*handle)(call, static_cast<const Request&>(request));
          if (result.ok()) static_cast<Response&>(response) = *std::move(result);
          return result.status();
        });
    return *this;
  }

  // The request lives until the answer.
  template <typename T, typename Request, typename Response>
  Service& Async(absl::string_view name, T* object,
                 void (T::*handle)(std::shared_ptr<Call>, const Request&, Responder<Response>)) {
    internal::Method* method = Add<Request, Response>(name, false, false);
    method->handler = internal::MakeAsyncHandler(
        *method, [=](std::shared_ptr<Call> call, const google::protobuf::Message& request,
                     std::shared_ptr<internal::AsyncCall> async) {
          (object->*handle)(std::move(call), static_cast<const Request&>(request),
                            Responder<Response>(std::move(async)));
        });
    return *this;
  }

  // The request lives only as long as the handler's call.
  template <typename T, typename Request, typename Response>
  Service& Stream(absl::string_view name, T* object,
                  void (T::*handle)(std::shared_ptr<Call>, const Request&,
                                    std::shared_ptr<StreamWriter<Response>>)) {
    internal::Method* method = Add<Request, Response>(name, false, true);
    method->handler =
        std::make_unique<grpc::internal::CallbackServerStreamingHandler<Request, Response>>(
            [=](grpc::CallbackServerContext* context,
                const Request* request) -> grpc::ServerWriteReactor<Response>* {
              auto call = std::make_shared<Call>();
              auto writer = std::make_shared<StreamWriter<Response>>(call);
              writer->KeepUntilDone(writer);
              const absl::Status status =
                  method->Begin(*context, internal::AsMessage(request), *call);
              StreamWriter<Response>* reactor = writer.get();
              if (status.ok()) {
                writer->EndWithServer();
                (object->*handle)(std::move(call), *request, std::move(writer));
              } else {
                writer->Finish(status);
              }
              return reactor;
            });
    return *this;
  }

  // The three below hand out reactors of the service's own, for streams that carry bulk data. With
  // grpc::ByteBuffer as a type, messages pass unparsed. Methods of workspace scope must call
  // Call::CheckWorkspace once they know the name. A reactor ends with Finish(ToGrpcStatus(
  // call->Finish(status))).
  template <typename T, typename Request, typename Response>
  Service& WriteReactor(absl::string_view name, T* object,
                        grpc::ServerWriteReactor<Response>* (T::*make)(std::shared_ptr<Call>,
                                                                       const Request&)) {
    internal::Method* method = Add<Request, Response>(name, false, true);
    method->handler =
        std::make_unique<grpc::internal::CallbackServerStreamingHandler<Request, Response>>(
            [=](grpc::CallbackServerContext* context,
                const Request* request) -> grpc::ServerWriteReactor<Response>* {
              auto call = std::make_shared<Call>();
              const absl::Status status =
                  method->Begin(*context, internal::AsMessage(request), *call);
              if (status.ok()) return (object->*make)(std::move(call), *request);
              return new internal::RefusedCall<grpc::ServerWriteReactor<Response>>(
                  ToGrpcStatus(call->Finish(status)));
            });
    return *this;
  }

  template <typename T, typename Request, typename Response>
  Service& ReadReactor(absl::string_view name, T* object,
                       grpc::ServerReadReactor<Request>* (T::*make)(std::shared_ptr<Call>,
                                                                    Response*)) {
    internal::Method* method = Add<Request, Response>(name, true, false);
    method->handler =
        std::make_unique<grpc::internal::CallbackClientStreamingHandler<Request, Response>>(
            [=](grpc::CallbackServerContext* context,
                Response* response) -> grpc::ServerReadReactor<Request>* {
              auto call = std::make_shared<Call>();
              const absl::Status status = method->Begin(*context, nullptr, *call);
              if (status.ok()) return (object->*make)(std::move(call), response);
              return new internal::RefusedCall<grpc::ServerReadReactor<Request>>(
                  ToGrpcStatus(call->Finish(status)));
            });
    return *this;
  }

  template <typename T, typename Request, typename Response>
  Service& BidiReactor(
      absl::string_view name, T* object,
      grpc::ServerBidiReactor<Request, Response>* (T::*make)(std::shared_ptr<Call>)) {
    internal::Method* method = Add<Request, Response>(name, true, true);
    method->handler = std::make_unique<grpc::internal::CallbackBidiHandler<Request, Response>>(
        [=](grpc::CallbackServerContext* context) -> grpc::ServerBidiReactor<Request, Response>* {
          auto call = std::make_shared<Call>();
          const absl::Status status = method->Begin(*context, nullptr, *call);
          if (status.ok()) return (object->*make)(std::move(call));
          return new internal::RefusedCall<grpc::ServerBidiReactor<Request, Response>>(
              ToGrpcStatus(call->Finish(status)));
        });
    return *this;
  }

  const std::string& full_name() const { return full_name_; }
  // For Server::Start.
  std::vector<std::unique_ptr<internal::Method>> TakeMethods() { return std::move(methods_); }

 private:
  template <typename Request, typename Response>
  internal::Method* Add(absl::string_view name, bool client_streaming, bool server_streaming) {
    auto method = std::make_unique<internal::Method>();
    method->name = std::string(name);
    method->request = internal::DescriptorOf<Request>();
    method->response = internal::DescriptorOf<Response>();
    method->client_streaming = client_streaming;
    method->server_streaming = server_streaming;
    method->raw = internal::kIsRaw<Request> || internal::kIsRaw<Response>;
    methods_.push_back(std::move(method));
    return methods_.back().get();
  }

  std::string full_name_;
  std::vector<std::unique_ptr<internal::Method>> methods_;
};

}  // namespace graft::rpc
