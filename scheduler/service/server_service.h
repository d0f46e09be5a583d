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
  explicit ServerService(const ServiceContext& context);
  rpc::Service Bind();

 private:
  absl::StatusOr<graft::v1::ServerInfo> GetServerInfo(
      const rpc::Call& call, const graft::v1::GetServerInfoRequest& request);

  const ServiceContext& context_;
  const absl::Time started_;
};

}  // namespace graft::scheduler
