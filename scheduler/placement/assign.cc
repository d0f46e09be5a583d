// Which devices of a domain the units of a plan take.
#include <algorithm>
#include <cstdint>

#include "base/check.h"
#include "scheduler/placement/search.h"

namespace graft::scheduler {
namespace {

// What is left of a group while units are taken from it.
struct Left {
  int group = 0;
  uint64_t free = 0;

  int count() const { return __builtin_popcountll(free); }
};

uint64_t Block(int start, int size) {
  const uint64_t ones = size >= 64 ? ~uint64_t{0} : (uint64_t{1} << size) - 1;
  return ones << start;
}

// The lowest `count` bits.
uint64_t Lowest(uint64_t free, int count) {
  uint64_t taken = 0;
  for (; count > 0; --count) {
    const uint64_t bit = free & (~free + 1);
    taken |= bit;
    free &= ~bit;
  }
  return taken;
}

// Devices [i*unit, (i+1)*unit) where they are free, so that the same rank of a unit stands on the
// same rail of every node; of several such blocks the one whose surroundings are fullest, so that
// larger blocks stay whole. Any devices where no such block is free.
uint64_t Aligned(uint64_t free, int unit) {
  if ((unit & (unit - 1)) != 0) return Lowest(free, unit);
  uint64_t best = 0;
  std::vector<int> best_around;
  for (int start = 0; start + unit <= 64; start += unit) {
    const uint64_t block = Block(start, unit);
    if ((free & block) != block) continue;
    std::vector<int> around;
    for (int size = 2 * unit; size <= 64; size *= 2) {
      around.push_back(__builtin_popcountll(free & Block(start / size * size, size)));
    }
    if (best != 0 && !(around < best_around)) continue;
    best = block;
    best_around = std::move(around);
  }
  return best != 0 ? best : Lowest(free, unit);
}

// The slice on the card with the fewest free ones: whole cards stay whole.
uint64_t TightestSlice(const Topology::Group& group, uint64_t free) {
  uint64_t best = 0;
  int best_count = 65;
  for (const auto& [card, bits] : group.cards) {
    const int count = __builtin_popcountll(bits & free);
    if (count == 0 || count >= best_count) continue;
    best_count = count;
    best = Lowest(bits & free, 1);
  }
  return best;
}

void Append(const Topology& topology, int group_id, uint64_t bits, std::vector<DeviceRef>& ranks) {
  const Topology::Group& group = topology.group(group_id);
  const std::string& node = topology.member(group.node).name;
  for (; bits != 0; bits &= bits - 1) {
    ranks.push_back({node, group.base + __builtin_ctzll(bits)});
  }
}

// Units that fit one node each, on the fewest nodes.
int TakeWhole(const Topology& topology, std::vector<Left>& groups, int unit, int units,
              std::vector<DeviceRef>& ranks) {
  std::vector<Room> rooms;
  int fit = 0;
  for (size_t i = 0; i < groups.size(); ++i) {
    const int count = groups[i].count();
    if (count < unit) continue;
    rooms.push_back({static_cast<int>(i), count / unit, count});
    fit += count / unit;
  }
  for (const Room& room : FewestOf(std::move(rooms), std::min(fit, units))) {
    Left& left = groups[static_cast<size_t>(room.id)];
    const Topology::Group& group = topology.group(left.group);
    for (int i = 0; i < room.units; ++i) {
      const uint64_t bits = unit == 1 && !group.cards.empty() ? TightestSlice(group, left.free)
                                                              : Aligned(left.free, unit);
      left.free &= ~bits;
      Append(topology, left.group, bits, ranks);
    }
  }
  return std::min(fit, units);
}

void TakeUnits(const Topology& topology, std::vector<Left>& groups, int unit, int units,
               std::vector<DeviceRef>& ranks) {
  units -= TakeWhole(topology, groups, unit, units, ranks);
  // Of the rest no node of the domain holds one alone.
  for (; units > 0; --units) {
    std::stable_sort(groups.begin(), groups.end(),
                     [](const Left& a, const Left& b) { return a.count() > b.count(); });
    int need = unit;
    for (Left& left : groups) {
      const uint64_t bits = Lowest(left.free, std::min(need, left.count()));
      left.free &= ~bits;
      need -= __builtin_popcountll(bits);
      Append(topology, left.group, bits, ranks);
    }
  }
}

}  // namespace

std::vector<DeviceRef> AssignRanks(const Topology& topology, const Plan& plan) {
  std::vector<DeviceRef> ranks;
  for (const Plan::Part& part : plan.parts) {
    std::vector<Left> groups;
    for (int group : topology.domain(part.domain).groups) {
      if (part.member >= 0 && topology.group(group).node != part.member) continue;
      if (const uint64_t free = topology.Free(group); free != 0) groups.push_back({group, free});
    }
    const size_t before = ranks.size();
    TakeUnits(topology, groups, plan.block, part.units, ranks);
    GRAFT_CHECK(ranks.size() - before == static_cast<size_t>(part.units * plan.block));
  }
  return ranks;
}

}  // namespace graft::scheduler
