// Real servers on loopback ports, called over real channels.
#include "rpc/server.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/status_matchers.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/impl/codegen/client_callback.h"
#include "gtest/gtest.h"
#include "rpc/access_token.h"
#include "rpc/client.h"
#include "rpc/held_calls.h"
#include "rpc/service.h"
#include "rpc/testing/echo.grpc.pb.h"
#include "rpc/tls_material.h"

namespace graft::rpc {
namespace {

using testing::EchoRequest;
using testing::EchoResponse;
using testing::EchoService;
using ::testing::HasSubstr;

class Echoer {
 public:
  Service Bind() {
    Service service("graft.rpc.testing.EchoService");
    service.Unary("Ping", this, &Echoer::Echo)
        .Unary("Echo", this, &Echoer::Echo)
        .Unary("Admin", this, &Echoer::Echo)
        .Unary("Download", this, &Echoer::Take<testing::DownloadRequest>)
        .Unary("Update", this, &Echoer::Take<testing::UpdateRequest>)
        .Async("Wait", this, &Echoer::Wait)
        .Stream("Count", this, &Echoer::Count);
    return service;
  }

  absl::StatusOr<EchoResponse> Echo(const Call& call, const EchoRequest& request) {
    if (++calls_ <= fail_first) return absl::UnavailableError("not yet");
    if (request.text() == "fail") {
      return ErrorBuilder(absl::StatusCode::kInvalidArgument, "bad")
          .Field("text", "is fail")
          .Build();
    }
    EchoResponse response;
    response.set_text(request.text());
    response.set_subject(call.identity->subject);
    last_trace = call.trace_id;
    return response;
  }

  template <typename Request>
  absl::StatusOr<EchoResponse> Take(const Call& call, const Request&) {
    EchoResponse response;
    response.set_text(call.workspace);
    return response;
  }

  // Answers when released, with the server's end when `text` is "held", and drops the call when it
  // is "drop".
  void Wait(std::shared_ptr<Call> call, const EchoRequest& request,
            Responder<EchoResponse> responder) {
    if (request.text() == "drop") return;
    if (request.text() == "held") {
      const auto kept = std::make_shared<Responder<EchoResponse>>(std::move(responder));
      call->OnShutdown([kept](const absl::Status& status) { kept->Answer(status); });
      return arrived.Notify();
    }
    responder.OnCancel([this] { cancelled.Notify(); });
    MutexLock lock(mu_);
    waiting_.push_back(std::move(responder));
    arrived.Notify();
  }

  void ReleaseAll() {
    MutexLock lock(mu_);
    for (auto& responder : waiting_) {
      EchoResponse response;
      response.set_text("released");
      responder.Answer(response);
    }
    waiting_.clear();
  }

  void Count(std::shared_ptr<Call> call, const EchoRequest& request,
             std::shared_ptr<StreamWriter<EchoResponse>> writer) {
    for (int i = 0; i < request.count(); ++i) {
      EchoResponse response;
      response.set_text(std::to_string(i));
      if (!writer->Write(response).ok()) break;
    }
    if (request.text() == "held") return;
    writer->Finish(request.text() == "fail" ? absl::DataLossError("lost") : absl::OkStatus());
  }

  int fail_first = 0;
  std::atomic<int> calls_{0};
  std::string last_trace;
  Notification arrived, cancelled;

 private:
  Mutex mu_;
  std::deque<Responder<EchoResponse>> waiting_ GRAFT_GUARDED_BY(mu_);
};

class ServerTest : public ::testing::Test {
 protected:
  ServerTest()
      : signer_(*TokenSigner::FromSeed(std::string(32, 'k'))),
        verifier_(clock_, {.issuer = "graft",
                           .audiences = {"graft"},
                           .keys = {signer_.public_key()},
                           .peers = {{"scheduler.graft", SchedulerIdentity()}}}) {}

  static Identity SchedulerIdentity() {
    Identity identity;
    identity.kind = IdentityKind::kScheduler;
    identity.subject = "scheduler";
    return identity;
  }

  std::string Token(std::map<std::string, Role> roles) {
    return *signer_.Sign({.issuer = "graft",
                          .audience = "graft",
                          .subject = "ann",
                          .roles = std::move(roles),
                          .jti = "t1",
                          .expires = clock_.WallNow() + absl::Minutes(10)});
  }

