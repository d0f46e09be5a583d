// Calls per second and their latencies over loopback: one server and one client in this process,
// one connection, kOutstanding calls under way. The peer is the same echo over generated gRPC code
// without identity, rules, request ids, metrics or logs: what proto/rpc adds is what it costs.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "grpcpp/impl/codegen/client_callback.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"
#include "grpcpp/server_builder.h"
#include "rpc/access_token.h"
#include "rpc/client.h"
#include "rpc/server.h"
#include "rpc/service.h"
#include "rpc/testing/echo.grpc.pb.h"
#include "rpc/tls_material.h"
#include "tests/support/tier.h"

namespace graft::rpc {
namespace {

using testing::EchoRequest;
using testing::EchoResponse;
using testing::EchoService;

constexpr int kOutstanding = 64;
// What the scheduler's `get` is to reach leaves room below these.
constexpr double kPlaintextBar = 20000;
constexpr double kTlsBar = 12000;

struct Result {
  double calls_per_second = 0;
  double p50_ms = 0;
  double p99_ms = 0;
};

// Keeps kOutstanding calls under way until `calls` have ended.
class Driver {
 public:
  Driver(Connection& connection, EchoService::Stub& stub, int calls)
      : connection_(connection), stub_(stub), to_start_(calls), left_(calls) {
    request_.set_name("workspaces/w/jobs/j");
    request_.set_text("hello");
    latencies_.resize(static_cast<size_t>(calls));
  }

  Result Run() {
    const size_t calls = latencies_.size();
    const absl::Time start = absl::Now();
    for (int i = 0; i < kOutstanding; ++i) StartOne();
    done_.Wait();
    const absl::Duration took = absl::Now() - start;
    std::sort(latencies_.begin(), latencies_.end());
    return {static_cast<double>(calls) / absl::ToDoubleSeconds(took),
            absl::ToDoubleMilliseconds(latencies_[calls / 2]),
            absl::ToDoubleMilliseconds(latencies_[calls * 99 / 100])};
  }

 private:
  struct Pending {
    grpc::ClientContext context;
    EchoResponse response;
    absl::Time start;
  };

  void StartOne() {
    if (to_start_.fetch_sub(1) <= 0) return;
    auto* pending = new Pending;
    GRAFT_CHECK_OK(connection_.Prepare(pending->context, {.deadline = absl::Seconds(60)}));
    pending->start = absl::Now();
    stub_.async()->Echo(&pending->context, &request_, &pending->response,
                        [this, pending](grpc::Status status) {
                          GRAFT_CHECK_OK(FromGrpcStatus(status));
                          GRAFT_CHECK(pending->response.text() == "hello") << "a wrong echo";
                          const absl::Duration took = absl::Now() - pending->start;
                          delete pending;
                          StartOne();
                          const int index = left_.fetch_sub(1) - 1;
                          latencies_[static_cast<size_t>(index)] = took;
                          if (finished_.fetch_add(1) + 1 == latencies_.size()) done_.Notify();
                        });
  }

