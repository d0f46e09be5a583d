#include "scheduler/placement/victims.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/container/btree_map.h"

namespace graft::scheduler {
namespace {

// Of each tier, how many of the places that look cheapest are tried.
constexpr size_t kPlaceTrials = 16;

// A switch or domain, and what each candidate holds of it.
struct Region {
  int free = 0;
  std::vector<std::pair<size_t, int>> held;  // candidate, devices
  double estimate = 0;
};

class Chooser {
 public:
  Chooser(const Topology& topology, const PreemptionRequest& request,
          const std::vector<VictimCandidate>& candidates)
      : topology_(topology), request_(request) {
    for (const VictimCandidate& candidate : candidates) {
      if (!May(candidate)) continue;
      allowed_.push_back(&candidate);
      slots_.push_back(topology.Resolve(*candidate.ranks));
    }
  }

  bool Run(Victims& chosen) {
    if (std::optional<Placement> now = TryPlace(topology_, request_.gang); now.has_value()) {
      chosen = {{}, 0, *std::move(now)};
      return true;
    }
    std::optional<Victims> best;
    for (int tier = -1; tier < kTiers; ++tier) {
      for (const Region& region : CheapestRegions(tier)) {
        // An estimate is never above the cost.
        if (best.has_value() && region.estimate >= best->cost) break;
        Consider(region, best);
      }
    }
    if (best.has_value()) chosen = *std::move(best);
    return best.has_value();
  }

 private:
  bool May(const VictimCandidate& candidate) const {
    if (!candidate.preemptible || (request_.borrows && candidate.guaranteed)) return false;
    if (request_.now - candidate.started < candidate.min_run_time) return false;
    return candidate.priority < request_.priority || (request_.reclaims && candidate.borrows);
  }

  // Tier -1: domains.
  int RegionOf(int group, int tier) const {
    const int domain = topology_.group(group).domain;
    if (tier < 0) return domain;
    int at = topology_.domain(domain).chassis;
    for (; tier > 0; --tier) at = topology_.at(at).parent;
    return at;
  }

  std::vector<Region> CheapestRegions(int tier) const {
    absl::btree_map<int, Region> regions;
    for (size_t i = 0; i < allowed_.size(); ++i) {
      for (const Topology::Slot& slot : slots_[i]) {
        Region& region = regions[RegionOf(slot.group, tier)];
        const int devices = __builtin_popcountll(slot.bits);
        if (region.held.empty() || region.held.back().first != i) region.held.push_back({i, 0});
        region.held.back().second += devices;
      }
    }
    for (int group = 0; group < topology_.groups(); ++group) {
      const auto it = regions.find(RegionOf(group, tier));
      if (it != regions.end()) it->second.free += __builtin_popcountll(topology_.Free(group));
    }
    std::vector<Region> enough;
    for (auto& [id, region] : regions) {
      if (Estimate(region)) enough.push_back(std::move(region));
    }
    const size_t most = std::min(kPlaceTrials, enough.size());
    std::stable_sort(enough.begin(), enough.end(),
                     [](const Region& a, const Region& b) { return a.estimate < b.estimate; });
    enough.resize(most);
    return enough;
  }

  double CostPerDevice(const std::pair<size_t, int>& held) const {
    return allowed_[held.first]->cost() / held.second;
  }

  // Orders the region's gangs, cheapest for what they free first, and bounds its cost from below by
  // letting the last be stopped in part. False when it has too few devices.
  bool Estimate(Region& region) const {
    std::sort(region.held.begin(), region.held.end(), [&](const auto& a, const auto& b) {
      const double left = CostPerDevice(a), right = CostPerDevice(b);
      return left != right ? left < right : allowed_[a.first]->id < allowed_[b.first]->id;
    });
    int need = request_.gang.layout.world() - region.free;
    for (const auto& held : region.held) {
      if (need <= 0) break;
      region.estimate += CostPerDevice(held) * std::min(need, held.second);
      need -= held.second;
    }
    return need <= 0;
  }

  void Consider(const Region& region, std::optional<Victims>& best) const {
    Topology later = topology_;
    std::vector<size_t> stopped;
    bool enough = false;
    for (const auto& [candidate, devices] : region.held) {
      for (const Topology::Slot& slot : slots_[candidate]) later.Release(slot);
      stopped.push_back(candidate);
      if ((enough = TryPlace(later, request_.gang).has_value())) break;
    }
    if (!enough) return;
    // Those that turn out not to be needed stay, the dearest first.
    std::sort(stopped.begin(), stopped.end(), [&](size_t a, size_t b) {
      const double left = allowed_[a]->cost(), right = allowed_[b]->cost();
      return left != right ? left > right : allowed_[a]->id < allowed_[b]->id;
    });
    for (size_t i = 0; i < stopped.size();) {
      for (const Topology::Slot& slot : slots_[stopped[i]]) later.Take(slot);
      if (TryPlace(later, request_.gang).has_value()) {
        stopped.erase(stopped.begin() + static_cast<std::ptrdiff_t>(i));
        continue;
      }
      for (const Topology::Slot& slot : slots_[stopped[i]]) later.Release(slot);
      ++i;
    }
    Victims victims;
    for (size_t candidate : stopped) {
      victims.ids.push_back(allowed_[candidate]->id);
      victims.cost += allowed_[candidate]->cost();
    }
    if (best.has_value() && victims.cost >= best->cost) return;
    std::sort(victims.ids.begin(), victims.ids.end());
    victims.placement = *TryPlace(later, request_.gang);
    best = std::move(victims);
  }

  const Topology& topology_;
  const PreemptionRequest& request_;
  std::vector<const VictimCandidate*> allowed_;
  std::vector<std::vector<Topology::Slot>> slots_;  // by candidate
};

}  // namespace

bool ChooseVictims(const Topology& topology, const PreemptionRequest& request,
                   const std::vector<VictimCandidate>& candidates, Victims& chosen) {
  return Chooser(topology, request, candidates).Run(chosen);
}

}  // namespace graft::scheduler
