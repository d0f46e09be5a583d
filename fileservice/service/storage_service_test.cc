#include "fileservice/service/storage_service.h"

#include "base/status_matchers.h"
#include "fileservice/catalog/test_store.h"
#include "gmock/gmock.h"

namespace graft::fileservice {
namespace {

using ::testing::HasSubstr;

class StorageServiceTest : public ::testing::Test {
 protected:
  StorageServiceTest() {
    EXPECT_THAT(test_.Open(), IsOk());
    EXPECT_THAT(test_.MakeFileset("data"), IsOk());
    EXPECT_THAT(test_.Publish("data", {{"a.bin", SeededRandom(1).Bytes(50'000)}}).status(), IsOk());
    service_ = std::make_unique<StorageService>(test_.catalog(), test_.store(), test_.files(),
                                                test_.clock());
  }
  static void Identify(const std::string& workspace, rpc::Role role, rpc::Call& call) {
    auto identity = std::make_shared<rpc::Identity>();
    identity->roles[workspace] = role;
    call.identity = std::move(identity);
  }
  // What someone with this role there is told.
  absl::StatusOr<v1::GetStorageUsageResponse> Get(const std::string& workspace, rpc::Role role,
                                                  const std::string& parent) {
    rpc::Call call;
    Identify(workspace, role, call);
    v1::GetStorageUsageRequest request;
    request.set_parent(parent);
    return service_->GetStorageUsage(call, request);
  }
  absl::StatusOr<v1::StorageUsage> SetQuota(int64_t bytes) {
    v1::SetStorageQuotaRequest request;
    request.set_workspace("workspaces/ws");
    if (bytes != 0) request.set_quota_bytes(bytes);
    rpc::Call call;
    Identify(std::string(rpc::kCluster), rpc::Role::kAdmin, call);
    return service_->SetStorageQuota(call, request);
  }

  TestStore test_{{}};
  std::unique_ptr<StorageService> service_;
};

TEST_F(StorageServiceTest, AWorkspacesBytesFilesetsAndVersionsAreShown) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto usage, Get("ws", rpc::Role::kViewer, "workspaces/ws"));
  ASSERT_EQ(usage.workspaces_size(), 1);
  const v1::StorageUsage& ws = usage.workspaces(0);
  EXPECT_EQ(ws.logical_bytes(), 50'000);
  EXPECT_GE(ws.physical_bytes(), 50'000);
  EXPECT_EQ(ws.filesets(), 1);
  EXPECT_EQ(ws.versions(), 1);
  EXPECT_EQ(ws.quota_bytes(), 0);
  EXPECT_EQ(usage.stored_bytes(), 0) << "is for operators alone";
}

TEST_F(StorageServiceTest, EveryoneSeesTheirOwnWorkspacesAndOperatorsTheDisk) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto others, Get("other", rpc::Role::kAdmin, "workspaces/-"));
  EXPECT_EQ(others.workspaces_size(), 0);
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto all,
                             Get(std::string(rpc::kCluster), rpc::Role::kOperator, "workspaces/-"));
  EXPECT_EQ(all.workspaces_size(), 1);
  EXPECT_GT(all.stored_bytes(), 50'000);
  EXPECT_GT(all.free_bytes(), 0);
}

TEST_F(StorageServiceTest, AQuotaHoldsFromWhenItIsSetAcrossARestart) {
  EXPECT_THAT(SetQuota(-1), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("quota_bytes")));
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto set, SetQuota(60'000));
  EXPECT_EQ(set.quota_bytes(), 60'000);
  ASSERT_THAT(test_.Open(), IsOk());
  EXPECT_THAT(test_.Publish("data", {{"b.bin", SeededRandom(2).Bytes(20'000)}}).status(),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("quota")));
  service_ = std::make_unique<StorageService>(test_.catalog(), test_.store(), test_.files(),
                                              test_.clock());
  ASSERT_THAT(SetQuota(0).status(), IsOk());
  EXPECT_THAT(test_.Publish("data", {{"b.bin", SeededRandom(2).Bytes(20'000)}}).status(), IsOk());
}

}  // namespace
}  // namespace graft::fileservice