  void StartServer(ServerOptions options = {.insecure = true}) {
    options.authenticator = &verifier_;
    std::vector<Service> services;
    services.push_back(echoer_.Bind());
    auto server = Server::Start(std::move(options), std::move(services));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  void Dial(DialOptions options = {.insecure = true}) {
    options.address = "localhost:" + std::to_string(server_->port());
    auto connection = Connection::Dial(std::move(options));
    ASSERT_TRUE(connection.ok()) << connection.status();
    connection_ = *std::move(connection);
    stub_ = EchoService::NewStub(connection_->channel());
  }

  // Dials with a token that holds `roles`.
  void DialAs(std::map<std::string, Role> roles, DialOptions options = {.insecure = true}) {
    tokens_ =
        std::make_unique<TokenSource>(clock_, [this, roles] { return AccessToken{Token(roles)}; });
    options.tokens = tokens_.get();
    Dial(std::move(options));
  }

  using Method = grpc::Status (EchoService::Stub::*)(grpc::ClientContext*, const EchoRequest&,
                                                     EchoResponse*);
  absl::StatusOr<EchoResponse> CallMethod(Method method, const std::string& text,
                                          const std::string& name = "workspaces/w/jobs/j",
                                          CallOptions call = {}) {
    EchoRequest request;
    request.set_text(text);
    request.set_name(name);
    return connection_->Call<EchoResponse>(*stub_, method, request, call);
  }

  RealClock clock_;
  TokenSigner signer_;
  TokenVerifier verifier_;
  Echoer echoer_;
  std::unique_ptr<Server> server_;
  std::unique_ptr<TokenSource> tokens_;
  std::unique_ptr<Connection> connection_;
  std::unique_ptr<EchoService::Stub> stub_;
};

TEST_F(ServerTest, APublicMethodNeedsNoToken) {
  StartServer();
  Dial();
  EXPECT_EQ(CallMethod(&EchoService::Stub::Ping, "hello")->text(), "hello");
  EXPECT_THAT(CallMethod(&EchoService::Stub::Echo, "x"),
              StatusIs(absl::StatusCode::kUnauthenticated));
}

TEST_F(ServerTest, RolesAreThoseOfTheWorkspaceThatTheRequestNames) {
  StartServer();
  DialAs({{"w", Role::kViewer}});
  EXPECT_EQ(CallMethod(&EchoService::Stub::Echo, "x")->subject(), "ann");
  EXPECT_THAT(CallMethod(&EchoService::Stub::Echo, "x", "workspaces/other"),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(CallMethod(&EchoService::Stub::Echo, "x", "nodes/n"),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(CallMethod(&EchoService::Stub::Admin, "x"),
              StatusIs(absl::StatusCode::kPermissionDenied, HasSubstr("admin")));
  DialAs({{"*", Role::kAdmin}});
  EXPECT_THAT(CallMethod(&EchoService::Stub::Admin, "x"), IsOk());
  EXPECT_THAT(CallMethod(&EchoService::Stub::Echo, "x", "workspaces/other"), IsOk());
}

TEST_F(ServerTest, TheWorkspaceMayStandInAReferenceOrInTheResourceCarried) {
  StartServer();
  DialAs({{"w", Role::kViewer}, {"mine", Role::kUser}});
  testing::DownloadRequest download;
  download.set_version("workspaces/w/filesets/f/versions/1");
  const auto downloaded =
      connection_->Call<EchoResponse>(*stub_, &EchoService::Stub::Download, download);
  EXPECT_EQ(downloaded->text(), "w");
  testing::UpdateRequest update;
  EXPECT_THAT(connection_->Call<EchoResponse>(*stub_, &EchoService::Stub::Update, update),
              StatusIs(absl::StatusCode::kInvalidArgument));
  update.mutable_echo()->set_name("workspaces/w/jobs/j");
  EXPECT_THAT(connection_->Call<EchoResponse>(*stub_, &EchoService::Stub::Update, update),
              StatusIs(absl::StatusCode::kPermissionDenied));
  update.mutable_echo()->set_name("workspaces/mine/jobs/j");
  EXPECT_THAT(connection_->Call<EchoResponse>(*stub_, &EchoService::Stub::Update, update), IsOk());
}

TEST_F(ServerTest, ErrorsCarryTheirFieldsAndTheRequestId) {
  StartServer();
  Dial();
  const absl::Status status = CallMethod(&EchoService::Stub::Ping, "fail").status();
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, "bad"));
  const ErrorDetails details = ReadErrorDetails(status);
  ASSERT_EQ(details.fields.size(), 1u);
  EXPECT_EQ(details.fields[0].field, "text");
  EXPECT_NE(details.request_id, "");
}

TEST_F(ServerTest, AnUnboundMethodIsNamed) {
  StartServer();
  Dial();
  EXPECT_THAT(CallMethod(&EchoService::Stub::Unbound, "x"),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("EchoService/Unbound")));
}

TEST_F(ServerTest, AnIdempotentCallIsRetriedAndAnotherIsNot) {
  StartServer();
  Dial();
  echoer_.fail_first = 2;
  EXPECT_THAT(CallMethod(&EchoService::Stub::Ping, "x"), StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(echoer_.calls_, 1);
  EXPECT_THAT(CallMethod(&EchoService::Stub::Ping, "x", "", {.idempotent = true}), IsOk());
  EXPECT_EQ(echoer_.calls_, 3);
}

TEST_F(ServerTest, AnAnswerMayComeLaterFromAnotherThread) {
  StartServer();
  DialAs({});
  std::thread releaser([&] {
    echoer_.arrived.Wait();
    echoer_.ReleaseAll();
  });
  EXPECT_EQ(CallMethod(&EchoService::Stub::Wait, "x")->text(), "released");
  releaser.join();
}

TEST_F(ServerTest, ADroppedCallAnswersInternal) {
  StartServer();
  DialAs({});
  EXPECT_THAT(CallMethod(&EchoService::Stub::Wait, "drop"), StatusIs(absl::StatusCode::kInternal));
}

TEST_F(ServerTest, TheHandlerLearnsThatTheClientGaveUp) {
  StartServer();
  DialAs({});
  EXPECT_THAT(CallMethod(&EchoService::Stub::Wait, "x", "", {.deadline = absl::Milliseconds(100)}),
              StatusIs(absl::StatusCode::kDeadlineExceeded));
  EXPECT_TRUE(echoer_.cancelled.WaitFor(absl::Seconds(10)));
}

TEST_F(ServerTest, ACallWithoutADeadlineGetsTheServers) {
  StartServer({.insecure = true, .default_deadline = absl::Milliseconds(100)});
  DialAs({});
  grpc::ClientContext context;
  ASSERT_THAT(connection_->Prepare(context), IsOk());
  EchoResponse response;
  EXPECT_EQ(stub_->Wait(&context, EchoRequest(), &response).error_code(),
            grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(echoer_.cancelled.WaitFor(absl::Seconds(10)));
}

TEST_F(ServerTest, AStreamGivesItsMessagesInOrderAndThenItsStatus) {
  StartServer();
  Dial();
  grpc::ClientContext context;
  EchoRequest request;
  request.set_count(500);
  request.set_text("fail");
  auto reader = stub_->Count(&context, request);
  EchoResponse response;
  int next = 0;
  while (reader->Read(&response)) EXPECT_EQ(response.text(), std::to_string(next++));
  EXPECT_EQ(next, 500);
  EXPECT_THAT(FromGrpcStatus(reader->Finish()), StatusIs(absl::StatusCode::kDataLoss, "lost"));
}

TEST_F(ServerTest, TheTraceOfTheCallerReachesTheHandler) {
  StartServer();
  Dial();
  const std::string trace(32, 'a');
  EXPECT_THAT(CallMethod(&EchoService::Stub::Ping, "x", "",
                         {.traceparent = "00-" + trace + "-bbbbbbbbbbbbbbbb-01"}),
              IsOk());
  EXPECT_EQ(echoer_.last_trace, trace);
  const auto failed = CallMethod(&EchoService::Stub::Ping, "fail", "",
                                 {.traceparent = "00-" + trace + "-bbbbbbbbbbbbbbbb-01"});
  EXPECT_EQ(ReadErrorDetails(failed.status()).metadata["trace_id"], trace);
}

TEST_F(ServerTest, ShutdownEndsWhatHangs) {
  StartServer();
  DialAs({});
  std::thread caller([&] { EXPECT_FALSE(CallMethod(&EchoService::Stub::Wait, "x").ok()); });
  echoer_.arrived.Wait();
  const absl::Time start = absl::Now();
  server_->Shutdown(absl::Milliseconds(50));
  EXPECT_LT(absl::Now() - start, absl::Seconds(10));
  caller.join();
}

// With a long grace: were they waited for, the status would be CANCELLED, after ten minutes.
TEST_F(ServerTest, ShutdownEndsAtOnceWhatIsHeld) {
  StartServer();
  DialAs({});
  grpc::ClientContext context;
  EchoRequest request;
  request.set_count(1);
  request.set_text("held");
  auto reader = stub_->Count(&context, request);
  EchoResponse response;
  ASSERT_TRUE(reader->Read(&response));
  absl::Status waited;
  std::thread caller([&] { waited = CallMethod(&EchoService::Stub::Wait, "held").status(); });
  echoer_.arrived.Wait();
  server_->Shutdown(absl::Minutes(10));
  caller.join();
  EXPECT_THAT(waited, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("call again")));
  EXPECT_FALSE(reader->Read(&response));
  EXPECT_THAT(FromGrpcStatus(reader->Finish()),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("call again")));
}

TEST(HeldCallsTest, WhatComesAfterTheEndEndsAtOnce) {
  HeldCalls calls;
  int first = 0, second = 0, late = 0;
  const uint64_t id = calls.Hold([&] { ++first; });
  calls.Hold([&] { ++second; });
  calls.Release(id);
  calls.EndAll();
  EXPECT_EQ(calls.Hold([&] { ++late; }), 0u);
  calls.EndAll();
  EXPECT_EQ(first, 0);
  EXPECT_EQ(second, 1);
  EXPECT_EQ(late, 1);
}

// The answer to an HTTP GET on a loopback port.
std::string HttpGet(int port, const std::string& path) {
  const UniqueFd fd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) return "";
  const std::string request = absl::StrCat("GET ", path, " HTTP/1.0\r\n\r\n");
  if (write(fd.get(), request.data(), request.size()) < 0) return "";
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = read(fd.get(), buffer, sizeof(buffer))) > 0;) answer.append(buffer, n);
  return answer;
}

