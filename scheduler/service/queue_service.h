// graft.v1.QueueService.
#pragma once

#include <memory>
#include <string>

#include "google/protobuf/empty.pb.h"
#include "graft/v1/queue.pb.h"
#include "scheduler/service/mutate.h"
#include "scheduler/service/places.h"

namespace graft::scheduler {

class QueueService {
 public:
  QueueService(const ServiceContext& context, const PlaceBoard& places)
      : context_(context), places_(places) {}
  rpc::Service Bind();

  // Makes what is always there: queues/default and queues/interactive.
  static absl::Status Bootstrap(Turn& turn);

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  absl::StatusOr<graft::v1::Queue> Read(const std::string& name) const;
  void GetQueue(CallPtr call, const graft::v1::GetQueueRequest& request,
                rpc::Responder<graft::v1::Queue> responder);
  void ListQueues(CallPtr call, const graft::v1::ListQueuesRequest& request,
                  rpc::Responder<graft::v1::ListQueuesResponse> responder);
  void CreateQueue(CallPtr call, const graft::v1::CreateQueueRequest& request,
                   rpc::Responder<graft::v1::Queue> responder);
  void UpdateQueue(CallPtr call, const graft::v1::UpdateQueueRequest& request,
                   rpc::Responder<graft::v1::Queue> responder);
  void DeleteQueue(CallPtr call, const graft::v1::DeleteQueueRequest& request,
                   rpc::Responder<google::protobuf::Empty> responder);
  void ListQueueEntries(CallPtr call, const graft::v1::ListQueueEntriesRequest& request,
                        rpc::Responder<graft::v1::ListQueueEntriesResponse> responder);

  const ServiceContext& context_;
  const PlaceBoard& places_;
};

}  // namespace graft::scheduler
