#include "rocks/durable_db.h"

#include <unistd.h>

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "rocksdb/db.h"
#include "rocksdb/write_batch.h"

namespace graft::rocks {
namespace {

using ::testing::HasSubstr;

class DurableDbTest : public ::testing::Test {
 protected:
  DurableDbTest() {
    std::string pattern = ::testing::TempDir() + "graft-rocks-XXXXXX";
    root_ = mkdtemp(pattern.data());
    options_.path = root_ + "/db";
    options_.watermark_dir = root_ + "/mark";
    options_.column_families = {{"records", nullptr}};
  }
  ~DurableDbTest() override { (void)RemoveTree(root_); }

  static constexpr uint64_t kCommits = 50;

  // Commits, then a close without a flush: all of it is in the WAL.
  void Fill() {
    auto db = OpenDurable(options_);
    ASSERT_TRUE(db.ok()) << db.status();
    for (uint64_t revision = 1; revision <= kCommits; ++revision) Put(**db, revision);
  }
  void Put(DurableDb& db, uint64_t revision) {
    rocksdb::WriteBatch batch;
    batch.Put(db.family("records"), absl::StrCat("key-", revision), std::string(100, 'v'));
    ASSERT_THAT(db.Commit(batch, revision), IsOk());
  }
  bool Has(DurableDb& db, uint64_t revision) {
    std::string value;
    return db.db()
        .Get(rocksdb::ReadOptions(), db.family("records"), absl::StrCat("key-", revision), &value)
        .ok();
  }
  // The largest, which holds the commits.
  std::string WalPath() {
    std::string best;
    int64_t size = -1;
    const std::vector<std::string> names = *ListDirectory(options_.path);
    for (const std::string& name : names) {
      const std::string path = JoinPath(options_.path, name);
      if (!absl::EndsWith(name, ".log") || *FileSize(path) <= size) continue;
      best = path;
      size = *FileSize(path);
    }
    return best;
  }

  std::string root_;
  DurableOptions options_;
};

TEST_F(DurableDbTest, WhatWasCommittedIsThereAfterAReopen) {
  Fill();
  GRAFT_ASSERT_OK_AND_ASSIGN(auto db, OpenDurable(options_));
  EXPECT_EQ(db->revision(), kCommits);
  EXPECT_TRUE(Has(*db, 1) && Has(*db, kCommits));
  Put(*db, kCommits + 1);
}

TEST_F(DurableDbTest, AFlushLeavesNothingInTheLogs) {
  {
    GRAFT_ASSERT_OK_AND_ASSIGN(auto db, OpenDurable(options_));
    for (uint64_t revision = 1; revision <= kCommits; ++revision) Put(*db, revision);
    EXPECT_GT(*FileSize(WalPath()), 0);
    EXPECT_THAT(db->Flush(), IsOk());
    EXPECT_EQ(*FileSize(WalPath()), 0);
  }
  GRAFT_ASSERT_OK_AND_ASSIGN(auto db, OpenDurable(options_));
  EXPECT_EQ(db->revision(), kCommits);
  EXPECT_TRUE(Has(*db, 1) && Has(*db, kCommits));
}

TEST_F(DurableDbTest, AFlippedBitIsRefused) {
  Fill();
  std::string wal = *ReadFile(WalPath());
  wal[wal.size() / 2] ^= 4;
  ASSERT_THAT(WriteFileAtomically(WalPath(), wal), IsOk());
  EXPECT_THAT(OpenDurable(options_), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(DurableDbTest, ACutTailIsRefusedUntilTheLossIsAccepted) {
  Fill();
  const std::string wal = WalPath();
  ASSERT_EQ(truncate(wal.c_str(), *FileSize(wal) - 100), 0);
  EXPECT_THAT(OpenDurable(options_),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("revision 50 was acknowledged")));
  options_.accept_loss = true;
  {
    GRAFT_ASSERT_OK_AND_ASSIGN(auto db, OpenDurable(options_));
    EXPECT_EQ(db->revision(), kCommits - 1);
    EXPECT_TRUE(Has(*db, kCommits - 1));
    EXPECT_FALSE(Has(*db, kCommits));
  }
  options_.accept_loss = false;
  EXPECT_THAT(OpenDurable(options_), IsOk());
}

TEST_F(DurableDbTest, AMissingWalIsRefused) {
  Fill();
  ASSERT_EQ(unlink(WalPath().c_str()), 0);
  EXPECT_THAT(OpenDurable(options_), StatusIs(absl::StatusCode::kDataLoss));
}

TEST_F(DurableDbTest, AMissingStoreIsRefused) {
  Fill();
  ASSERT_THAT(RemoveTree(options_.path), IsOk());
  EXPECT_THAT(OpenDurable(options_), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("empty")));
}

TEST_F(DurableDbTest, AMissingOrForeignWatermarkIsRefused) {
  Fill();
  const std::string mark = options_.watermark_dir + "/acked";
  ASSERT_EQ(unlink(mark.c_str()), 0);
  EXPECT_THAT(OpenDurable(options_), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("gone")));

  DurableOptions other = options_;
  other.path = root_ + "/other";
  other.watermark_dir = root_ + "/other-mark";
  { ASSERT_THAT(OpenDurable(other), IsOk()); }
  ASSERT_THAT(WriteFileAtomically(mark, *ReadFile(other.watermark_dir + "/acked")), IsOk());
  EXPECT_THAT(OpenDurable(options_), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("another")));
}

TEST_F(DurableDbTest, ADamagedSlotOfTheWatermarkLeavesTheOther) {
  Fill();
  const std::string path = options_.watermark_dir + "/acked";
  std::string mark = *ReadFile(path);
  mark[8] ^= 1;
  ASSERT_THAT(WriteFileAtomically(path, mark), IsOk());
  EXPECT_THAT(OpenDurable(options_), IsOk());

  mark = *ReadFile(path);
  mark[16] ^= 1;
  mark[4096 + 16] ^= 1;
  ASSERT_THAT(WriteFileAtomically(path, mark), IsOk());
  EXPECT_THAT(OpenDurable(options_), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("damaged")));
}

TEST_F(DurableDbTest, TwoOwnersCannotMeet) {
  GRAFT_ASSERT_OK_AND_ASSIGN(auto db, OpenDurable(options_));
  EXPECT_THAT(OpenDurable(options_), StatusIs(absl::StatusCode::kUnavailable));
}

TEST_F(DurableDbTest, FamiliesThatAreNotAskedForStay) {
  Fill();
  options_.column_families = {{"log", nullptr}};
  { ASSERT_THAT(OpenDurable(options_), IsOk()); }
  options_.column_families = {{"records", nullptr}};
  GRAFT_ASSERT_OK_AND_ASSIGN(auto db, OpenDurable(options_));
  EXPECT_TRUE(Has(*db, 7));
}

TEST_F(DurableDbTest, AWatermarkInsideTheStoreIsRefused) {
  options_.watermark_dir = options_.path + "/mark";
  EXPECT_THAT(OpenDurable(options_), StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace graft::rocks
