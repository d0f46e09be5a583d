#include "rpc/server.h"

#include <algorithm>
#include <cinttypes>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "google/protobuf/descriptor.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/impl/rpc_service_method.h"
#include "grpcpp/impl/server_builder_option.h"
#include "grpcpp/impl/service_type.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "prometheus/registry.h"
#include "rpc/address.h"
#include "rpc/auth.h"
#include "rpc/bulk_args.h"
#include "rpc/caller_limits.h"
#include "rpc/held_calls.h"
#include "rpc/metrics.h"
#include "rpc/service.h"

namespace graft::rpc {
namespace internal {

// What all methods of a server share.
class ServerCore {
 public:
  explicit ServerCore(const ServerOptions& options)
      : authenticator(options.authenticator),
        default_deadline(options.default_deadline),
        limits({options.calls_per_second, options.concurrent_streams}),
        registry(std::make_shared<prometheus::Registry>()),
        metrics(*registry),
        id_prefix(SecureRandom().Id(8)),
        timers(clock) {}

  std::string NextRequestId() {
    return absl::StrFormat("%s-%08x", id_prefix, next_id.fetch_add(1, std::memory_order_relaxed));
  }

  Authenticator* const authenticator;
  const absl::Duration default_deadline;
  CallerLimits limits;
  HeldCalls held_calls;
  const std::shared_ptr<prometheus::Registry> registry;  // shared with the metrics server
  CallMetrics metrics;
  const std::string id_prefix;
  std::atomic<uint64_t> next_id{1};
  RealClock clock;
  Loop timers;
};

namespace {

absl::string_view View(grpc::string_ref text) { return {text.data(), text.size()}; }

absl::string_view FindMetadata(const grpc::CallbackServerContext& context, const char* key) {
  const auto& metadata = context.client_metadata();
  const auto it = metadata.find(key);
  return it == metadata.end() ? absl::string_view() : View(it->second);
}

// "00-<32 hex>-<16 hex>-<2 hex>"; empty for anything else.
std::string TraceIdOf(absl::string_view traceparent) {
  const std::vector<absl::string_view> parts = absl::StrSplit(traceparent, '-');
  if (parts.size() != 4 || parts[0].size() != 2 || parts[1].size() != 32 || parts[2].size() != 16 ||
      parts[3].size() != 2) {
    return "";
  }
  for (const absl::string_view& part : parts) {
    if (!std::all_of(part.begin(), part.end(), absl::ascii_isxdigit)) return "";
  }
  return std::string(parts[1]);
}

absl::StatusOr<std::shared_ptr<const Identity>> Identify(
    Authenticator* authenticator, const grpc::CallbackServerContext& context) {
  Credentials credentials;
  const absl::string_view authorization = FindMetadata(context, "authorization");
  if (absl::StartsWithIgnoreCase(authorization, "bearer ")) {
    credentials.bearer = absl::StripAsciiWhitespace(authorization.substr(7));
  } else if (const auto auth = context.auth_context(); auth && auth->IsPeerAuthenticated()) {
    for (const char* property : {"peer_dns", "peer_uri"}) {
      for (const grpc::string_ref& name : auth->FindPropertyValues(property)) {
        credentials.peer_names.emplace_back(name.data(), name.size());
      }
    }
  }
  if (authenticator == nullptr) {
    if (credentials.bearer.empty() && credentials.peer_names.empty()) {
      return std::make_shared<const Identity>();
    }
    return absl::UnauthenticatedError("this server knows no identities");
  }
  return authenticator->Authenticate(credentials);
}

// The workspace in "workspaces/{w}/..." that the request's resource name holds.
absl::StatusOr<std::string> WorkspaceOf(const Method& method,
                                        const google::protobuf::Message* request) {
  for (size_t i = 0; i + 1 < method.resource_path.size(); ++i) {
    request = &request->GetReflection()->GetMessage(*request, method.resource_path[i]);
  }
  const auto* field = method.resource_path.back();
  std::string scratch;
  // A request that may name a resource or, for one that does not exist yet, its parent.
  if (field->name() == "parent" && request->GetReflection()->GetString(*request, field).empty()) {
    const auto* other = request->GetDescriptor()->FindFieldByName("name");
    if (other != nullptr && other->type() == google::protobuf::FieldDescriptor::TYPE_STRING) {
      field = other;
    }
  }
  const std::string& name = request->GetReflection()->GetStringReference(*request, field, &scratch);
  const std::vector<absl::string_view> parts = absl::StrSplit(name, absl::MaxSplits('/', 2));
  if (parts.size() < 2 || parts[0] != "workspaces" || parts[1].empty()) {
    return ErrorBuilder(absl::StatusCode::kInvalidArgument,
                        absl::StrCat("'", name, "' names no workspace"))
        .Reason("NAME_INVALID")
        .Field(field->name(), "must start with workspaces/{workspace}")
        .Build();
  }
  return std::string(parts[1]);
}

// Counts the call against what its user may ask for, until it ends.
absl::Status CheckLimits(const Method& method, Call& call) {
  if (call.identity->kind != IdentityKind::kUser) return absl::OkStatus();
  const std::string& subject = call.identity->subject;
  GRAFT_RETURN_IF_ERROR(method.core->limits.Admit(subject, call.start));
  if (!method.client_streaming && !method.server_streaming) return absl::OkStatus();
  GRAFT_RETURN_IF_ERROR(method.core->limits.OpenStream(subject));
  call.on_finish = [&limits = method.core->limits, report = std::move(call.on_finish)](
                       const Call& ended, absl::Status status) {
    limits.CloseStream(ended.identity->subject);
    report(ended, status);
  };
  return absl::OkStatus();
}

}  // namespace

absl::Status Method::Begin(grpc::CallbackServerContext& context,
                           const google::protobuf::Message* message, Call& call) const {
  call.method = path.substr(1);
  call.start = core->clock.Now();
  call.request_id = core->NextRequestId();
  call.rule = rule;
  call.held_calls = &core->held_calls;
  call.on_finish = [this](const Call& ended, absl::Status status) {
    const absl::Duration took = core->clock.Now() - ended.start;
    core->metrics.Count(metrics_index, status.code(), took);
    // CANCELLED is the caller's wish, not something that went wrong.
    const LogLevel level = status.ok() || absl::IsCancelled(status) ? LogLevel::kDebug
                           : status.code() == absl::StatusCode::kInternal ||
                                   status.code() == absl::StatusCode::kDataLoss ||
                                   status.code() == absl::StatusCode::kUnknown
                               ? LogLevel::kError
                               : LogLevel::kInfo;
    GRAFT_LOG(level, "call",
              {{"method", ended.method},
               {"code", absl::StatusCodeToString(status.code())},
               {"ms", absl::ToDoubleMilliseconds(took)},
               {"request_id", ended.request_id},
               {"trace_id", ended.trace_id},
               {"subject", ended.identity->subject},
               {"message", status.message()}});
  };
  context.AddTrailingMetadata("x-request-id", call.request_id);
  const absl::string_view traceparent = FindMetadata(context, "traceparent");
  call.trace_id = TraceIdOf(traceparent);
  if (!call.trace_id.empty()) call.traceparent = std::string(traceparent);
  if (context.deadline() != std::chrono::system_clock::time_point::max()) {
    call.deadline = absl::FromChrono(context.deadline());
  } else if (!client_streaming && !server_streaming) {
    call.deadline = call.start + core->default_deadline;
  }
  if (rule.scope == Scope::kPublic) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(call.identity, Identify(core->authenticator, context));
  GRAFT_RETURN_IF_ERROR(CheckLimits(*this, call));
  if (rule.scope == Scope::kWorkspace) {
    if (call.identity->kind == IdentityKind::kAnonymous)
      return CheckAccess(rule, *call.identity, "");
    if (message == nullptr) return absl::OkStatus();  // the handler calls CheckWorkspace
    GRAFT_ASSIGN_OR_RETURN(call.workspace, WorkspaceOf(*this, message));
  }
  return CheckAccess(rule, *call.identity, call.workspace);
}

uint64_t Method::ScheduleDeadline(absl::Time when, std::function<void()> expire) const {
  return core->timers.RunAt(when, std::move(expire));
}

void Method::CancelDeadline(uint64_t id) const { core->timers.Cancel(id); }

namespace {

// Where a request of workspace scope names what it acts upon: parent, name, workspace, the name of
// the resource that it carries, or one of these references. What else a request refers to, the
// handler checks.
constexpr const char* kReferences[] = {"version", "fileset", "session", "model", "target", "from"};

std::vector<const google::protobuf::FieldDescriptor*> ResourcePath(
    const google::protobuf::Descriptor& request) {
  using google::protobuf::FieldDescriptor;
  const auto singular_string = [](const FieldDescriptor* field) {
    return field != nullptr && !field->is_repeated() &&
           field->type() == FieldDescriptor::TYPE_STRING;
  };
  for (const char* name : {"parent", "name", "workspace"}) {
    const FieldDescriptor* field = request.FindFieldByName(name);
    if (singular_string(field)) return {field};
  }
  for (int i = 0; i < request.field_count(); ++i) {
    const FieldDescriptor* field = request.field(i);
    if (field->is_repeated() || field->message_type() == nullptr) continue;
    const FieldDescriptor* name = field->message_type()->FindFieldByName("name");
    if (singular_string(name)) return {field, name};
  }
  for (const char* name : kReferences) {
    const FieldDescriptor* field = request.FindFieldByName(name);
    if (singular_string(field)) return {field};
  }
  return {};
}

absl::Status Misfit(const Method& method, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("binding of ", method.path, ": ", what));
}

absl::Status CheckBinding(const google::protobuf::MethodDescriptor& declared, Method& method) {
  if (declared.client_streaming() != method.client_streaming ||
      declared.server_streaming() != method.server_streaming) {
    return Misfit(method, "the contract streams otherwise");
  }
  if (method.request != nullptr && method.request != declared.input_type()) {
    return Misfit(method, absl::StrCat("takes ", declared.input_type()->full_name(), ", not ",
                                       method.request->full_name()));
  }
  if (method.response != nullptr && method.response != declared.output_type()) {
    return Misfit(method, absl::StrCat("gives ", declared.output_type()->full_name(), ", not ",
                                       method.response->full_name()));
  }
  GRAFT_ASSIGN_OR_RETURN(method.rule, AccessRuleOf(declared));
  if (method.rule.scope != Scope::kWorkspace || method.request == nullptr ||
      method.client_streaming) {
    return absl::OkStatus();
  }
  method.resource_path = ResourcePath(*method.request);
  if (method.resource_path.empty()) {
    return Misfit(method, absl::StrCat(method.request->full_name(), " names no resource"));
  }
  return absl::OkStatus();
}

// Answers a method of the contract that nobody bound.
class NotImplemented final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit NotImplemented(const std::string& path) {
    Finish(grpc::Status(grpc::StatusCode::UNIMPLEMENTED,
                        absl::StrCat(path.substr(1), " is not implemented by this server")));
  }
  void OnDone() override { delete this; }
};

class GrpcService final : public grpc::Service {
 public:
  void Register(Method& method) {
    using Type = grpc::internal::RpcMethod::RpcType;
    const Type type = method.client_streaming && method.server_streaming ? Type::BIDI_STREAMING
                      : method.client_streaming                          ? Type::CLIENT_STREAMING
                      : method.server_streaming                          ? Type::SERVER_STREAMING
                                                                         : Type::NORMAL_RPC;
    AddMethod(new grpc::internal::RpcServiceMethod(method.path.c_str(), type, nullptr));
    if (method.raw) {
      MarkMethodRawCallback(count_++, method.handler.release());
    } else {
      MarkMethodCallback(count_++, method.handler.release());
    }
  }

