// How a program calls our services: one Connection per server, shared by all its threads.
//
//   GRAFT_ASSIGN_OR_RETURN(auto connection, rpc::Connection::Dial({.address = "host:7600", ...}));
//   auto jobs = graft::v1::JobService::NewStub(connection->channel());
//   GRAFT_ASSIGN_OR_RETURN(auto job, connection->Call<v1::Job>(
//       *jobs, &graft::v1::JobService::Stub::GetJob, request, {.idempotent = true}));
//
// Call sets deadline, token and trace, retries what may be retried and translates the status.
// Streams call Prepare on their context instead.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/random.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "grpcpp/support/channel_arguments.h"
#include "rpc/status.h"

namespace graft::rpc {

struct AccessToken {
  std::string token;
  absl::Time expires = absl::InfiniteFuture();
};

// Keeps a token until a fifth of its life is left, then fetches the next; one fetch at a time.
// Thread-safe.
class TokenSource {
 public:
  using Fetch = std::function<absl::StatusOr<AccessToken>()>;
  TokenSource(Clock& clock, Fetch fetch) : clock_(clock), fetch_(std::move(fetch)) {}
  // The token to send. A failed fetch falls back on the old token for as long as that lives.
  absl::StatusOr<std::string> Get();
  // Drops the token after a server has refused it.
  void Invalidate(absl::string_view refused);

 private:
  Clock& clock_;
  const Fetch fetch_;
  Mutex mu_;
  AccessToken current_ GRAFT_GUARDED_BY(mu_);
  absl::Time refresh_at_ GRAFT_GUARDED_BY(mu_) = absl::InfinitePast();
};

struct DialOptions {
  std::string address;  // host:port
  // Exactly one: plaintext (loopback only, as a token would be readable), or TLS.
  bool insecure = false;
  std::string server_ca;           // PEM; empty with TLS: the system's authorities
  std::string client_certificate;  // PEM; both for mTLS
  std::string client_key;
  std::string server_name;  // expected in the certificate; empty: the host of `address`
  // Must outlive the connection; nullptr sends no token.
  TokenSource* tokens = nullptr;
  absl::Duration default_deadline = absl::Seconds(30);
  int max_message_bytes = 16 << 20;
  absl::Duration keepalive_interval = absl::Seconds(30);
  absl::Duration keepalive_timeout = absl::Seconds(10);
  bool bulk_data = false;    // windows and frame sizes for streaming files
  bool own_socket = false;   // not shared with other connections of this process to the same server
  Random* random = nullptr;  // for the jitter; nullptr: the kernel's
};

struct CallOptions {
  absl::Duration deadline = absl::ZeroDuration();  // zero: the connection's default
  // May be sent again without harm: reads, and creates that carry a request_id.
  bool idempotent = false;
  std::string traceparent;
};

// The arguments of a channel that streams files; DialOptions.bulk_data sets them.
grpc::ChannelArguments BulkChannelArgs();

class Connection {
 public:
  static constexpr int kMaxAttempts = 5;
  static constexpr absl::Duration kFirstBackoff = absl::Milliseconds(100);
  static constexpr absl::Duration kMaxBackoff = absl::Seconds(5);

  // Connects lazily; INVALID_ARGUMENT for options that do not fit.
  static absl::StatusOr<std::unique_ptr<Connection>> Dial(DialOptions options);

  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // Sets token and trace. Streams get no deadline unless `call.deadline` says one.
  absl::Status Prepare(grpc::ClientContext& context, const CallOptions& call = {});

  template <typename Response, typename Stub, typename Request>
  absl::StatusOr<Response> Call(Stub& stub,
                                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&,
                                                             Response*),
                                const Request& request, const CallOptions& call = {}) {
    Response response;
    const absl::Status status = Retry(call, [&](grpc::ClientContext& context) {
      return FromGrpcStatus((stub.*method)(&context, request, &response));
    });
    if (!status.ok()) return status;
    return response;
  }

 private:
  explicit Connection(DialOptions options);
  absl::Status Retry(const CallOptions& call,
                     const std::function<absl::Status(grpc::ClientContext&)>& attempt);
  absl::Status AttachToken(grpc::ClientContext& context, std::string& token);
  // How long to wait before attempt `next`; negative: do not try again.
  absl::Duration Backoff(const absl::Status& status, int next);

  const DialOptions options_;
  SecureRandom secure_random_;
  std::shared_ptr<grpc::Channel> channel_;
};

}  // namespace graft::rpc
