#include "fileservice/catalog/collector.h"

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/status_matchers.h"
#include "fileservice/catalog/test_store.h"
#include "gmock/gmock.h"
#include "tests/support/tier.h"

namespace graft::fileservice {
namespace {

// What is never cut.
constexpr size_t kOneChunkBytes = kContentParameters.min_bytes;

class CollectorTest : public ::testing::Test {
 protected:
  CollectorTest() : test_({.seed = 9}) { GRAFT_CHECK_OK(test_.Open()); }

  std::string Bytes(size_t size) { return test_.random().Bytes(size); }

  TestStore test_;
};

TEST_F(CollectorTest, WhatNobodyNamesGoesAndTheRestStays) {
  ASSERT_THAT(test_.MakeFileset("data"), IsOk());
  const std::string shared = Bytes(100'000);
  for (int i = 0; i < 8; ++i) {
    ASSERT_THAT(test_.Publish("data", {{"own", Bytes(100'000)}, {"shared", shared}}), IsOk());
  }
  for (int i = 1; i <= 7; ++i)
    ASSERT_THAT(test_.catalog().DeleteVersion({"ws", "data"}, i), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const Collector::Report report, test_.Collect());
  EXPECT_GE(report.trashed_bytes, 700'000);
  EXPECT_GT(report.removed_packs, 0);
  EXPECT_THAT(test_.ReadEverything("data"), IsOk());
  EXPECT_LT(test_.PackBytes(), static_cast<int64_t>(200'000 / 0.6 + 300'000));
}

TEST_F(CollectorTest, ADryRunTakesNothing) {
  ASSERT_THAT(test_.MakeFileset("data"), IsOk());
  const std::string content = Bytes(kOneChunkBytes);
  ASSERT_THAT(test_.Publish("data", {{"a", content}}), IsOk());
  ASSERT_THAT(test_.Publish("data", {{"a", "x"}}), IsOk());
  ASSERT_THAT(test_.catalog().DeleteVersion({"ws", "data"}, 1), IsOk());
  ASSERT_THAT(test_.store().SealOpenPack(), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const Collector::Report report,
                             Collector::DryRun(test_.db(), test_.clock(), test_.collecting()));
  EXPECT_GE(report.trashed_bytes, static_cast<int64_t>(kOneChunkBytes));
  EXPECT_THAT(test_.store().Verify(Sha256::Of(content)), IsOk());
}

TEST_F(CollectorTest, WhatASessionHoldsStaysUntilItEnds) {
  ASSERT_THAT(test_.MakeFileset("data"), IsOk());
  const std::string content = Bytes(kOneChunkBytes);
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::string session, test_.Session("data"));
  ASSERT_THAT(test_.Stage(session, "a", content), IsOk());
  ASSERT_THAT(test_.Collect(), IsOk());
  EXPECT_THAT(test_.store().Verify(Sha256::Of(content)), IsOk());
  ASSERT_THAT(test_.catalog().AbortSession(session), IsOk());
  ASSERT_THAT(test_.Collect(), IsOk());
  EXPECT_THAT(test_.store().Find(Sha256::Of(content)), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(CollectorTest, ACollectionThatWouldTakeTooMuchStops) {
  ASSERT_THAT(test_.MakeFileset("data"), IsOk());
  ASSERT_THAT(test_.Publish("data", {{"a", Bytes(50'000)}}), IsOk());
  ASSERT_THAT(test_.catalog().DeleteVersion({"ws", "data"}, 1), IsOk());
  test_.collecting().max_share = 0.3;
  EXPECT_THAT(test_.Collect(), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(CollectorTest, AFullDiskStillDeletesAndGivesSpaceBack) {
  ASSERT_THAT(test_.MakeFileset("data"), IsOk());
  const Contents kept = {{"f.bin", Bytes(30'000)}};
  ASSERT_THAT(test_.Publish("data", {{"f.bin", Bytes(200'000)}}), IsOk());
  ASSERT_THAT(test_.Publish("data", kept), IsOk());
  test_.files().set_available_bytes(1 << 20);
  ASSERT_THAT(test_.catalog().SetRef({"ws", "data"}, "prod", 2, 0, ""), IsOk());  // finds it out
  EXPECT_THAT(test_.Publish("data", {{"g.bin", Bytes(1'000)}}),
              StatusIs(absl::StatusCode::kResourceExhausted));
  const int64_t before = test_.PackBytes();
  ASSERT_THAT(test_.catalog().DeleteVersion({"ws", "data"}, 1), IsOk());
  ASSERT_THAT(test_.Collect(), IsOk());
  EXPECT_LT(test_.PackBytes(), before - 100'000);
  EXPECT_EQ(*test_.Read("data", "prod"), kept);
}

// The most repeated fault of the systems that came before: a collection beside uploads that refer
// to what it is about to take.
TEST_F(CollectorTest, NothingIsMissingAfterCollectionsBesideUploadsAndDeletions) {
  constexpr int kClients = 24;
  const int rounds = testing::ByTier(15, 200, 200);
  const absl::Time end = absl::Now() + absl::Minutes(testing::ByTier(0, 0, 10));
  for (int i = 0; i < kClients; ++i) {
    ASSERT_THAT(test_.MakeFileset(absl::StrCat("data", i)), IsOk());
  }
  std::vector<std::string> pool;
  for (int i = 0; i < kClients; ++i) pool.push_back(Bytes(8'000));
  std::atomic<bool> stop{false};
  std::thread collector([&] {
    while (!stop) {
      EXPECT_THAT(test_.Collect(), IsOk());
    }
  });
  std::vector<std::thread> clients;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([&, client] {
      SeededRandom random(static_cast<uint64_t>(client));
      const std::string fileset = absl::StrCat("data", client);
      for (int round = 0; round < rounds || absl::Now() < end; ++round) {
        std::map<std::string, std::string> contents;
        for (int i = 0; i < 3; ++i) {
          contents[absl::StrCat("f", i)] = pool[random.Uniform(pool.size())];
        }
        const auto number = test_.Publish(fileset, contents);
        ASSERT_THAT(number, IsOk());
        ASSERT_THAT(test_.ReadEverything(fileset), IsOk());
        ASSERT_THAT(test_.catalog().DeleteVersion({"ws", fileset}, *number), IsOk());
      }
      ASSERT_THAT(test_.Publish(fileset, {{"last", pool[static_cast<size_t>(client)]}}), IsOk());
    });
  }
  for (std::thread& thread : clients) thread.join();
  stop = true;
  collector.join();
  for (int i = 0; i < kClients; ++i) {
    EXPECT_THAT(test_.ReadEverything(absl::StrCat("data", i)), IsOk());
  }
}

}  // namespace
}  // namespace graft::fileservice