TEST_F(ServerTest, MetricsAndHealthTellTheTruth) {
  std::atomic<bool> healthy{true};
  StartServer({.insecure = true, .metrics_address = "127.0.0.1:0", .health = [&] {
                 return healthy ? absl::OkStatus() : absl::UnavailableError("the disk is full");
               }});
  Dial();
  ASSERT_THAT(CallMethod(&EchoService::Stub::Ping, "x"), IsOk());
  ASSERT_FALSE(CallMethod(&EchoService::Stub::Ping, "fail").ok());
  const std::string metrics = HttpGet(server_->metrics_port(), "/metrics");
  EXPECT_THAT(metrics, HasSubstr("graft_rpc_calls_total{code=\"OK\",method=\"graft.rpc.testing."
                                 "EchoService/Ping\"} 1"));
  EXPECT_THAT(metrics, HasSubstr("code=\"INVALID_ARGUMENT\""));
  EXPECT_THAT(metrics, HasSubstr("graft_rpc_seconds_count"));
  EXPECT_THAT(HttpGet(server_->metrics_port(), "/healthz"), HasSubstr("200 OK"));
  healthy = false;
  const std::string sick = HttpGet(server_->metrics_port(), "/healthz");
  EXPECT_THAT(sick, HasSubstr("503"));
  EXPECT_THAT(sick, HasSubstr("the disk is full"));
  EXPECT_THAT(HttpGet(server_->metrics_port(), "/etc/passwd"), HasSubstr("404"));
}

