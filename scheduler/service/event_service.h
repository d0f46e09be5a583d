// graft.v1.EventService: what happened to resources, by revision, and the audit trail.
#pragma once

#include <memory>
#include <string>

#include "graft/v1/event.pb.h"
#include "scheduler/service/mutate.h"

namespace graft::scheduler {

class EventService {
 public:
  explicit EventService(const ServiceContext& context) : context_(context) {}
  rpc::Service Bind();

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  absl::StatusOr<graft::v1::ListEventsResponse> ListEvents(
      const rpc::Call& call, const graft::v1::ListEventsRequest& request);
  void WatchEvents(CallPtr call, const graft::v1::WatchEventsRequest& request,
                   std::shared_ptr<rpc::StreamWriter<graft::v1::WatchEventsResponse>> writer);
  absl::StatusOr<graft::v1::ListAuditEntriesResponse> ListAuditEntries(
      const rpc::Call& call, const graft::v1::ListAuditEntriesRequest& request);
  absl::StatusOr<graft::v1::VerifyAuditResponse> VerifyAudit(
      const rpc::Call& call, const graft::v1::VerifyAuditRequest& request);

  const ServiceContext& context_;
};

}  // namespace graft::scheduler
