// What the streams of bytes have in common: a reactor that owns itself until gRPC is done with it,
// is watched for stalls, and ends once, with the first status that anybody gives it.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/mutex.h"
#include "fileservice/service/data_plane.h"
#include "fileservice/transfer/slices.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "rpc/call.h"
#include "rpc/status.h"

namespace graft::fileservice {

// `Reactor` is one of gRPC's. Begin is called once, before anything is read or written.
template <typename Reactor>
class DataStream : public Reactor,
                   public Watched,
                   public std::enable_shared_from_this<DataStream<Reactor>> {
 public:
  DataStream(DataPlane& plane, std::shared_ptr<rpc::Call> call)
      : plane_(plane), call_(std::move(call)) {}
  void OnStall() override { End(StalledError(plane_.watch.timeout())); }

 protected:
  void Begin() {
    self_ = this->shared_from_this();
    plane_.watch.Watch(self_);
  }
  void End(const absl::Status& status) {
    MutexLock lock(mu_);
    FinishOnce(status);
  }
  void FinishOnce(const absl::Status& status) GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (std::exchange(finished_, true)) return;
    this->Finish(rpc::ToGrpcStatus(call_->Finish(status)));
  }
  void OnDone() override { const std::shared_ptr<DataStream> self = std::move(self_); }

  DataPlane& plane_;
  const std::shared_ptr<rpc::Call> call_;  // shared with the server
  Mutex mu_;
  bool finished_ GRAFT_GUARDED_BY(mu_) = false;

 private:
  std::shared_ptr<DataStream> self_;  // gRPC's reference, until OnDone
};

// Raw messages in, one at a time, each while the budget has room for its bytes.
template <typename Reactor>
class IncomingStream : public DataStream<Reactor> {
 public:
  using DataStream<Reactor>::DataStream;
  void Start() {
    this->Begin();
    this->StartRead(&incoming_);
  }

 protected:
  enum class Next { kRead, kStop };
  // `parts` are the message's bytes. kStop: nothing more is wanted.
  virtual absl::StatusOr<Next> Take(absl::Span<const absl::string_view> parts) = 0;
  // The client has sent everything that it will.
  virtual void ReadingEnded() = 0;
  // Nothing more is read: Take has said so, or failed.
  virtual void Stop(const absl::Status& status) { this->End(status); }

 private:
  void OnReadDone(bool ok) override {
    this->Touch(this->plane_.clock);
    if (!ok) return ReadingEnded();
    const auto bytes = static_cast<int64_t>(incoming_.Length());
    auto self = this->shared_from_this();
    if (this->plane_.budget.Acquire(bytes, [this, self, bytes] { Process(bytes); })) {
      Process(bytes);
    }
  }

  void Process(int64_t bytes) {
    const absl::StatusOr<Next> next = TakeMessage();
    this->plane_.budget.Release(bytes);
    this->Touch(this->plane_.clock);
    if (!next.ok() || *next == Next::kStop) return Stop(next.status());
    incoming_.Clear();
    MutexLock lock(this->mu_);
    if (!this->finished_) this->StartRead(&incoming_);
  }

  absl::StatusOr<Next> TakeMessage() {
    std::vector<grpc::Slice> slices;
    if (!incoming_.Dump(&slices).ok()) {
      return absl::InternalError("a message of an upload cannot be read");
    }
    return Take(Views(slices));
  }

  grpc::ByteBuffer incoming_;
};

// Makes a stream of this type and starts it.
template <typename Stream, typename... Arguments>
Stream* StartStream(Arguments&&... arguments) {
  auto stream = std::make_shared<Stream>(std::forward<Arguments>(arguments)...);
  stream->Start();
  return stream.get();
}

}  // namespace graft::fileservice
