#include "scheduler/store/mem_store.h"

#include "scheduler/store/store_contract.h"

namespace graft::scheduler {

INSTANTIATE_TEST_SUITE_P(Mem, StoreContract,
                         ::testing::Values(StoreKind{"mem",
                                                     []() -> StoreOpener {
                                                       auto disk = std::make_shared<MemDisk>();
                                                       return [disk] {
                                                         return std::make_unique<MemStore>(*disk);
                                                       };
                                                     }}),
                         [](const auto& info) { return info.param.name; });

namespace {

TEST(MemStoreTest, ATornCommitIsAbsentAfterOpeningAgain) {
  MemDisk disk;
  auto store = std::make_unique<MemStore>(disk);
  ASSERT_THAT(store->Commit({.writes = {{Family::kRecords, "a", "1"}}}), IsOk());
  disk.next_fault = MemDisk::Fault::kTear;
  EXPECT_FALSE(store->Commit({.writes = {{Family::kRecords, "b", "1"}}}).ok());
  EXPECT_THAT(store->Commit({}), StatusIs(absl::StatusCode::kUnavailable));
  store = std::make_unique<MemStore>(disk);
  EXPECT_THAT(store->Get(Family::kRecords, "b"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(store->Get(Family::kRecords, "a"), IsOk());
}

TEST(TransactionTest, EveryDamageIsSeen) {
  const std::string whole = EncodeTransaction(
      {.compares = {{"k", 300}}, .writes = {{Family::kAudit, "a", "b"}, {{}, "c", std::nullopt}}});
  ASSERT_THAT(DecodeTransaction(whole), IsOk());
  for (size_t i = 0; i < whole.size(); ++i) {
    std::string flipped = whole;
    flipped[i] ^= 0x10;
    EXPECT_THAT(DecodeTransaction(flipped), StatusIs(absl::StatusCode::kDataLoss));
    EXPECT_THAT(DecodeTransaction(whole.substr(0, i)), StatusIs(absl::StatusCode::kDataLoss));
  }
}

}  // namespace
}  // namespace graft::scheduler
