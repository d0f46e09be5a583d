// Where a rank stands in its layout, and with whom. Ranks are ordered tp (fastest), cp, dp, pp:
// rank = ((pp * DP + dp) * CP + cp) * TP + tp. Pure functions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "worker/spec/layout.h"

namespace graft::parallel {

struct Place {
  int64_t tp = 0;
  int64_t cp = 0;
  int64_t dp = 0;
  int64_t pp = 0;
};

Place PlaceOf(const spec::Layout& layout, int64_t rank);
int64_t RankOf(const spec::Layout& layout, const Place& place);

using Ranks = std::vector<int64_t>;  // ascending
// "0-3, 6".
std::string RanksText(const Ranks& ranks);

// The ranks that differ from `rank` in that coordinate alone, itself among them.
Ranks TensorRanks(const spec::Layout& layout, int64_t rank);
Ranks ContextRanks(const spec::Layout& layout, int64_t rank);
Ranks DataRanks(const spec::Layout& layout, int64_t rank);
Ranks PipelineRanks(const spec::Layout& layout, int64_t rank);
Ranks AllRanks(const spec::Layout& layout);
// The cp x dp ranks of a stage stand in groups of ep neighbours that hold all experts together; and
// those of them that hold the same experts.
Ranks ExpertRanks(const spec::Layout& layout, int64_t rank);
Ranks ExpertHolderRanks(const spec::Layout& layout, int64_t rank);
// The ranks of its stage with the same numbers of a tensor that `copies` neighbouring
// tensor-parallel ranks hold: over all of cp and dp. Their gradients of it are summed. With
// `both_ends` also those of the first and the last stage (a tied embedding).
Ranks HolderRanks(const spec::Layout& layout, int64_t rank, int64_t copies, bool both_ends);

}  // namespace graft::parallel