 private:
  int count_ = 0;
};

std::unique_ptr<Method> MakeUnimplemented(const std::string& path) {
  auto method = std::make_unique<Method>();
  method->path = path;
  method->raw = method->client_streaming = method->server_streaming = true;
  method->handler =
      std::make_unique<grpc::internal::CallbackBidiHandler<grpc::ByteBuffer, grpc::ByteBuffer>>(
          [path](grpc::CallbackServerContext*) { return new NotImplemented(path); });
  return method;
}

}  // namespace
}  // namespace internal

namespace {

// Linking gRPC's reflection adds its plugin to every server; this makes it one, or none.
class ReflectionOption final : public grpc::ServerBuilderOption {
 public:
  explicit ReflectionOption(bool enabled) : enabled_(enabled) {}
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    auto own = std::make_unique<grpc::reflection::ProtoServerReflectionPlugin>();
    plugins->erase(
        std::remove_if(plugins->begin(), plugins->end(),
                       [&](const auto& plugin) { return plugin->name() == own->name(); }),
        plugins->end());
    if (enabled_) plugins->push_back(std::move(own));
  }

 private:
  const bool enabled_;
};

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> MakeCredentials(
    const ServerOptions& options) {
  const bool has_tls = !options.tls.private_key.empty() && !options.tls.certificate_chain.empty();
  if (options.insecure == has_tls) {
    return absl::InvalidArgumentError(
        "give the server a TLS certificate and key, or `insecure` (loopback only), and not both");
  }
  if (options.insecure) {
    if (!IsLoopback(options.address)) {
      return absl::InvalidArgumentError(
          absl::StrCat("plaintext is served on loopback addresses only, and '", options.address,
                       "' is none; give the server a TLS certificate and key"));
    }
    return grpc::InsecureServerCredentials();
  }
  if (options.require_client_certificate && options.client_ca.empty()) {
    return absl::InvalidArgumentError("client certificates are required, but client_ca is not set");
  }
  grpc::SslServerCredentialsOptions ssl(
      options.client_ca.empty() ? GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE
      : options.require_client_certificate
          ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
          : GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_AND_VERIFY);
  ssl.pem_root_certs = options.client_ca;
  ssl.pem_key_cert_pairs.push_back({options.tls.private_key, options.tls.certificate_chain});
  return grpc::SslServerCredentials(ssl);
}

