#include "rpc/client.h"

#include <algorithm>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "rpc/address.h"
#include "rpc/bulk_args.h"

namespace graft::rpc {
namespace {

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> MakeCredentials(
    const DialOptions& options) {
  if (options.insecure) {
    if (!IsLoopback(options.address)) {
      return absl::InvalidArgumentError(
          absl::StrCat("plaintext is for loopback addresses only, and '", options.address,
                       "' is none; use TLS"));
    }
    return grpc::InsecureChannelCredentials();
  }
  if (options.client_certificate.empty() != options.client_key.empty()) {
    return absl::InvalidArgumentError("a client certificate and its key go together");
  }
  grpc::SslCredentialsOptions ssl;
  ssl.pem_root_certs = options.server_ca;
  ssl.pem_cert_chain = options.client_certificate;
  ssl.pem_private_key = options.client_key;
  return grpc::SslCredentials(ssl);
}

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

}  // namespace

absl::StatusOr<std::string> TokenSource::Get() {
  MutexLock lock(mu_);  // held over the fetch: whoever else needs the token waits for it
  const absl::Time now = clock_.WallNow();
  if (now < refresh_at_) return current_.token;
  absl::StatusOr<AccessToken> fetched = fetch_();
  if (!fetched.ok()) {
    if (!current_.token.empty() && now < current_.expires) return current_.token;
    return fetched.status();
  }
  current_ = *std::move(fetched);
  refresh_at_ = current_.expires == absl::InfiniteFuture() ? absl::InfiniteFuture()
                                                           : now + (current_.expires - now) * 0.8;
  return current_.token;
}

void TokenSource::Invalidate(absl::string_view refused) {
  MutexLock lock(mu_);
  if (current_.token != refused) return;
  current_ = AccessToken();
  refresh_at_ = absl::InfinitePast();
}

grpc::ChannelArguments BulkChannelArgs() {
  grpc::ChannelArguments arguments;
  for (const IntArgument& argument : kBulkArguments) {
    arguments.SetInt(argument.name, argument.value);
  }
  arguments.SetMaxReceiveMessageSize(kBulkMaxMessageBytes);
  arguments.SetMaxSendMessageSize(kBulkMaxMessageBytes);
  return arguments;
}

Connection::Connection(DialOptions options) : options_(std::move(options)) {}

absl::StatusOr<std::unique_ptr<Connection>> Connection::Dial(DialOptions options) {
  GRAFT_ASSIGN_OR_RETURN(auto credentials, MakeCredentials(options));
  grpc::ChannelArguments arguments =
      options.bulk_data ? BulkChannelArgs() : grpc::ChannelArguments();
  arguments.SetMaxReceiveMessageSize(options.max_message_bytes);
  arguments.SetMaxSendMessageSize(options.max_message_bytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, Milliseconds(options.keepalive_interval));
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, Milliseconds(options.keepalive_timeout));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, Milliseconds(kMaxBackoff));
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, Milliseconds(kFirstBackoff));
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);  // ours knows which calls are idempotent
  arguments.SetInt(GRPC_ARG_MAX_METADATA_SIZE, 32 << 10);
  if (options.own_socket) arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  if (!options.server_name.empty()) arguments.SetSslTargetNameOverride(options.server_name);
  std::unique_ptr<Connection> connection(new Connection(std::move(options)));
  connection->channel_ =
      grpc::CreateCustomChannel(connection->options_.address, credentials, arguments);
  return connection;
}

absl::Status Connection::AttachToken(grpc::ClientContext& context, std::string& token) {
  if (options_.tokens == nullptr) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(token, options_.tokens->Get());
  context.AddMetadata("authorization", absl::StrCat("Bearer ", token));
  return absl::OkStatus();
}

absl::Status Connection::Prepare(grpc::ClientContext& context, const CallOptions& call) {
  std::string token;
  GRAFT_RETURN_IF_ERROR(AttachToken(context, token));
  if (!call.traceparent.empty()) context.AddMetadata("traceparent", call.traceparent);
  if (call.deadline > absl::ZeroDuration()) {
    context.set_deadline(absl::ToChronoTime(absl::Now() + call.deadline));
  }
  return absl::OkStatus();
}

absl::Duration Connection::Backoff(const absl::Status& status, int next) {
  const ErrorDetails details = ReadErrorDetails(status);
  const bool again = status.code() == absl::StatusCode::kUnavailable || details.retry_after;
  if (!again || next >= kMaxAttempts) return -absl::Seconds(1);
  const absl::Duration most = std::min(kMaxBackoff, kFirstBackoff * (1 << next));
  Random& random = options_.random != nullptr ? *options_.random : secure_random_;
  const absl::Duration jittered = most * random.UniformDouble();
  return std::max(jittered, details.retry_after.value_or(absl::ZeroDuration()));
}

absl::Status Connection::Retry(const CallOptions& call,
                               const std::function<absl::Status(grpc::ClientContext&)>& attempt) {
  const absl::Duration limit =
      call.deadline > absl::ZeroDuration() ? call.deadline : options_.default_deadline;
  const absl::Time deadline = absl::Now() + limit;
  bool renewed = false;
  for (int next = 1;; ++next) {
    grpc::ClientContext context;
    std::string token;
    GRAFT_RETURN_IF_ERROR(AttachToken(context, token));
    if (!call.traceparent.empty()) context.AddMetadata("traceparent", call.traceparent);
    context.set_deadline(absl::ToChronoTime(deadline));
    const absl::Status status = attempt(context);
    if (status.ok()) return status;
    if (status.code() == absl::StatusCode::kUnauthenticated && !token.empty() && !renewed) {
      // Refused before the handler: safe to send again with a new token, whatever the call does.
      renewed = true;
      options_.tokens->Invalidate(token);
      continue;
    }
    if (!call.idempotent) return status;
    const absl::Duration wait = Backoff(status, next);
    if (wait < absl::ZeroDuration() || absl::Now() + wait >= deadline) return status;
    std::this_thread::sleep_for(absl::ToChronoNanoseconds(wait));
  }
}

}  // namespace graft::rpc
