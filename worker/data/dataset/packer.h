// Laying rows of given lengths into few micro-batches, and sharing rows among ranks evenly.
// Pure functions of their arguments: the same on every rank.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace graft::data {

// Best fit, longest first: groups of at most `most` indices into `lengths`, each of at most
// `capacity` in sum (a length above it stands alone). Ties go to the lower index; within a group
// the indices ascend.
std::vector<std::vector<int>> PackBestFit(absl::Span<const int> lengths, int64_t capacity,
                                          int64_t most);

// Shares the rows among `ranks` so that the most loaded rank has little more to do than the others:
// longest first to the least loaded. With `equal_counts` no rank gets more than
// ceil(lengths.size() / ranks) rows. Each rank's indices ascend.
std::vector<std::vector<int>> ShareAmongRanks(absl::Span<const int> lengths, int ranks,
                                              bool equal_counts);

// The `index`-th element of a shuffle of [0, n) that `seed` fixes; O(1), nothing is kept.
// A bijection for every n and seed. n >= 1, index < n.
uint64_t ShuffledIndex(uint64_t seed, uint64_t n, uint64_t index);

}  // namespace graft::data
