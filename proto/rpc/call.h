// What a handler knows about the call it serves. No gRPC here, so that handlers and their tests
// need none: a test makes a Call with an identity of its choice.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "rpc/auth.h"
#include "rpc/held_calls.h"

namespace graft::rpc {

// Filled by the server before the handler sees it, constant afterwards but for Finish. Handlers
// that answer later share it with the server. Thread-safe once filled.
class Call {
 public:
  Call() = default;
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  // Reports CANCELLED for a call that nobody finished.
  ~Call() { Report(absl::Status(absl::StatusCode::kCancelled, "")); }

  std::string method;       // "graft.v1.JobService/GetJob"
  std::string request_id;   // unique; in the trailing metadata, the log and every error
  std::string traceparent;  // W3C, as the caller sent it; empty without a well-formed one
  std::string trace_id;     // its 32 hexadecimal digits
  absl::Time start;
  absl::Time deadline = absl::InfiniteFuture();  // the client's, or the server's default
  std::shared_ptr<const Identity> identity = std::make_shared<Identity>();  // shared with a cache
  AccessRule rule;
  std::string workspace;  // of the resource that the request names; empty for others

  // For methods whose first message the server cannot read (raw and client streams): the check of
  // the method's rule against `workspace`.
  absl::Status CheckWorkspace(absl::string_view workspace_name) const {
    return CheckAccess(rule, *identity, workspace_name);
  }
  // The status with the request's id in it; counts and logs the call, once.
  absl::Status Finish(const absl::Status& status);
  // For a call that is held until something happens: `end` is called, with the status to end it
  // with, when the server begins to shut down, or at once if it has; not after Finish, but perhaps
  // beside it. At most once a call.
  void OnShutdown(std::function<void(const absl::Status&)> end);

  // Set by the server.
  std::function<void(const Call&, absl::Status)> on_finish;
  HeldCalls* held_calls = nullptr;  // outlives the calls that are not finished

 private:
  void Report(const absl::Status& status);

  std::atomic<bool> reported_{false};
  std::atomic<uint64_t> held_{0};
};

}  // namespace graft::rpc
