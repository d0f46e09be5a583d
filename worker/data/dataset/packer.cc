#include "worker/data/dataset/packer.h"

#include <algorithm>
#include <numeric>
#include <set>
#include <utility>

#include "base/check.h"

namespace graft::data {
namespace {

// Indices by falling length; equal lengths keep their order.
std::vector<int> LongestFirst(absl::Span<const int> lengths) {
  std::vector<int> order(lengths.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int a, int b) { return lengths[a] > lengths[b]; });
  return order;
}

uint64_t Mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EB;
  return x ^ (x >> 31);
}

}  // namespace

std::vector<std::vector<int>> PackBestFit(absl::Span<const int> lengths, int64_t capacity,
                                          int64_t most) {
  std::vector<std::vector<int>> groups;
  std::set<std::pair<int64_t, int>> room;  // what is left, group
  for (const int index : LongestFirst(lengths)) {
    const int64_t length = lengths[index];
    const auto best = room.lower_bound({length, 0});
    auto [left, group] =
        best == room.end() ? std::pair(capacity, static_cast<int>(groups.size())) : *best;
    if (best == room.end()) {
      groups.emplace_back();
    } else {
      room.erase(best);
    }
    groups[group].push_back(index);
    if (static_cast<int64_t>(groups[group].size()) < most) room.insert({left - length, group});
  }
  for (std::vector<int>& group : groups) std::sort(group.begin(), group.end());
  return groups;
}

std::vector<std::vector<int>> ShareAmongRanks(absl::Span<const int> lengths, int ranks,
                                              bool equal_counts) {
  GRAFT_CHECK(ranks > 0) << "no ranks";
  std::vector<std::vector<int>> shares(ranks);
  std::vector<int64_t> load(ranks, 0);
  const size_t most = (lengths.size() + ranks - 1) / ranks;
  for (const int index : LongestFirst(lengths)) {
    int chosen = -1;
    for (int rank = 0; rank < ranks; ++rank) {
      if (equal_counts && shares[rank].size() >= most) continue;
      if (chosen < 0 || load[rank] < load[chosen]) chosen = rank;
    }
    shares[chosen].push_back(index);
    load[chosen] += lengths[index];
  }
  for (std::vector<int>& share : shares) std::sort(share.begin(), share.end());
  return shares;
}

// A Feistel network over the next power of four, walked until it lands inside: a permutation of
// [0, n) that needs no memory. Fewer than four steps on average.
uint64_t ShuffledIndex(uint64_t seed, uint64_t n, uint64_t index) {
  GRAFT_CHECK(index < n) << "index " << index << " of " << n;
  int half_bits = 1;
  while (half_bits < 32 && (uint64_t{1} << (2 * half_bits)) < n) ++half_bits;
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  constexpr int kRounds = 6;
  uint64_t x = index;
  do {
    uint64_t left = x >> half_bits;
    uint64_t right = x & mask;
    for (int round = 0; round < kRounds; ++round) {
      const uint64_t mixed = left ^ (Mix(seed ^ Mix(right * kRounds + round)) & mask);
      left = right;
      right = mixed;
    }
    x = left << half_bits | right;
  } while (x >= n);
  return x;
}

}  // namespace graft::data
