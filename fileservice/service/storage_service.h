// graft.v1.StorageService: what workspaces store and may store.
//
// Logical and reserved bytes are those of now; what needs a look at every chunk is counted at most
// once a minute. Thread-safe.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/catalog/catalog.h"
#include "fileservice/catalog/stats.h"
#include "graft/v1/usage.pb.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "rpc/call.h"
#include "rpc/service.h"

namespace graft::fileservice {

class StorageService {
 public:
  StorageService(Catalog& catalog, ChunkStore& store, Files& files, Clock& clock)
      : catalog_(catalog), store_(store), files_(files), clock_(clock) {}
  rpc::Service Bind();

  absl::StatusOr<v1::GetStorageUsageResponse> GetStorageUsage(const rpc::Call&,
                                                              const v1::GetStorageUsageRequest&);
  absl::StatusOr<v1::StorageUsage> SetStorageQuota(const rpc::Call&,
                                                   const v1::SetStorageQuotaRequest&);

 private:
  // shared: with callers that read it while a newer one is counted.
  using Counted = std::shared_ptr<const StoreStats>;
  absl::StatusOr<Counted> Count();
  absl::StatusOr<v1::StorageUsage> Describe(const std::string& workspace, const StoreStats& stats);

  Catalog& catalog_;
  ChunkStore& store_;
  Files& files_;
  Clock& clock_;
  Mutex mu_;  // held while it counts, so that many callers cause one count
  Counted counted_ GRAFT_GUARDED_BY(mu_);
  absl::Time counted_at_ GRAFT_GUARDED_BY(mu_) = absl::InfinitePast();
};

}  // namespace graft::fileservice
