// graft.v1.UsageService: who used how many devices for how long, from the ledger of ended attempts
// and from those that run.
#pragma once

#include <memory>

#include "graft/v1/usage.pb.h"
#include "scheduler/service/mutate.h"
#include "scheduler/service/usage_ledger.h"

namespace graft::scheduler {

class UsageService {
 public:
  explicit UsageService(const ServiceContext& context) : context_(context) {}
  rpc::Service Bind();

 private:
  void QueryUsage(std::shared_ptr<rpc::Call> call, const graft::v1::QueryUsageRequest& request,
                  rpc::Responder<graft::v1::QueryUsageResponse> responder);

  const ServiceContext& context_;
};

// The sums that `request` asks for over what the entries have in the period from `begin` to `end`.
// INVALID_ARGUMENT. `now` decides nothing but the defaults.
absl::StatusOr<graft::v1::QueryUsageResponse> SumUsage(const std::vector<UsageEntry>& entries,
                                                       const graft::v1::QueryUsageRequest& request,
                                                       absl::Time begin, absl::Time end,
                                                       const rpc::PageTokenCodec& tokens);

}  // namespace graft::scheduler
