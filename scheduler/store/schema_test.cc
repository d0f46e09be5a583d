#include "scheduler/store/schema.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "scheduler/store/mem_store.h"

namespace graft::scheduler {
namespace {

class SchemaTest : public ::testing::Test {
 protected:
  void Put(const std::string& key, const std::string& value) {
    ASSERT_THAT(store_.Commit({.writes = {{Family::kRecords, key, value}}}), IsOk());
  }
  std::string ValueOf(const std::string& key) {
    const auto record = store_.Get(Family::kRecords, key);
    return record.ok() ? record->value : "none";
  }
  // Appends a letter to the record `a`.
  Migration Appends(const std::string& letter) {
    return [this, letter](const Store&) -> absl::StatusOr<Transaction> {
      return Transaction{.writes = {{Family::kRecords, "a", ValueOf("a") + letter}}};
    };
  }

  MemDisk disk_;
  MemStore store_{disk_};
};

TEST_F(SchemaTest, AStoreThatSaysNothingIsOfTheFirstVersionAndIsLeftAlone) {
  Put("a", "1");
  const int64_t revision = store_.revision();
  EXPECT_THAT(BringForward(store_), IsOk());
  EXPECT_EQ(store_.revision(), revision + static_cast<int64_t>(Migrations().size()));
}

TEST_F(SchemaTest, StepsAreTakenInOrderAndOnce) {
  Put("a", "1");
  EXPECT_THAT(BringForward(store_, {Appends("x")}), IsOk());
  EXPECT_EQ(ValueOf("a"), "1x");
  EXPECT_THAT(BringForward(store_, {Appends("x"), Appends("y"), Appends("z")}), IsOk());
  EXPECT_EQ(ValueOf("a"), "1xyz");
  EXPECT_EQ(*SchemaVersion(store_), 4);
}

TEST_F(SchemaTest, AStepThatFailsIsTakenAgainAndThoseBeforeItAreNot) {
  Put("a", "1");
  const Migration fails = [](const Store&) -> absl::StatusOr<Transaction> {
    return absl::UnavailableError("the power is gone");
  };
  EXPECT_THAT(BringForward(store_, {Appends("x"), fails}),
              StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(*SchemaVersion(store_), 2);
  EXPECT_THAT(BringForward(store_, {Appends("x"), Appends("y")}), IsOk());
  EXPECT_EQ(ValueOf("a"), "1xy");
}

TEST_F(SchemaTest, AStoreOfALaterProgramIsRefusedAndUntouched) {
  EXPECT_THAT(BringForward(store_, {Appends("x"), Appends("y")}), IsOk());
  const int64_t revision = store_.revision();
  EXPECT_THAT(BringForward(store_, {Appends("x")}),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(store_.revision(), revision);
}

TEST_F(SchemaTest, AVersionThatIsNoneIsDataLoss) {
  Put("meta/schema", "two");
  EXPECT_THAT(BringForward(store_), StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace graft::scheduler
