// What a worker shows to Prometheus, read from its own reports to the scheduler: /metrics, and
// /healthz with the state of its lease.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "graft/agent/v1/agent.pb.h"

namespace graft::agent {

class WorkerMetrics {
 public:
  // `address` is host:port. UNAVAILABLE when it cannot be bound.
  static absl::StatusOr<std::unique_ptr<WorkerMetrics>> Start(const std::string& address,
                                                              std::function<absl::Status()> health);
  ~WorkerMetrics();

  // The newest report. Thread-safe.
  void Note(const v1::SynchronizeRequest& report);
  int port() const;

 private:
  struct State;
  explicit WorkerMetrics(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace graft::agent
