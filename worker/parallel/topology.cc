#include "worker/parallel/topology.h"

#include "absl/strings/str_cat.h"

namespace graft::parallel {
namespace {

// The ranks whose places agree with `rank`'s where `same` says so.
template <typename F>
Ranks Where(const spec::Layout& layout, int64_t rank, const F& same) {
  const Place own = PlaceOf(layout, rank);
  Ranks ranks;
  for (int64_t r = 0; r < layout.world(); ++r) {
    if (same(own, PlaceOf(layout, r))) ranks.push_back(r);
  }
  return ranks;
}

}  // namespace

Place PlaceOf(const spec::Layout& layout, int64_t rank) {
  Place place;
  place.tp = rank % layout.tp;
  rank /= layout.tp;
  place.cp = rank % layout.cp;
  rank /= layout.cp;
  place.dp = rank % layout.dp;
  place.pp = rank / layout.dp;
  return place;
}

int64_t RankOf(const spec::Layout& layout, const Place& place) {
  return ((place.pp * layout.dp + place.dp) * layout.cp + place.cp) * layout.tp + place.tp;
}

std::string RanksText(const Ranks& ranks) {
  std::string text;
  for (size_t i = 0; i < ranks.size();) {
    size_t j = i;
    while (j + 1 < ranks.size() && ranks[j + 1] == ranks[j] + 1) ++j;
    absl::StrAppend(&text, text.empty() ? "" : ", ", ranks[i]);
    if (j > i) absl::StrAppend(&text, j > i + 1 ? "-" : ", ", ranks[j]);
    i = j + 1;
  }
  return text;
}

Ranks TensorRanks(const spec::Layout& layout, int64_t rank) {
  return Where(layout, rank, [](const Place& a, const Place& b) {
    return a.cp == b.cp && a.dp == b.dp && a.pp == b.pp;
  });
}

Ranks ContextRanks(const spec::Layout& layout, int64_t rank) {
  return Where(layout, rank, [](const Place& a, const Place& b) {
    return a.tp == b.tp && a.dp == b.dp && a.pp == b.pp;
  });
}

Ranks DataRanks(const spec::Layout& layout, int64_t rank) {
  return Where(layout, rank, [](const Place& a, const Place& b) {
    return a.tp == b.tp && a.cp == b.cp && a.pp == b.pp;
  });
}

Ranks PipelineRanks(const spec::Layout& layout, int64_t rank) {
  return Where(layout, rank, [](const Place& a, const Place& b) {
    return a.tp == b.tp && a.cp == b.cp && a.dp == b.dp;
  });
}

Ranks AllRanks(const spec::Layout& layout) {
  return Where(layout, 0, [](const Place&, const Place&) { return true; });
}

Ranks ExpertRanks(const spec::Layout& layout, int64_t rank) {
  return Where(layout, rank, [&](const Place& a, const Place& b) {
    return a.pp == b.pp && a.tp == b.tp &&
           (a.dp * layout.cp + a.cp) / layout.ep == (b.dp * layout.cp + b.cp) / layout.ep;
  });
}

Ranks ExpertHolderRanks(const spec::Layout& layout, int64_t rank) {
  return Where(layout, rank, [&](const Place& a, const Place& b) {
    return a.pp == b.pp && a.tp == b.tp &&
           (a.dp * layout.cp + a.cp) % layout.ep == (b.dp * layout.cp + b.cp) % layout.ep;
  });
}

Ranks HolderRanks(const spec::Layout& layout, int64_t rank, int64_t copies, bool both_ends) {
  const int64_t last = layout.pp - 1;
  return Where(layout, rank, [&](const Place& a, const Place& b) {
    const bool stage =
        a.pp == b.pp || (both_ends && (a.pp == 0 || a.pp == last) && (b.pp == 0 || b.pp == last));
    return stage && a.tp / copies == b.tp / copies;
  });
}

}  // namespace graft::parallel
