#include "scheduler/placement/timeline.h"

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>

#include "base/check.h"

namespace graft::scheduler {

Timeline::Timeline(const Topology& topology, const std::vector<RunningGang>& running) {
  ends_.reserve(running.size());
  for (const RunningGang& gang : running)
    ends_.push_back({gang.end, topology.Resolve(*gang.ranks)});
  std::stable_sort(ends_.begin(), ends_.end(),
                   [](const End& a, const End& b) { return a.at < b.at; });
}

void Timeline::Add(const Topology& topology, const std::vector<DeviceRef>& ranks, absl::Time end) {
  const auto at = std::upper_bound(ends_.begin(), ends_.end(), end,
                                   [](absl::Time a, const End& b) { return a < b.at; });
  ends_.insert(at, {end, topology.Resolve(ranks)});
}

bool Timeline::Find(const Topology& free, const GangRequest& gang,
                    const std::vector<Reservation>& kept, absl::Time now,
                    Reservation& found) const {
  // Kept devices may not be given away, whoever frees them.
  Topology state = free;
  std::vector<uint64_t> keep(static_cast<size_t>(state.groups()), 0);
  for (const Reservation& reservation : kept) {
    for (const Topology::Slot& slot : state.Resolve(reservation.devices)) {
      keep[static_cast<size_t>(slot.group)] |= slot.bits;
      state.Take(slot);
    }
  }
  // `released` ends are free in `state`; moves to `to` of them.
  size_t released = 0;
  const auto move = [&](size_t to) {
    for (; released < to; ++released) {
      for (Topology::Slot slot : ends_[released].slots) {
        slot.bits &= ~keep[static_cast<size_t>(slot.group)];
        state.Release(slot);
      }
    }
    for (; released > to; --released) {
      for (const Topology::Slot& slot : ends_[released - 1].slots) state.Take(slot);
    }
  };
  // More ends never make it fit less, so the first that is enough is found by halving.
  move(ends_.size());
  if (!TryPlace(state, gang).has_value()) return false;
  size_t low = 0, high = ends_.size();
  while (low < high) {
    const size_t middle = low + (high - low) / 2;
    move(middle);
    if (TryPlace(state, gang).has_value()) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  move(low);
  std::optional<Placement> room = TryPlace(state, gang);
  GRAFT_CHECK(room.has_value()) << "more free devices made a gang fit less";
  found.start = low == 0 ? now : std::max(now, ends_[low - 1].at);
  found.devices = std::move(room->ranks);
  return true;
}

}  // namespace graft::scheduler