void SetArguments(const ServerOptions& options, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  builder.SetMaxSendMessageSize(options.max_message_bytes);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(
      GRPC_ARG_KEEPALIVE_TIME_MS,
      static_cast<int>(absl::ToInt64Milliseconds(options.keepalive_interval)));
  builder.AddChannelArgument(
      GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
      static_cast<int>(absl::ToInt64Milliseconds(options.keepalive_timeout)));
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, 32 << 10);  // tokens with many workspaces
  if (!options.bulk_data) return;
  for (const IntArgument& argument : kBulkArguments) {
    builder.AddChannelArgument(argument.name, argument.value);
  }
}

constexpr absl::Duration kHealthInterval = absl::Seconds(1);

}  // namespace

void Call::Report(const absl::Status& status) {
  if (reported_.exchange(true) || !on_finish) return;
  if (held_calls != nullptr) held_calls->Release(held_);
  on_finish(*this, status);
}

void Call::OnShutdown(std::function<void(const absl::Status&)> end) {
  if (held_calls == nullptr) return;
  held_ = held_calls->Hold([end = std::move(end)] {
    end(absl::UnavailableError("the server is shutting down; call again"));
  });
  if (reported_) held_calls->Release(held_);
}

absl::Status Call::Finish(const absl::Status& status) {
  Report(status);
  if (status.ok()) return status;
  ErrorBuilder error(status);
  error.RequestId(request_id);
  if (!trace_id.empty()) error.Metadata("trace_id", trace_id);
  return error.Build();
}