// The status of a raw call, to a method of gRPC's own services or with what is no message.
grpc::StatusCode RawCall(const std::shared_ptr<grpc::Channel>& channel, const std::string& path,
                         const std::string& bytes = "") {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  grpc::Slice slice(bytes);
  grpc::ByteBuffer request(&slice, 1), response;
  Notification done;
  grpc::Status result;
  stub.UnaryCall(&context, path, grpc::StubOptions(), &request, &response,
                 [&](grpc::Status status) {
                   result = status;
                   done.Notify();
                 });
  done.Wait();
  return result.error_code();
}

TEST_F(ServerTest, ARequestThatCannotBeReadReachesNoHandler) {
  StartServer();
  Dial();
  for (const char* method : {"Ping", "Wait"}) {
    const std::string path = absl::StrCat("/graft.rpc.testing.EchoService/", method);
    EXPECT_EQ(RawCall(connection_->channel(), path, "\xff"), grpc::StatusCode::UNIMPLEMENTED);
  }
  EXPECT_EQ(echoer_.calls_, 0);
}

TEST_F(ServerTest, HealthIsServedAndReflectionCanBeSwitchedOff) {
  constexpr char kHealth[] = "/grpc.health.v1.Health/Check";
  constexpr char kReflection[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";
  StartServer();
  Dial();
  EXPECT_EQ(RawCall(connection_->channel(), kHealth), grpc::StatusCode::OK);
  EXPECT_NE(RawCall(connection_->channel(), kReflection), grpc::StatusCode::UNIMPLEMENTED);
  StartServer({.insecure = true, .reflection = false});
  Dial();
  EXPECT_EQ(RawCall(connection_->channel(), kHealth), grpc::StatusCode::OK);
  EXPECT_EQ(RawCall(connection_->channel(), kReflection), grpc::StatusCode::UNIMPLEMENTED);
}

TEST_F(ServerTest, APortThatIsTakenIsSaid) {
  StartServer();
  EXPECT_THAT(
      Server::Start({.address = absl::StrCat("127.0.0.1:", server_->port()), .insecure = true}, {})
          .status(),
      StatusIs(absl::StatusCode::kUnavailable, HasSubstr("cannot listen")));
}

TEST_F(ServerTest, ARefusedTokenIsRenewedOnce) {
  StartServer();
  int fetched = 0;
  tokens_ = std::make_unique<TokenSource>(clock_, [&] {
    return AccessToken{++fetched == 1 ? "stale" : Token({{"w", Role::kViewer}})};
  });
  Dial({.insecure = true, .tokens = tokens_.get()});
  EXPECT_THAT(CallMethod(&EchoService::Stub::Echo, "x"), IsOk());
  EXPECT_EQ(fetched, 2);
  EXPECT_THAT(CallMethod(&EchoService::Stub::Echo, "x"), IsOk());
  EXPECT_EQ(fetched, 2);
}

TEST_F(ServerTest, TlsAndClientCertificatesGiveAnIdentity) {
  const absl::Time from = absl::Now() - absl::Hours(1);
  GRAFT_ASSERT_OK_AND_ASSIGN(auto authority, MakeAuthority({"graft test authority", {}, from}));
  GRAFT_ASSERT_OK_AND_ASSIGN(
      auto server, MakeCertificate(authority, {"server", {"localhost", "127.0.0.1"}, from}));
  GRAFT_ASSERT_OK_AND_ASSIGN(auto client,
                             MakeCertificate(authority, {"scheduler", {"scheduler.graft"}, from}));
  StartServer(
      {.tls = {server.certificate, server.private_key}, .client_ca = authority.certificate});
  Dial({.server_ca = authority.certificate});
  EXPECT_THAT(CallMethod(&EchoService::Stub::Ping, "x"), IsOk());
  EXPECT_THAT(CallMethod(&EchoService::Stub::Wait, "drop"),
              StatusIs(absl::StatusCode::kUnauthenticated));
  Dial({.server_ca = authority.certificate,
        .client_certificate = client.certificate,
        .client_key = client.private_key});
  EXPECT_THAT(CallMethod(&EchoService::Stub::Wait, "drop"), StatusIs(absl::StatusCode::kInternal));

  GRAFT_ASSERT_OK_AND_ASSIGN(auto stranger, MakeAuthority({"another authority", {}, from}));
  Dial({.server_ca = stranger.certificate});
  EXPECT_THAT(CallMethod(&EchoService::Stub::Ping, "x"), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(ServerTest, PlaintextBeyondLoopbackIsRefused) {
  EXPECT_THAT(Server::Start({.address = "0.0.0.0:0", .insecure = true}, {}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("loopback")));
  EXPECT_THAT(Server::Start({.address = "127.0.0.1:0"}, {}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Connection::Dial({.address = "example.org:1", .insecure = true}).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("loopback")));
}

TEST_F(ServerTest, AMethodWithoutARuleKeepsTheServerFromStarting) {
  std::vector<Service> services;
  services.emplace_back("graft.rpc.testing.UnruledService");
  EXPECT_THAT(Server::Start({.insecure = true}, std::move(services)).status(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("UnruledService.Open")));
}

TEST_F(ServerTest, ABindingThatDoesNotFitTheContractKeepsTheServerFromStarting) {
  std::vector<Service> services;
  services.push_back(echoer_.Bind());
  services.back().Unary("Nothing", &echoer_, &Echoer::Echo);
  EXPECT_THAT(Server::Start({.insecure = true}, std::move(services)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("Nothing")));
}

}  // namespace
}  // namespace graft::rpc
