// A gRPC server with everything that each of our daemons needs around its services: TLS, identity
// and access rules, health, reflection, metrics, limits and an orderly end.
//
//   GRAFT_ASSIGN_OR_RETURN(auto server, rpc::Server::Start(options, {jobs.Bind(), queues.Bind()}));
//   LOG_INFO("listening", {{"port", server->port()}});
//   ... wait for SIGTERM ...
//   server->Shutdown(absl::Seconds(10));
//
// Start binds and serves; what the services point to must outlive the server. Thread-safe.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace prometheus {
class Registry;
}  // namespace prometheus

namespace graft::rpc {

class Authenticator;
class Service;

// PEM text, not paths.
struct TlsIdentity {
  std::string certificate_chain;
  std::string private_key;
};

struct ServerOptions {
  std::string address = "127.0.0.1:0";  // host:port; port 0 takes a free one
  // Exactly one of the two: TLS, or plaintext, which is allowed on loopback addresses alone.
  TlsIdentity tls;
  bool insecure = false;
  // Client certificates are asked for and verified when this is set (PEM).
  std::string client_ca;
  bool require_client_certificate = false;

  // Must outlive the server. Without one only public methods can be called.
  Authenticator* authenticator = nullptr;
  int max_message_bytes = 16 << 20;
  // What each user may ask for; workers and the scheduler are not bounded. 0: no bound.
  double calls_per_second = 0;
  int concurrent_streams = 0;
  // For unary calls whose client gives no deadline.
  absl::Duration default_deadline = absl::Seconds(60);
  absl::Duration keepalive_interval = absl::Seconds(30);
  absl::Duration keepalive_timeout = absl::Seconds(10);
  // Windows and frame sizes for services that stream files.
  bool bulk_data = false;
  bool reflection = true;

  // host:port of the HTTP server of /metrics and /healthz; empty: none.
  std::string metrics_address;
  // The truth of /healthz and of gRPC's health service: OK, or why not. Called from any thread.
  std::function<absl::Status()> health;
};

class Server {
 public:
  // INVALID_ARGUMENT for options or bindings that do not fit the contract, FAILED_PRECONDITION for
  // a method without an access rule, UNAVAILABLE when the address cannot be bound.
  static absl::StatusOr<std::unique_ptr<Server>> Start(ServerOptions options,
                                                       std::vector<Service> services);
  // Shuts down at once.
  ~Server();
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  int port() const;
  int metrics_port() const;  // 0 without metrics_address
  // Where a daemon registers metrics of its own.
  prometheus::Registry& registry();
  // Takes no more calls, ends those that are held (Call::OnShutdown, every StreamWriter), lets the
  // others end by themselves for `grace`, then cancels them. May be called twice.
  void Shutdown(absl::Duration grace);

 private:
  struct State;
  explicit Server(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace graft::rpc
