// graft.v1.ServerService.
#pragma once

#include "graft/v1/server.pb.h"
#include "scheduler/service/mutate.h"

namespace graft::scheduler {

// Services of the contract that this build lacks: their methods answer UNIMPLEMENTED by name, and
// GetServerInfo says so.
struct AbsentService {
  absl::string_view service;
  absl::string_view feature;
};
inline constexpr AbsentService kAbsentServices[] = {
    {"graft.v1.EvaluationService", "evaluation"}, {"graft.v1.NotificationService", "notification"}};

class ServerService {
 public:
  // What each user may ask for; 0: no bound.
  struct Bounds {
    double calls_per_second = 0;
    int concurrent_streams = 0;
  };
  ServerService(const ServiceContext& context, Bounds bounds);
  rpc::Service Bind();

 private:
  absl::StatusOr<graft::v1::ServerInfo> GetServerInfo(
      const rpc::Call& call, const graft::v1::GetServerInfoRequest& request);

  const ServiceContext& context_;
  const Bounds bounds_;
  const absl::Time started_;
};

}  // namespace graft::scheduler
