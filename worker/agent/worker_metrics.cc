#include "worker/agent/worker_metrics.h"

#include <prometheus/family.h>
#include <prometheus/gauge.h>
#include <prometheus/registry.h>

#include <map>
#include <utility>

#include "absl/strings/ascii.h"
#include "base/status_macros.h"
#include "rpc/metrics.h"

namespace graft::agent {

struct WorkerMetrics::State {
  std::shared_ptr<prometheus::Registry> registry = std::make_shared<prometheus::Registry>();
  prometheus::Family<prometheus::Gauge>& attempts =
      prometheus::BuildGauge()
          .Name("graft_worker_attempts")
          .Help("Attempts and sessions on this node, by state")
          .Register(*registry);
  prometheus::Gauge& disk_free = prometheus::BuildGauge()
                                     .Name("graft_worker_disk_free_bytes")
                                     .Help("Free bytes on the cache folder's disk")
                                     .Register(*registry)
                                     .Add({});
  prometheus::Gauge& epoch = prometheus::BuildGauge()
                                 .Name("graft_worker_epoch")
                                 .Help("Epoch of the lease; it grows with each registration")
                                 .Register(*registry)
                                 .Add({});
  std::unique_ptr<rpc::MetricsServer> server;
};

WorkerMetrics::WorkerMetrics(std::unique_ptr<State> state) : state_(std::move(state)) {}
WorkerMetrics::~WorkerMetrics() = default;
int WorkerMetrics::port() const { return state_->server->port(); }

absl::StatusOr<std::unique_ptr<WorkerMetrics>> WorkerMetrics::Start(
    const std::string& address, std::function<absl::Status()> health) {
  auto state = std::make_unique<State>();
  GRAFT_ASSIGN_OR_RETURN(state->server,
                         rpc::MetricsServer::Start(address, state->registry, std::move(health)));
  return std::unique_ptr<WorkerMetrics>(new WorkerMetrics(std::move(state)));
}

void WorkerMetrics::Note(const v1::SynchronizeRequest& report) {
  std::map<int, int> counts;
  for (const v1::ActualAttempt& attempt : report.attempts()) ++counts[attempt.state()];
  for (int state = v1::ActualAttempt::STATE_STAGING; state <= v1::ActualAttempt::State_MAX;
       ++state) {
    const std::string name = absl::AsciiStrToLower(
        v1::ActualAttempt::State_Name(static_cast<v1::ActualAttempt::State>(state)).substr(6));
    state_->attempts.Add({{"state", name}}).Set(counts[state]);
  }
  state_->disk_free.Set(static_cast<double>(report.disk_free_bytes()));
  state_->epoch.Set(static_cast<double>(report.epoch()));
}

}  // namespace graft::agent
