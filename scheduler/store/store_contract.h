// What every store does, as tests that run over each of them. The parameter opens the store;
// calling it again, after the last one is gone, opens the same store again.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

using StoreOpener = std::function<std::unique_ptr<Store>()>;
struct StoreKind {
  std::string name;
  std::function<StoreOpener()> make;  // over nothing yet
};

class StoreContract : public ::testing::TestWithParam<StoreKind> {
 protected:
  void SetUp() override {
    open_ = GetParam().make();
    store_ = open_();
  }
  void Reopen() {
    store_.reset();
    store_ = open_();
  }
  absl::StatusOr<int64_t> Put(const std::string& key, const std::string& value) {
    return store_->Commit({.writes = {{Family::kRecords, key, value}}});
  }
  std::string ValueOf(const std::string& key) {
    const absl::StatusOr<Record> record = store_->Get(Family::kRecords, key);
    return record.ok() ? record->value
                       : std::string(absl::StatusCodeToString(record.status().code()));
  }

  StoreOpener open_;
  std::unique_ptr<Store> store_;
};

TEST_P(StoreContract, ACommitIsThereAfterOpeningAgain) {
  ASSERT_THAT(Put("a/1", "x"), IsOk());
  ASSERT_THAT(Put("a/2", "y"), IsOk());
  Reopen();
  EXPECT_EQ(ValueOf("a/1"), "x");
  EXPECT_EQ(store_->revision(), 2);
  EXPECT_EQ(store_->Get(Family::kRecords, "a/2")->revision, 2);
  GRAFT_ASSERT_OK_AND_ASSIGN(const int64_t next, Put("a/3", "z"));
  EXPECT_EQ(next, 3);
}

TEST_P(StoreContract, AComparisonThatDoesNotHoldChangesNothing) {
  ASSERT_THAT(Put("a", "x"), IsOk());
  EXPECT_THAT(store_->Commit({.compares = {{"a", 0}}, .writes = {{Family::kRecords, "b", "y"}}}),
              StatusIs(absl::StatusCode::kAborted));
  EXPECT_EQ(ValueOf("b"), "NOT_FOUND");
  EXPECT_EQ(store_->revision(), 1);
  EXPECT_THAT(
      store_->Commit({.compares = {{"a", 1}, {"b", 0}}, .writes = {{Family::kRecords, "a", "y"}}}),
      IsOk());
  EXPECT_EQ(ValueOf("a"), "y");
}

TEST_P(StoreContract, ARemovedKeyIsGoneAndMayComeAgain) {
  ASSERT_THAT(Put("a", "x"), IsOk());
  ASSERT_THAT(store_->Commit({.writes = {{Family::kRecords, "a", std::nullopt}}}), IsOk());
  EXPECT_EQ(ValueOf("a"), "NOT_FOUND");
  EXPECT_THAT(store_->Commit({.compares = {{"a", 0}}, .writes = {{Family::kRecords, "a", "z"}}}),
              IsOk());
}

TEST_P(StoreContract, EventsGoWithTheChangeLog) {
  for (uint64_t revision = 1; revision <= 3; ++revision) {
    ASSERT_THAT(store_->Commit({.writes = {{Family::kEvents, BigEndian(revision), "event"}}}),
                IsOk());
  }
  ASSERT_THAT(store_->Compact(2), IsOk());
  EXPECT_EQ(store_->compacted(), 2);
  Reopen();
  GRAFT_ASSERT_OK_AND_ASSIGN(const ListResult left, store_->List({.family = Family::kEvents}));
  ASSERT_EQ(left.records.size(), 1);
  EXPECT_EQ(left.records[0].key, BigEndian(3));
}

TEST_P(StoreContract, ListsArePagedInTheOrderOfTheKeys) {
  for (int i = 9; i >= 0; --i) ASSERT_THAT(Put(absl::StrCat("a/", i), "x"), IsOk());
  ASSERT_THAT(Put("b/0", "x"), IsOk());
  std::string keys;
  std::string after;
  for (bool more = true; more;) {
    GRAFT_ASSERT_OK_AND_ASSIGN(ListResult page,
                               store_->List({.prefix = "a/", .after = after, .limit = 4}));
    for (const Record& record : page.records) keys += record.key.substr(2);
    EXPECT_EQ(page.revision, 11);
    more = page.more;
    after = page.records.back().key;
  }
  EXPECT_EQ(keys, "0123456789");
}

TEST_P(StoreContract, FamiliesAreApart) {
  ASSERT_THAT(store_->Commit({.writes = {{Family::kAudit, "k", "audit"},
                                         {Family::kIdempotency, "k", "idempotency"}}}),
              IsOk());
  EXPECT_EQ(ValueOf("k"), "NOT_FOUND");
  EXPECT_EQ(store_->Get(Family::kAudit, "k")->value, "audit");
  EXPECT_THAT(store_->Changes(0, 10), IsOk());
  EXPECT_EQ(store_->Changes(0, 10)->size(), 0);
}

TEST_P(StoreContract, AWatcherGoesOnAfterAnyRevisionAndNoCommitIsSplit) {
  ASSERT_THAT(Put("a", "1"), IsOk());
  ASSERT_THAT(store_->Commit({.writes = {{Family::kRecords, "b", "1"},
                                         {Family::kRecords, "c", "1"},
                                         {Family::kRecords, "a", std::nullopt}}}),
              IsOk());
  ASSERT_THAT(Put("d", "1"), IsOk());
  Reopen();
  GRAFT_ASSERT_OK_AND_ASSIGN(std::vector<Change> changes, store_->Changes(1, 1));
  ASSERT_EQ(changes.size(), 3);
  EXPECT_EQ(changes[2].key, "a");
  EXPECT_TRUE(changes[2].removed);
  GRAFT_ASSERT_OK_AND_ASSIGN(changes, store_->Changes(2, 100));
  ASSERT_EQ(changes.size(), 1);
  EXPECT_EQ(changes[0].key, "d");
  EXPECT_EQ(changes[0].revision, 3);
}

TEST_P(StoreContract, CompactedChangesAreOutOfRange) {
  for (int i = 0; i < 5; ++i) ASSERT_THAT(Put("a", "x"), IsOk());
  ASSERT_THAT(store_->Compact(3), IsOk());
  Reopen();
  EXPECT_THAT(store_->Changes(2, 10), StatusIs(absl::StatusCode::kOutOfRange));
  GRAFT_ASSERT_OK_AND_ASSIGN(std::vector<Change> changes, store_->Changes(3, 10));
  EXPECT_EQ(changes.size(), 2);
}

TEST_P(StoreContract, SeriesAreReadByRange) {
  ASSERT_THAT(store_->Append(Series::kMetrics, {{"j1/1", "a"}, {"j1/2", "b"}, {"j2/1", "c"}}),
              IsOk());
  ASSERT_THAT(store_->Append(Series::kMetrics, {{"j1/2", "b"}}), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(std::vector<Entry> entries,
                             store_->Scan(Series::kMetrics, "j1/", AfterPrefix("j1/"), 10));
  EXPECT_THAT(entries, ::testing::ElementsAre(Entry("j1/1", "a"), Entry("j1/2", "b")));
  ASSERT_THAT(store_->Erase(Series::kMetrics, "j1/", AfterPrefix("j1/")), IsOk());
  EXPECT_EQ(store_->Scan(Series::kMetrics, "", "z", 10)->size(), 1);
}

}  // namespace graft::scheduler
