// Prometheus metrics of the calls a server takes, and the HTTP door of /metrics and /healthz.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace prometheus {
class Registry;
}  // namespace prometheus

namespace graft::rpc {

// graft_rpc_calls_total{method,code} and graft_rpc_seconds{method}. Methods are registered before
// the first Count; Count is thread-safe.
class CallMetrics {
 public:
  explicit CallMetrics(prometheus::Registry& registry);
  ~CallMetrics();
  // Returns the method's index.
  size_t AddMethod(absl::string_view method);
  void Count(size_t method, absl::StatusCode code, absl::Duration took);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// GET /metrics and GET /healthz (200 "ok", or 503 with the reason). Serves until destroyed.
class MetricsServer {
 public:
  // `address` is host:port, port 0 takes a free one. UNAVAILABLE when it cannot be bound.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(
      const std::string& address, std::shared_ptr<prometheus::Registry> registry,
      std::function<absl::Status()> health);
  ~MetricsServer();
  int port() const;

 private:
  struct State;
  explicit MetricsServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace graft::rpc
