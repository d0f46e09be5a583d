#include "worker/data/dataset/packer.h"

#include <algorithm>
#include <numeric>
#include <set>

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::data {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kAny = INT64_MAX;

TEST(PackBestFitTest, FillsTheTightestGroupFirst) {
  EXPECT_THAT(PackBestFit({6, 5, 4, 3}, 10, kAny),
              ElementsAre(ElementsAre(0, 2), ElementsAre(1, 3)));
}

TEST(PackBestFitTest, AGroupTakesNoMoreThanItMay) {
  EXPECT_THAT(PackBestFit({1, 1, 1, 1, 1}, 10, 2),
              ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3), ElementsAre(4)));
  EXPECT_THAT(PackBestFit({6, 4}, 10, 1), ElementsAre(ElementsAre(0), ElementsAre(1)));
}

TEST(PackBestFitTest, EveryRowStandsOnceAndNoGroupOverflows) {
  SeededRandom random(3);
  for (int round = 0; round < 50; ++round) {
    std::vector<int> lengths(random.Uniform(200));
    for (int& length : lengths) length = 1 + static_cast<int>(random.Uniform(100));
    std::vector<int> seen;
    for (const std::vector<int>& group : PackBestFit(lengths, 100, kAny)) {
      int sum = 0;
      for (const int index : group) {
        sum += lengths[index];
        seen.push_back(index);
      }
      EXPECT_LE(sum, 100);
      EXPECT_TRUE(std::is_sorted(group.begin(), group.end()));
    }
    std::sort(seen.begin(), seen.end());
    std::vector<int> all(lengths.size());
    std::iota(all.begin(), all.end(), 0);
    EXPECT_EQ(seen, all);
  }
}

TEST(PackBestFitTest, NeedsFewGroups) {
  SeededRandom random(5);
  std::vector<int> lengths(1000);
  int64_t sum = 0;
  for (int& length : lengths) {
    length = 20 + static_cast<int>(random.Uniform(500));
    sum += length;
  }
  const size_t least = static_cast<size_t>((sum + 2047) / 2048);
  EXPECT_LE(PackBestFit(lengths, 2048, kAny).size(), least + 1);
}

TEST(ShareAmongRanksTest, LoadsDifferByLessThanTheLongestRow) {
  SeededRandom random(7);
  std::vector<int> lengths(64);
  for (int& length : lengths) length = 1 + static_cast<int>(random.Uniform(1000));
  std::vector<int64_t> load;
  for (const std::vector<int>& share : ShareAmongRanks(lengths, 8, false)) {
    load.push_back(0);
    for (const int index : share) load.back() += lengths[index];
  }
  const auto [least, most] = std::minmax_element(load.begin(), load.end());
  EXPECT_LT(*most - *least, 1000);
}

TEST(ShareAmongRanksTest, EqualCountsGiveEveryRankTheSameNumber) {
  for (const std::vector<int>& share : ShareAmongRanks({100, 1, 1, 1, 1, 1, 1, 1}, 4, true)) {
    EXPECT_EQ(share.size(), 2u);
  }
}

TEST(ShuffledIndexTest, IsABijectionForEverySize) {
  for (uint64_t n = 1; n < 300; ++n) {
    std::set<uint64_t> seen;
    for (uint64_t i = 0; i < n; ++i) seen.insert(ShuffledIndex(n * 31, n, i));
    EXPECT_EQ(seen.size(), n);
    EXPECT_EQ(*seen.rbegin(), n - 1);
  }
}

TEST(ShuffledIndexTest, SeedsGiveOrdersThatShareNoMoreThanChance) {
  constexpr uint64_t kSize = 1000;
  int equal = 0, in_place = 0;
  for (uint64_t i = 0; i < kSize; ++i) {
    equal += ShuffledIndex(1, kSize, i) == ShuffledIndex(2, kSize, i);
    in_place += ShuffledIndex(1, kSize, i) == i;
  }
  EXPECT_LT(equal, 10);
  EXPECT_LT(in_place, 10);
}

}  // namespace
}  // namespace graft::data