struct Server::State {
  explicit State(ServerOptions given) : options(std::move(given)), core(options) {}

  // Checks the bindings of one service against its descriptor and hands them to gRPC.
  absl::Status AddService(Service service, grpc::ServerBuilder& builder);
  void PollHealth();

  const ServerOptions options;
  internal::ServerCore core;
  std::vector<std::unique_ptr<internal::Method>> methods;
  std::vector<std::unique_ptr<internal::GrpcService>> services;
  std::unique_ptr<MetricsServer> metrics_server;
  std::unique_ptr<grpc::Server> server;
  int port = 0;
  Mutex mu;
  bool draining GRAFT_GUARDED_BY(mu) = false;
};

absl::Status Server::State::AddService(Service service, grpc::ServerBuilder& builder) {
  const auto* declared =
      google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(service.full_name());
  if (declared == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("service ", service.full_name(), " is not in the contract"));
  }
  auto bound = service.TakeMethods();
  auto grpc_service = std::make_unique<internal::GrpcService>();
  for (int i = 0; i < declared->method_count(); ++i) {
    const auto& method = *declared->method(i);
    const std::string path = absl::StrCat("/", service.full_name(), "/", method.name());
    const auto it = std::find_if(bound.begin(), bound.end(), [&](const auto& candidate) {
      return candidate && candidate->name == method.name();
    });
    std::unique_ptr<internal::Method> added;
    if (it == bound.end()) {
      GRAFT_RETURN_IF_ERROR(AccessRuleOf(method).status());
      added = internal::MakeUnimplemented(path);
    } else {
      added = std::move(*it);
      bound.erase(it);
      added->path = path;
      GRAFT_RETURN_IF_ERROR(internal::CheckBinding(method, *added));
    }
    added->core = &core;
    added->metrics_index = core.metrics.AddMethod(path.substr(1));
    grpc_service->Register(*added);
    methods.push_back(std::move(added));
  }
  if (!bound.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("service ", service.full_name(),
                                                   " has no method '", bound[0]->name,
                                                   "', or it is bound twice"));
  }
  builder.RegisterService(grpc_service.get());
  services.push_back(std::move(grpc_service));
  return absl::OkStatus();
}

