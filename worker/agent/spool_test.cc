#include "worker/agent/spool.h"

#include <unistd.h>

#include <fstream>

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::agent {
namespace {

class SpoolTest : public ::testing::Test {
 protected:
  SpoolTest() : folder_(absl::StrCat(::testing::TempDir(), "/spool.", getpid())) { Clean(); }
  ~SpoolTest() override { Clean(); }
  void Clean() { EXPECT_THAT(RemoveTree(folder_), IsOk()); }
  std::unique_ptr<Spool> Open(SpoolOptions options = {}) {
    auto spool = Spool::Open(folder_, options);
    EXPECT_THAT(spool, IsOk());
    return *std::move(spool);
  }
  const std::string folder_;
};

TEST_F(SpoolTest, KeepsWhatIsNotAcknowledgedOverARestart) {
  {
    auto spool = Open({.segment_bytes = 100});
    for (int i = 1; i <= 50; ++i) EXPECT_THAT(spool->Append(absl::StrCat("record ", i)), IsOk());
    EXPECT_THAT(spool->Acknowledge(30), IsOk());
  }
  auto spool = Open({.segment_bytes = 100});
  EXPECT_EQ(spool->last_sequence(), 50);
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto records, spool->ReadAfter(30, 1 << 20));
  ASSERT_EQ(records.size(), 20u);
  EXPECT_EQ(records[0].sequence, 31);
  EXPECT_EQ(records[0].payload, "record 31");
  EXPECT_LE(spool->acknowledged(), 30);
}

TEST_F(SpoolTest, NumbersGoOnAfterEverythingWasAcknowledged) {
  {
    auto spool = Open();
    EXPECT_THAT(spool->Append("a"), IsOk());
    EXPECT_THAT(spool->Acknowledge(1), IsOk());
  }
  auto spool = Open();
  GRAFT_ASSERT_OK_AND_ASSIGN(const int64_t sequence, spool->Append("b"));
  EXPECT_EQ(sequence, 2);
}

TEST_F(SpoolTest, ATornRecordIsDroppedAndItsPlaceUsedAgain) {
  {
    auto spool = Open();
    EXPECT_THAT(spool->Append("whole"), IsOk());
    EXPECT_THAT(spool->Append("torn away"), IsOk());
  }
  const std::string path = JoinPath(folder_, "0000000000000001.spool");
  GRAFT_ASSERT_OK_AND_ASSIGN(const int64_t size, FileSize(path));
  ASSERT_EQ(truncate(path.c_str(), size - 3), 0);
  auto spool = Open();
  EXPECT_EQ(spool->last_sequence(), 1);
  EXPECT_THAT(spool->Append("next"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto records, spool->ReadAfter(0, 1 << 20));
  ASSERT_EQ(records.size(), 2u);
  EXPECT_EQ(records[1].payload, "next");
}

TEST_F(SpoolTest, AFullSpoolSaysSoAndAcknowledgingMakesRoom) {
  auto spool = Open({.segment_bytes = 64, .max_bytes = 256});
  int appended = 0;
  while (spool->Append("0123456789").ok()) ++appended;
  EXPECT_EQ(appended, 256 / 18);
  EXPECT_THAT(spool->Append("x"), StatusIs(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(spool->Acknowledge(appended), IsOk());
  EXPECT_THAT(spool->Append("0123456789"), IsOk());
}

TEST_F(SpoolTest, ReadsInPiecesOfBoundedSize) {
  auto spool = Open();
  for (int i = 0; i < 10; ++i) EXPECT_THAT(spool->Append(std::string(100, 'x')), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto records, spool->ReadAfter(0, 250));
  EXPECT_EQ(records.size(), 3u);
  EXPECT_FALSE(spool->WaitForMore(10, absl::Milliseconds(1)));
  EXPECT_TRUE(spool->WaitForMore(9, absl::Milliseconds(1)));
}

}  // namespace
}  // namespace graft::agent
