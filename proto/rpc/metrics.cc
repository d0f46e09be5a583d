#include "rpc/metrics.h"

#include <array>
#include <atomic>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "civetweb.h"
#include "prometheus/counter.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"

namespace graft::rpc {
namespace {

constexpr size_t kCodes = 17;
// Calls of a millisecond are the rule; those of minutes are hanging gets.
const prometheus::Histogram::BucketBoundaries kSeconds = {
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5, 30, 60};

}  // namespace

struct CallMetrics::State {
  struct Method {
    std::string name;
    std::array<std::atomic<prometheus::Counter*>, kCodes> calls{};
    prometheus::Histogram* seconds = nullptr;
  };
  prometheus::Family<prometheus::Counter>& calls;
  prometheus::Family<prometheus::Histogram>& seconds;
  std::deque<Method> methods;
};

CallMetrics::CallMetrics(prometheus::Registry& registry)
    : state_(new State{prometheus::BuildCounter()
                           .Name("graft_rpc_calls_total")
                           .Help("Calls that ended, by method and status code")
                           .Register(registry),
                       prometheus::BuildHistogram()
                           .Name("graft_rpc_seconds")
                           .Help("Seconds that calls took, by method")
                           .Register(registry),
                       {}}) {}
CallMetrics::~CallMetrics() = default;

size_t CallMetrics::AddMethod(absl::string_view method) {
  State::Method& added = state_->methods.emplace_back();
  added.name = std::string(method);
  added.seconds = &state_->seconds.Add({{"method", added.name}}, kSeconds);
  return state_->methods.size() - 1;
}

void CallMetrics::Count(size_t method, absl::StatusCode code, absl::Duration took) {
  State::Method& entry = state_->methods[method];
  const size_t index = static_cast<size_t>(code) < kCodes ? static_cast<size_t>(code) : 2;
  prometheus::Counter* counter = entry.calls[index].load(std::memory_order_acquire);
  if (counter == nullptr) {  // Add gives the same counter to all who race here
    counter = &state_->calls.Add(
        {{"method", entry.name},
         {"code", absl::StatusCodeToString(static_cast<absl::StatusCode>(index))}});
    entry.calls[index].store(counter, std::memory_order_release);
  }
  counter->Increment();
  entry.seconds->Observe(absl::ToDoubleSeconds(took));
}

struct MetricsServer::State {
  std::shared_ptr<prometheus::Registry> registry;  // shared with the server that counts in it
  std::function<absl::Status()> health;
  mg_context* context = nullptr;
  int port = 0;
};

namespace {

int Reply(mg_connection* connection, int code, const char* type, const std::string& body) {
  mg_printf(
      connection,
      "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\nConnection: close\r\n\r\n",
      code, code == 200 ? "OK" : "Service Unavailable", type, body.size());
  mg_write(connection, body.data(), body.size());
  return code;
}

int ServeMetrics(mg_connection* connection, void* data) {
  auto& registry = **static_cast<std::shared_ptr<prometheus::Registry>*>(data);
  return Reply(connection, 200, "text/plain; version=0.0.4",
               prometheus::TextSerializer().Serialize(registry.Collect()));
}

int ServeHealth(mg_connection* connection, void* data) {
  auto& health = *static_cast<std::function<absl::Status()>*>(data);
  const absl::Status status = health ? health() : absl::OkStatus();
  if (status.ok()) return Reply(connection, 200, "text/plain", "ok\n");
  return Reply(connection, 503, "text/plain", absl::StrCat(status.message(), "\n"));
}

int ServeNothing(mg_connection* connection, void*) {
  mg_send_http_error(connection, 404, "%s", "only /metrics and /healthz are here");
  return 404;
}

int DropLogLine(const mg_connection*, const char*) { return 1; }

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& address, std::shared_ptr<prometheus::Registry> registry,
    std::function<absl::Status()> health) {
  auto state = std::make_unique<State>();
  state->registry = std::move(registry);
  state->health = std::move(health);
  const char* options[] = {"listening_ports",
                           address.c_str(),
                           "num_threads",
                           "2",
                           "request_timeout_ms",
                           "5000",
                           "enable_keep_alive",
                           "no",
                           nullptr};
  mg_callbacks callbacks = {};
  callbacks.log_message = DropLogLine;
  state->context = mg_start(&callbacks, nullptr, options);
  mg_server_port ports[1] = {};
  if (state->context == nullptr || mg_get_server_ports(state->context, 1, ports) < 1) {
    if (state->context != nullptr) mg_stop(state->context);
    return absl::UnavailableError(
        absl::StrCat("cannot serve metrics on '", address, "': is the port taken?"));
  }
  state->port = ports[0].port;
  mg_set_request_handler(state->context, "/metrics$", ServeMetrics, &state->registry);
  mg_set_request_handler(state->context, "/healthz$", ServeHealth, &state->health);
  mg_set_request_handler(state->context, "/", ServeNothing, nullptr);
  return std::unique_ptr<MetricsServer>(new MetricsServer(std::move(state)));
}

MetricsServer::MetricsServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
MetricsServer::~MetricsServer() { mg_stop(state_->context); }
int MetricsServer::port() const { return state_->port; }

}  // namespace graft::rpc
