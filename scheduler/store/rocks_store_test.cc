#include "scheduler/store/rocks_store.h"

#include <cstdlib>

#include "base/file.h"
#include "scheduler/store/store_contract.h"

namespace graft::scheduler {
namespace {

// A folder of this test run, gone with the last owner.
std::shared_ptr<std::string> TemporaryFolder() {
  std::string path = ::testing::TempDir() + "/rocks_store_XXXXXX";
  EXPECT_NE(mkdtemp(path.data()), nullptr);
  return {new std::string(path), [](std::string* folder) {
            EXPECT_THAT(RemoveTree(*folder), IsOk());
            delete folder;
          }};
}

StoreOpener OpenRocks() {
  return [folder = TemporaryFolder()]() -> std::unique_ptr<Store> {
    auto store = RocksStore::Open({.folder = *folder});
    EXPECT_THAT(store, IsOk());
    return *std::move(store);
  };
}

TEST(RocksStoreTest, ABackupIsAWholeStore) {
  const auto folder = TemporaryFolder();
  GRAFT_ASSERT_OK_AND_ASSIGN(auto store, RocksStore::Open({.folder = *folder + "/a"}));
  ASSERT_THAT(store->Commit({.writes = {{Family::kRecords, "k", "1"}}}), IsOk());
  ASSERT_THAT(store->Backup(*folder + "/b"), IsOk());
  ASSERT_THAT(store->Commit({.writes = {{Family::kRecords, "k", "2"}}}), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(auto copy, RocksStore::Open({.folder = *folder + "/b"}));
  EXPECT_EQ(copy->Get(Family::kRecords, "k")->value, "1");
  EXPECT_EQ(copy->Get(Family::kRecords, "meta/backup")->value, "1");
}

}  // namespace

INSTANTIATE_TEST_SUITE_P(Rocks, StoreContract, ::testing::Values(StoreKind{"rocks", OpenRocks}),
                         [](const auto& info) { return info.param.name; });

}  // namespace graft::scheduler
