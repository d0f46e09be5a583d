// What the agent asks of the rest of the world, as two small interfaces: the scheduler and the
// fileservice. grpc_links.h has the real ones; tests have their own.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "graft/agent/v1/agent.pb.h"

namespace graft::agent {

// Set by the loop, read by work that takes long: it gives up with CANCELLED soon after.
using CancelFlag = std::atomic<bool>;

// A stream of reports; acknowledgements arrive on a thread of the stream's own.
class EventStream {
 public:
  using OnAck = std::function<void(const v1::PushEventsResponse&)>;
  virtual ~EventStream() = default;
  // Blocks while the stream's buffer is full. False when the stream has broken.
  virtual bool Write(const v1::PushEventsRequest& request) = 0;
  // Ends the stream; Write and OnAck return soon after. From any thread.
  virtual void Cancel() = 0;
};

// The stream of an inference session.
class InferenceStream {
 public:
  virtual ~InferenceStream() = default;
  virtual bool Write(const v1::ServeInferenceRequest& request) = 0;
  virtual void Cancel() = 0;
};

class SchedulerLink {
 public:
  using OnSynchronized = std::function<void(absl::StatusOr<v1::SynchronizeResponse>)>;
  using OnInference = std::function<void(const v1::ServeInferenceResponse&)>;
  virtual ~SchedulerLink() = default;
  // Blocks for at most `deadline`.
  virtual absl::StatusOr<v1::RegisterResponse> Register(const v1::RegisterRequest& request,
                                                        absl::Duration deadline) = 0;
  // The access token of later calls.
  virtual void SetAccessToken(const std::string& token) = 0;
  // Sends a Synchronize; `done` is called once, on another thread. The scheduler ends an open call
  // with CANCELLED when a newer one comes; CancelSynchronize ends all that are open.
  virtual void Synchronize(const v1::SynchronizeRequest& request, absl::Duration deadline,
                           OnSynchronized done) = 0;
  virtual void CancelSynchronize() = 0;
  virtual std::unique_ptr<EventStream> OpenEvents(EventStream::OnAck on_ack) = 0;
  // `on_end` is called once, when the scheduler has ended the stream or it broke.
  virtual std::unique_ptr<InferenceStream> OpenInference(
      OnInference on_command, std::function<void(absl::Status)> on_end) = 0;
};

// The fileservice. Blocking; called on threads of their own.
class FileLink {
 public:
  struct Progress {
    int64_t bytes_done = 0;
    int64_t bytes_total = 0;
  };
  using OnProgress = std::function<void(const Progress&)>;
  virtual ~FileLink() = default;
  // Makes the input's files available, verified, and returns the folder they are in. The folder is
  // shared and read-only; it stays until Release of the same key.
  virtual absl::StatusOr<std::string> Fetch(const v1::Input& input, const std::string& token,
                                            const std::string& holder, const CancelFlag& cancel,
                                            const OnProgress& progress) = 0;
  // `holder` no longer needs what it fetched.
  virtual void Release(const std::string& holder) = 0;
  // Uploads a folder into a session, without publishing it. Returns the bytes of its files.
  virtual absl::StatusOr<int64_t> Upload(const std::string& folder, const std::string& session,
                                         const std::string& token, const CancelFlag& cancel) = 0;
};

}  // namespace graft::agent