  Connection& connection_;
  EchoService::Stub& stub_;
  EchoRequest request_;
  std::atomic<int> to_start_;
  std::atomic<int> left_;
  std::atomic<size_t> finished_{0};
  std::vector<absl::Duration> latencies_;
  Notification done_;
};

Result Measure(DialOptions options, int calls) {
  auto connection = Connection::Dial(std::move(options));
  GRAFT_CHECK_OK(connection.status());
  const auto stub = EchoService::NewStub((*connection)->channel());
  Driver(**connection, *stub, 2000).Run();  // connects and warms up
  return Driver(**connection, *stub, calls).Run();
}

class Ours {
 public:
  absl::StatusOr<EchoResponse> Echo(const Call&, const EchoRequest& request) {
    EchoResponse response;
    response.set_text(request.text());
    return response;
  }
};

class BareCallback final : public EchoService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Echo(grpc::CallbackServerContext* context, const EchoRequest* request,
                                 EchoResponse* response) override {
    response->set_text(request->text());
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

class BareSync final : public EchoService::Service {
 public:
  grpc::Status Echo(grpc::ServerContext*, const EchoRequest* request,
                    EchoResponse* response) override {
    response->set_text(request->text());
    return grpc::Status::OK;
  }
};

Result MeasureBare(grpc::Service& service, std::shared_ptr<grpc::ServerCredentials> credentials,
                   DialOptions options, int calls) {
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", std::move(credentials), &port);
  builder.RegisterService(&service);
  const auto server = builder.BuildAndStart();
  GRAFT_CHECK(server != nullptr) << "the peer does not start";
  options.address = absl::StrFormat("localhost:%d", port);
  const Result result = Measure(std::move(options), calls);
  server->Shutdown();
  return result;
}

Result MeasureOurs(ServerOptions server_options, DialOptions options, int calls) {
  Ours ours;
  std::vector<Service> services;
  services.emplace_back("graft.rpc.testing.EchoService");
  services.back().Unary("Echo", &ours, &Ours::Echo);
  auto server = Server::Start(std::move(server_options), std::move(services));
  GRAFT_CHECK_OK(server.status());
  options.address = absl::StrFormat("localhost:%d", (*server)->port());
  return Measure(std::move(options), calls);
}

// Prints one figure as a JSON line; returns whether it holds. A bar of 0 is none.
bool Report(const char* metric, double value, const char* unit, const char* peer, double peer_value,
            double bar) {
  const bool ok = bar == 0 || value >= bar;
  absl::PrintF(
      "{\"bench\":\"rpc\",\"metric\":\"%s\",\"value\":%.6g,\"unit\":\"%s\",\"peer\":\"%s\","
      "\"peer_value\":%.6g,\"ratio\":%.3f,\"bar\":%.6g,\"ok\":%s}\n",
      metric, value, unit, peer, peer_value, value / peer_value, bar, ok ? "true" : "false");
  return ok;
}

void PrintRow(const char* what, const Result& result) {
  absl::PrintF("%-44s %10.0f %9.2f %9.2f\n", what, result.calls_per_second, result.p50_ms,
               result.p99_ms);
}

int Main() {
  const int calls = graft::testing::ByTier(20000, 100000, 1000000);
  const absl::Time from = absl::Now() - absl::Hours(1);
  const auto authority = MakeAuthority({"bench", {}, from});
  const auto certificate = MakeCertificate(*authority, {"server", {"localhost"}, from});
  GRAFT_CHECK_OK(certificate.status());

  RealClock clock;
  const auto signer = TokenSigner::FromSeed(std::string(32, 'k'));
  TokenVerifier verifier(
      clock,
      {.issuer = "graft", .audiences = {"graft"}, .keys = {signer->public_key()}, .peers = {}});
  const auto token = signer->Sign({.issuer = "graft",
                                   .audience = "graft",
                                   .subject = "bench",
                                   .roles = {{"w", Role::kViewer}},
                                   .jti = "1",
                                   .expires = clock.WallNow() + absl::Hours(1)});
  GRAFT_CHECK_OK(token.status());
  TokenSource tokens(clock, [&] { return AccessToken{*token}; });

  const DialOptions plaintext{.insecure = true};
  const DialOptions tls{.server_ca = authority->certificate};
  DialOptions plaintext_token = plaintext, tls_token = tls;
  plaintext_token.tokens = tls_token.tokens = &tokens;

  grpc::SslServerCredentialsOptions ssl;
  ssl.pem_key_cert_pairs.push_back({certificate->private_key, certificate->certificate});
  BareCallback bare;
  BareSync sync;
  const Result bare_sync = MeasureBare(sync, grpc::InsecureServerCredentials(), plaintext, calls);
  const Result bare_plain = MeasureBare(bare, grpc::InsecureServerCredentials(), plaintext, calls);
  const Result ours_plain =
      MeasureOurs({.insecure = true, .authenticator = &verifier}, plaintext_token, calls);
  const Result bare_tls = MeasureBare(bare, grpc::SslServerCredentials(ssl), tls, calls);
  const Result ours_tls = MeasureOurs(
      {.tls = {certificate->certificate, certificate->private_key}, .authenticator = &verifier},
      tls_token, calls);

  bool ok = Report("echo_plaintext_token", ours_plain.calls_per_second, "calls/s",
                   "gRPC callback, nothing added", bare_plain.calls_per_second, kPlaintextBar);
  ok &= Report("echo_tls_token", ours_tls.calls_per_second, "calls/s",
               "gRPC callback over TLS, nothing added", bare_tls.calls_per_second, kTlsBar);
  Report("echo_plaintext_token_p99", ours_plain.p99_ms, "ms", "gRPC callback, nothing added",
         bare_plain.p99_ms, 0);
  Report("echo_tls_token_p99", ours_tls.p99_ms, "ms", "gRPC callback over TLS, nothing added",
         bare_tls.p99_ms, 0);

  absl::PrintF("\n%d calls, %d under way      %22s %9s %9s\n", calls, kOutstanding, "calls/s",
               "p50 ms", "p99 ms");
  PrintRow("gRPC sync server, plaintext", bare_sync);
  PrintRow("gRPC callback server, plaintext", bare_plain);
  PrintRow("proto/rpc, plaintext, token, role", ours_plain);
  PrintRow("gRPC callback server, TLS", bare_tls);
  PrintRow("proto/rpc, TLS, token, role", ours_tls);
  return ok ? 0 : 1;
}

}  // namespace
}  // namespace graft::rpc

int main() { return graft::rpc::Main(); }
