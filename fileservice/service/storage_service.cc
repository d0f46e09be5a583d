#include "fileservice/service/storage_service.h"

#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/catalog/names.h"
#include "fileservice/service/access.h"

namespace graft::fileservice {
namespace {

constexpr absl::Duration kCountAgain = absl::Minutes(1);

}  // namespace

rpc::Service StorageService::Bind() {
  rpc::Service service("graft.v1.StorageService");
  service.Unary("GetStorageUsage", this, &StorageService::GetStorageUsage)
      .Unary("SetStorageQuota", this, &StorageService::SetStorageQuota);
  return service;
}

absl::StatusOr<v1::GetStorageUsageResponse> StorageService::GetStorageUsage(
    const rpc::Call& call, const v1::GetStorageUsageRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const std::string asked, ParseWorkspaceName(request.parent()));
  GRAFT_ASSIGN_OR_RETURN(const Counted counted, Count());
  std::set<std::string> workspaces;
  if (!asked.empty()) {
    workspaces.insert(asked);
  } else {
    for (const auto& [name, stats] : counted->workspaces) {
      if (MayRead(call, name)) workspaces.insert(name);
    }
  }
  v1::GetStorageUsageResponse response;
  for (const std::string& workspace : workspaces) {
    GRAFT_ASSIGN_OR_RETURN(*response.add_workspaces(), Describe(workspace, *counted));
  }
  if (call.identity->RoleInCluster() >= rpc::Role::kOperator) {
    GRAFT_ASSIGN_OR_RETURN(const int64_t free, files_.AvailableBytes(store_.options().directory));
    response.set_free_bytes(free);
    response.set_stored_bytes(counted->pack_bytes);
  }
  return response;
}

absl::StatusOr<v1::StorageUsage> StorageService::SetStorageQuota(
    const rpc::Call& call, const v1::SetStorageQuotaRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const std::string workspace, ParseWorkspaceName(request.workspace()));
  if (workspace.empty()) {
    return absl::InvalidArgumentError("workspace must be one: workspaces/{workspace}");
  }
  if (request.has_quota_bytes() && request.quota_bytes() <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "quota_bytes must be positive, or absent for no bound; it is ", request.quota_bytes()));
  }
  GRAFT_RETURN_IF_ERROR(catalog_.SetQuota(workspace, request.quota_bytes()));
  GRAFT_ASSIGN_OR_RETURN(const Counted counted, Count());
  return Describe(workspace, *counted);
}

absl::StatusOr<StorageService::Counted> StorageService::Count() {
  MutexLock lock(mu_);
  if (counted_ != nullptr && clock_.Now() - counted_at_ < kCountAgain) return counted_;
  GRAFT_ASSIGN_OR_RETURN(StoreStats stats, CountStore(store_.db()));
  counted_ = std::make_shared<const StoreStats>(std::move(stats));
  counted_at_ = clock_.Now();
  return counted_;
}

absl::StatusOr<v1::StorageUsage> StorageService::Describe(const std::string& workspace,
                                                          const StoreStats& stats) {
  GRAFT_ASSIGN_OR_RETURN(const UsageRecord usage, catalog_.Usage(workspace));
  GRAFT_ASSIGN_OR_RETURN(const int64_t quota, catalog_.Quota(workspace));
  v1::StorageUsage message;
  message.set_workspace(absl::StrCat("workspaces/", workspace));
  message.set_logical_bytes(usage.logical_bytes);
  message.set_reserved_bytes(usage.reserved_bytes);
  message.set_quota_bytes(quota);
  const auto counted = stats.workspaces.find(workspace);
  if (counted == stats.workspaces.end()) return message;
  message.set_physical_bytes(counted->second.own_bytes);
  message.set_filesets(counted->second.filesets);
  message.set_versions(counted->second.versions);
  return message;
}

}  // namespace graft::fileservice