void Server::State::PollHealth() {
  {
    MutexLock lock(mu);
    if (draining) return;
    server->GetHealthCheckService()->SetServingStatus(options.health().ok());
  }
  core.timers.RunAt(core.clock.Now() + kHealthInterval, [this] { PollHealth(); });
}

absl::StatusOr<std::unique_ptr<Server>> Server::Start(ServerOptions options,
                                                      std::vector<Service> services) {
  GRAFT_ASSIGN_OR_RETURN(auto credentials, MakeCredentials(options));
  auto state = std::make_unique<State>(std::move(options));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::ServerBuilder builder;
  SetArguments(state->options, builder);
  builder.SetOption(std::make_unique<ReflectionOption>(state->options.reflection));
  for (Service& service : services) {
    GRAFT_RETURN_IF_ERROR(state->AddService(std::move(service), builder));
  }
  builder.AddListeningPort(state->options.address, credentials, &state->port);
  if (!state->options.metrics_address.empty()) {
    GRAFT_ASSIGN_OR_RETURN(state->metrics_server,
                           MetricsServer::Start(state->options.metrics_address,
                                                state->core.registry, state->options.health));
  }
  state->server = builder.BuildAndStart();
  if (state->server == nullptr || state->port == 0) {
    return absl::UnavailableError(absl::StrCat(
        "cannot listen on '", state->options.address,
        "': the port is taken, the address is not of this machine, or the certificate and key do "
        "not fit"));
  }
  if (state->options.health) {
    state->core.timers.RunAt(state->core.clock.Now(), [raw = state.get()] { raw->PollHealth(); });
  }
  return std::unique_ptr<Server>(new Server(std::move(state)));
}

Server::Server(std::unique_ptr<State> state) : state_(std::move(state)) {}

Server::~Server() {
  Shutdown(absl::ZeroDuration());
  state_->core.timers.Stop();
}

int Server::port() const { return state_->port; }

int Server::metrics_port() const {
  return state_->metrics_server == nullptr ? 0 : state_->metrics_server->port();
}

prometheus::Registry& Server::registry() { return *state_->core.registry; }

void Server::Shutdown(absl::Duration grace) {
  bool first;
  {
    MutexLock lock(state_->mu);
    first = !std::exchange(state_->draining, true);
    if (first) state_->server->GetHealthCheckService()->Shutdown();
  }
  if (!first) return;
  state_->core.held_calls.EndAll();
  state_->server->Shutdown(absl::ToChronoTime(absl::Now() + grace));
}

}  // namespace graft::rpc
