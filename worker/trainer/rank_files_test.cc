// Ranks that write one file, some of them without the first one's folder.
#include "worker/trainer/rank_files.h"

#include <ATen/Parallel.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "base/check.h"
#include "base/file.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/parallel/test_ranks.h"

namespace graft::trainer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kWorld = 4;
constexpr int64_t kRows = 1200;  // a rank's share is larger than what travels in one piece
constexpr int64_t kColumns = 1024;

class RankFilesTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() { at::set_num_threads(1); }
  void SetUp() override {
    char name[] = "/tmp/graft_rank_files_XXXXXX";
    ASSERT_NE(mkdtemp(name), nullptr);
    folder_ = name;
    for (const char* node : {"/first", "/second", "/third"}) {
      GRAFT_CHECK_OK(MakeDirectories(folder_ + node));
    }
  }
  void TearDown() override { RemoveTree(folder_).IgnoreError(); }

  // Ranks 0 and 2 are on the first node, 1 and 3 on nodes of their own.
  std::string NodeOf(int64_t rank) const {
    if (rank % 2 == 0) return folder_ + "/first";
    return folder_ + (rank == 1 ? "/second" : "/third");
  }

  static at::Tensor Whole() {
    return at::arange(kWorld * kRows * kColumns, at::kFloat).view({kRows, kWorld * kColumns});
  }

  // A rank's columns, and a tensor that the last rank alone has.
  static TensorParts PartsOf(int64_t rank) {
    TensorPart columns;
    columns.name = "columns";
    columns.whole = {kRows, kWorld * kColumns};
    columns.numbers = {Whole().narrow(1, rank * kColumns, kColumns).contiguous()};
    for (int64_t row = 0; row < kRows; ++row) {
      columns.runs.push_back({row * kColumns, (row * kWorld + rank) * kColumns, kColumns});
    }
    TensorParts parts = {columns};
    if (rank == kWorld - 1)
      parts.push_back(WholePart("last", at::full({3}, 7.0f), /*writes=*/true));
    return parts;
  }

  // What each rank was told.
  std::vector<absl::Status> Write(const std::function<void(int64_t, TensorParts&)>& change = {}) {
    std::vector<absl::Status> told(kWorld);
    parallel::RunWorlds({.dp = kWorld}, 1, [&](parallel::World& world) {
      const int64_t rank = world.rank();
      TensorParts parts = PartsOf(rank);
      if (change) change(rank, parts);
      told[static_cast<size_t>(rank)] =
          WriteTogether(GangOf(&world), "test", NodeOf(rank), "all", parts);
    });
    return told;
  }

  std::string folder_;
};

TEST_F(RankFilesTest, TheFirstRanksFileHoldsWhatRanksOfOtherNodesHave) {
  for (const absl::Status& status : Write()) EXPECT_THAT(status, IsOk());
  at::Tensor columns = at::empty({kRows, kWorld * kColumns});
  at::Tensor last = at::empty({3});
  ASSERT_THAT(
      ReadTensors(TensorFile(folder_ + "/first", "all"), {{"columns", columns}, {"last", last}}),
      IsOk());
  EXPECT_TRUE(columns.equal(Whole()));
  EXPECT_TRUE(last.equal(at::full({3}, 7.0f)));
  EXPECT_THAT(*ListDirectory(folder_ + "/first"), ElementsAre("all.safetensors"));
  EXPECT_THAT(*ListDirectory(folder_ + "/second"), IsEmpty());
}

TEST_F(RankFilesTest, AMarkOfAnEarlierRunIsNotTheFirstRanksFolder) {
  ASSERT_THAT(WriteFileAtomically(folder_ + "/second/.seen-by-ranks", "earlier"), IsOk());
  ASSERT_THAT(WriteFileAtomically(folder_ + "/second/all.safetensors", "earlier"), IsOk());
  for (const absl::Status& status : Write()) EXPECT_THAT(status, IsOk());
  at::Tensor columns = at::empty({kRows, kWorld * kColumns});
  ASSERT_THAT(ReadTensors(TensorFile(folder_ + "/first", "all"), {{"columns", columns}}), IsOk());
  EXPECT_TRUE(columns.equal(Whole()));
}

TEST_F(RankFilesTest, WhatCannotBeWrittenFailsEveryRank) {
  // A run that leaves its tensor; the rank goes on sending, and the first one goes on taking.
  const auto told = Write([](int64_t rank, TensorParts& parts) {
    if (rank == 1) parts[0].runs[0].whole_begin = kWorld * kRows * kColumns;
  });
  for (const absl::Status& status : told) {
    EXPECT_THAT(std::string(status.message()), HasSubstr("of tensor columns, which has"));
  }
  EXPECT_EQ(told[0].code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RankFilesTest, AFolderThatCannotBeMadeFailsEveryRank) {
  ASSERT_THAT(RemoveTree(folder_ + "/first"), IsOk());
  ASSERT_THAT(WriteFileAtomically(folder_ + "/first", "no folder"), IsOk());
  for (const absl::Status& status : Write()) {
    EXPECT_THAT(std::string(status.message()), HasSubstr("/first"));
  }
}

TEST_F(RankFilesTest, NumbersThatDifferAreNamed) {
  parallel::RunWorlds({.dp = 2}, 1, [&](parallel::World& world) {
    const FileGang gang = GangOf(&world);
    EXPECT_THAT(SameOnAll(gang, "the step", 8), IsOk());
    EXPECT_EQ(SameOnAll(gang, "the other step", 4 * world.rank()).message(),
              "the other step is 0 on rank 0 and 4 on rank 1");
  });
  EXPECT_THAT(SameOnAll({}, "the step", 8), IsOk());
}

}  // namespace
}  // namespace graft::trainer
