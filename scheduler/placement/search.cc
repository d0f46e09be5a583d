#include "scheduler/placement/search.h"

#include <algorithm>
#include <array>
#include <cstdint>

#include "base/check.h"

namespace graft::scheduler {
namespace {

// How many of the tightest switches are filled on trial.
constexpr size_t kSwitchTrials = 16;

int WidestTier(Level level) {
  switch (level) {
    case Level::kNode:
    case Level::kDomain:
      return kChassis - 1;
    case Level::kRack:
      return kRack;
    case Level::kRailGroup:
      return kLeaf;
    case Level::kSpine:
      return kSpine;
    case Level::kCluster:
      return kCore;
  }
  return kCore;
}

Level LevelOf(int tier) {
  constexpr std::array<Level, kTiers> kLevels = {Level::kNode, Level::kRack, Level::kRailGroup,
                                                 Level::kSpine, Level::kCluster};
  return kLevels[static_cast<size_t>(tier)];
}

class Search {
 public:
  Search(const Topology& topology, const std::vector<int>& pools, const Demand& demand)
      : topology_(topology), demand_(demand) {
    selected_.resize(topology.pools().size(), 0);
    for (int pool : pools) {
      selected_[static_cast<size_t>(pool)] = 1;
      stride_ = std::max(stride_, topology.pools()[static_cast<size_t>(pool)].stride);
    }
    units_in_.resize(static_cast<size_t>(stride_));
    for (int free = 0; free < stride_; ++free) units_in_[free] = free / demand.unit;
    if (by_node()) CountNodes();
  }

  std::optional<Plan> Run() const {
    if (RoomAt(Topology::kRoot).units < demand_.units) return std::nullopt;
    std::optional<Plan> plan = by_node() ? NodesOfOneDomain() : InOneDomain();
    if (!plan.has_value()) plan = AcrossDomains();
    if (plan.has_value() && by_node()) TakeNodes(*plan);
    return plan;
  }

 private:
  // A node that can give its share.
  struct Giver {
    int member = 0;
    int domain = 0;
    int free = 0;
  };

  bool by_node() const { return demand_.per_node > 0; }
  bool Selected(int pool) const { return selected_[static_cast<size_t>(pool)] != 0; }
  // Of a stage, how many parts of so many ranks; 1 also where stages do not come out whole.
  int StageIn(int ranks) const { return demand_.stage % ranks == 0 ? demand_.stage / ranks : 1; }
  int stage_units() const { return StageIn(by_node() ? demand_.per_node : demand_.unit); }

  Room RoomOfDomain(int id) const {
    if (by_node()) return nodes_in_domain_[static_cast<size_t>(id)];
    const Topology::Domain& domain = topology_.domain(id);
    if (!Selected(domain.pool)) return {id, 0, 0};
    const int free = topology_.DomainFree(id);
    return {id, free / demand_.unit, free};
  }

  Room RoomAt(int id) const {
    if (by_node()) return nodes_under_[static_cast<size_t>(id)];
    const Topology::Switch& at = topology_.at(id);
    Room room{id, 0, 0};
    if (at.tier == kChassis) {
      for (int child : at.children) Add(room, RoomOfDomain(child));
    } else if (demand_.chunk > 1 && at.tier > kLeaf) {
      for (int child : at.children) Add(room, RoomAt(child));
    } else {
      for (const auto& [pool, where] : at.counts) {
        if (!Selected(pool)) continue;
        const int stride = topology_.pools()[static_cast<size_t>(pool)].stride;
        const int* counts = topology_.Counts(where);
        for (int free = 1; free < stride; ++free) {
          room.units += counts[free] * units_in_[free];
          room.free += counts[free] * free;
        }
      }
      if (at.tier == kLeaf) room.units -= room.units % demand_.chunk;  // broken chunks are no use
    }
    return room;
  }

  static void Add(Room& sum, const Room& part) {
    sum.units += part.units;
    sum.free += part.free;
  }

  // How many domains under the switch have exactly so many free devices.
  int DomainsWith(int id, int free) const {
    int domains = 0;
    for (const auto& [pool, where] : topology_.at(id).counts) {
      if (Selected(pool) && free < topology_.pools()[static_cast<size_t>(pool)].stride) {
        domains += topology_.Counts(where)[free];
      }
    }
    return domains;
  }

  // Of all racks that have a domain with exactly so many free devices, the one with the fewest.
  int FullestWith(int free) const {
    std::vector<int> racks = {Topology::kRoot};
    for (int tier = kCore; tier > kRack; --tier) {
      std::vector<int> below;
      for (int id : racks) {
        for (int child : topology_.at(id).children) {
          if (DomainsWith(child, free) > 0) below.push_back(child);
        }
      }
      racks = std::move(below);
    }
    int best = racks.front();
    int best_free = RoomAt(best).free;
    for (int id : racks) {
      const int room = RoomAt(id).free;
      if (room >= best_free) continue;
      best = id;
      best_free = room;
    }
    return best;
  }

  // The domain with the least that is enough; of equal ones, one under the fullest switches.
  std::optional<Plan> InOneDomain() const {
    const int world = demand_.unit * demand_.units;
    int free = world;
    while (free < stride_ && DomainsWith(Topology::kRoot, free) == 0) ++free;
    if (free >= stride_) return std::nullopt;
    const int at = FullestWith(free);
    for (int chassis : topology_.at(at).children) {
      for (int domain : topology_.at(chassis).children) {
        if (topology_.DomainFree(domain) != free || !Selected(topology_.domain(domain).pool)) {
          continue;
        }
        Plan plan{.block = demand_.unit, .level = Level::kDomain};
        plan.parts.push_back({domain, demand_.units});
        if (topology_.domain(domain).groups.size() == 1) plan.level = Level::kNode;
        plan.opened = free == topology_.domain(domain).total;
        return plan;
      }
    }
    GRAFT_CHECK(false) << "counts say that a domain has " << free << " free devices; none has";
    return std::nullopt;
  }

  // Where a node stands in the tree: the first of its domains that could ever give its share. What
  // is free has no say in it, so that more free devices never make a gang fit less.
  int HomeOf(int member) const {
    for (int group : topology_.member(member).groups) {
      const int domain = topology_.group(group).domain;
      if (!Selected(topology_.domain(domain).pool)) continue;
      if (demand_.together == 1) return domain;
      if (__builtin_popcountll(topology_.group(group).usable) >= demand_.per_node) return domain;
    }
    return -1;
  }

  // What the node has free in those of its domains that count.
  Room ShareOf(int member, int home) const {
    Room all;
    Room domain{-1, 0, 0};
    const auto finish = [&] {
      domain.units = domain.free / demand_.unit;
      if (demand_.together == 1 || domain.id == home) Add(all, domain);
    };
    for (int id : topology_.member(member).groups) {
      const Topology::Group& group = topology_.group(id);
      if (!Selected(topology_.domain(group.domain).pool)) continue;
      if (group.domain != domain.id) {
        finish();
        domain = {group.domain, 0, 0};
      }
      domain.free += __builtin_popcountll(topology_.Free(id));
    }
    finish();
    return all;
  }

  // The nodes that can give their share, and how many there are under each switch.
  void CountNodes() {
    nodes_in_domain_.resize(static_cast<size_t>(topology_.domains()));
    nodes_under_.resize(static_cast<size_t>(topology_.switches()));
    for (int member = 0; member < topology_.members(); ++member) {
      const int home = HomeOf(member);
      if (home < 0) continue;
      const Room all = ShareOf(member, home);
      const int gives = demand_.together == 1 ? all.units * demand_.unit : all.free;
      if (gives < demand_.per_node) continue;
      givers_.push_back({member, home, all.free});
      Add(nodes_in_domain_[static_cast<size_t>(home)], {0, 1, all.free});
    }
    std::sort(givers_.begin(), givers_.end(), [&](const Giver& a, const Giver& b) {
      if (a.domain != b.domain) return a.domain < b.domain;
      if (a.free != b.free) return a.free < b.free;
      return topology_.member(a.member).name < topology_.member(b.member).name;
    });
    for (size_t id = 0; id < nodes_in_domain_.size(); ++id) {
      Room& room = nodes_in_domain_[id];
      room.id = static_cast<int>(id);
      room.units -= room.units % demand_.together;
      const int chassis = topology_.domain(room.id).chassis;
      Add(nodes_under_[static_cast<size_t>(chassis)], room);
    }
    // Switches come after those that they hang on.
    for (int id = topology_.switches() - 1; id >= 0; --id) {
      Room& room = nodes_under_[static_cast<size_t>(id)];
      room.id = id;
      const Topology::Switch& at = topology_.at(id);
      if (at.tier == kLeaf) room.units -= room.units % demand_.chunk;
      if (at.parent >= 0) Add(nodes_under_[static_cast<size_t>(at.parent)], room);
    }
  }

  // Givers of the domain, those with the least first.
  const Giver* GiversOf(int domain) const {
    return &*std::lower_bound(givers_.begin(), givers_.end(), domain,
                              [](const Giver& a, int id) { return a.domain < id; });
  }

  // The domain whose tightest nodes have the least that is enough.
  std::optional<Plan> NodesOfOneDomain() const {
    const auto need = static_cast<size_t>(demand_.units);
    std::optional<std::tuple<int, int, absl::string_view, int>> best;
    for (size_t first = 0; first < givers_.size();) {
      const int domain = givers_[first].domain;
      const Room& room = nodes_in_domain_[static_cast<size_t>(domain)];
      int free = 0;
      size_t end = first;
      for (; end < givers_.size() && givers_[end].domain == domain; ++end) {
        if (end - first < need) free += givers_[end].free;
      }
      if (room.units >= demand_.units) {
        const auto key = std::make_tuple(
            free, room.free, absl::string_view(topology_.member(givers_[first].member).name),
            domain);
        if (!best.has_value() || key < *best) best = key;
      }
      first = end;
    }
    if (!best.has_value()) return std::nullopt;
    Plan plan{.level = need == 1 ? Level::kNode : Level::kDomain};
    plan.parts.push_back({std::get<3>(*best), demand_.units});
    return plan;
  }

  // From so many nodes of a domain to the domains of each node.
  void TakeNodes(Plan& plan) const {
    std::vector<Plan::Part> parts;
    for (const Plan::Part& part : plan.parts) {
      const Giver* first = GiversOf(part.domain);
      std::vector<Giver> givers(first, first + part.units);
      std::sort(givers.begin(), givers.end(), [&](const Giver& a, const Giver& b) {
        return topology_.member(a.member).name < topology_.member(b.member).name;
      });
      for (const Giver& giver : givers) {
        if (demand_.together > 1) {
          parts.push_back({giver.domain, 1, giver.member});
          continue;
        }
        const int units = demand_.per_node / demand_.unit;
        for (const Room& room : Split(DomainsOf(giver.member), units, StageIn(demand_.unit))) {
          parts.push_back({room.id, room.units, giver.member});
        }
      }
    }
    plan.block = demand_.together > 1 ? demand_.per_node : demand_.unit;
    plan.parts = std::move(parts);
  }

  // A chassis may be that of a domain that spans nodes.
  bool OnOneNode(const Plan& plan) const {
    int node = -1;
    for (const Plan::Part& part : plan.parts) {
      for (int group : topology_.domain(part.domain).groups) {
        if (node >= 0 && topology_.group(group).node != node) return false;
        node = topology_.group(group).node;
      }
    }
    return true;
  }

  // What the node has of each of its domains.
  std::vector<Room> DomainsOf(int member) const {
    std::vector<Room> rooms;
    for (int group : topology_.member(member).groups) {
      const int domain = topology_.group(group).domain;
      if (!Selected(topology_.domain(domain).pool)) continue;
      if (rooms.empty() || rooms.back().id != domain) rooms.push_back({domain, 0, 0});
      rooms.back().free += __builtin_popcountll(topology_.Free(group));
      rooms.back().units = rooms.back().free / demand_.unit;
    }
    rooms.erase(std::remove_if(rooms.begin(), rooms.end(),
                               [](const Room& room) { return room.units == 0; }),
                rooms.end());
    return rooms;
  }

  // The narrowest switches with room for all, by a walk down from the core.
  std::vector<Room> Narrowest(int& tier) const {
    std::vector<Room> rooms = {RoomAt(Topology::kRoot)};
    const int lowest = topology_.has_split_chassis() && !by_node() ? kChassis : kRack;
    for (tier = kCore; tier > lowest; --tier) {
      std::vector<Room> below;
      for (const Room& room : rooms) {
        for (int child : topology_.at(room.id).children) {
          const Room inside = RoomAt(child);
          if (inside.units >= demand_.units) below.push_back(inside);
        }
      }
      if (below.empty()) break;
      rooms = std::move(below);
    }
    return rooms;
  }

  std::optional<Plan> AcrossDomains() const {
    int tier = kCore;
    std::vector<Room> rooms = Narrowest(tier);
    if (tier > WidestTier(demand_.max_level)) return std::nullopt;
    std::stable_sort(rooms.begin(), rooms.end(), [](const Room& a, const Room& b) {
      return a.units != b.units ? a.units < b.units : a.free < b.free;
    });
    std::optional<Plan> best;
    for (size_t i = 0; i < std::min(kSwitchTrials, rooms.size()); ++i) {
      Plan plan{.block = demand_.unit, .level = LevelOf(tier)};
      Fill(rooms[i].id, demand_.units, plan);
      if (tier == kChassis && !OnOneNode(plan)) plan.level = Level::kRack;
      plan.crossings = tier > kLeaf ? Crossings(plan) : 0;
      if (!best.has_value() || plan.Score() < best->Score()) best = std::move(plan);
      // Nothing is better than one that opens no domain and crosses nothing.
      if (best->crossings == 0 && best->opened == 0) break;
    }
    return best;
  }

  // Whole stages to each child where that takes no more of them: then only PP crosses. Children
  // come out in the order of their names, those with broken stages last.
  static std::vector<Room> Split(std::vector<Room> rooms, int need, int stage) {
    std::vector<int> order;
    for (const Room& room : rooms) order.push_back(room.id);
    std::vector<Room> taken = FewestOf(rooms, need);
    if (stage > 1 && need > stage && need % stage == 0 && taken.size() > 1) {
      int whole = 0;
      for (Room& room : rooms) whole += room.units -= room.units % stage;
      if (whole >= need) {
        std::vector<Room> aligned = FewestOf(std::move(rooms), need);
        // Each child more is one border more; a broken stage is crossed by DP and by PP.
        int broken = 0;
        for (const Room& room : taken) broken += room.units % stage != 0;
        if (aligned.size() <= taken.size() + static_cast<size_t>(broken)) {
          taken = std::move(aligned);
        }
      }
    }
    const auto position = [&](int id) { return std::find(order.begin(), order.end(), id); };
    if (taken.size() > 1) {
      std::stable_sort(taken.begin(), taken.end(), [&](const Room& a, const Room& b) {
        const bool left = a.units % stage != 0, right = b.units % stage != 0;
        return left != right ? right : position(a.id) < position(b.id);
      });
    }
    return taken;
  }

  void Fill(int id, int need, Plan& plan) const {
    const Topology::Switch& at = topology_.at(id);
    std::vector<Room> rooms;
    rooms.reserve(at.children.size());
    for (int child : at.children) {
      const Room room = at.tier == kChassis ? RoomOfDomain(child) : RoomAt(child);
      if (room.units > 0) rooms.push_back(room);
    }
    for (const Room& part : Split(std::move(rooms), need, stage_units())) {
      if (at.tier != kChassis) {
        Fill(part.id, part.units, plan);
        continue;
      }
      plan.parts.push_back({part.id, part.units});
      plan.opened += topology_.DomainFree(part.id) == topology_.domain(part.id).total;
    }
  }

  // Borders between switches that are crossed inside a stage, and between a stage and the next.
  int Crossings(const Plan& plan) const {
    int crossings = 0;
    std::vector<int> above;  // by unit: its switch of the tier
    for (const Plan::Part& part : plan.parts) {
      above.insert(above.end(), static_cast<size_t>(part.units),
                   topology_.domain(part.domain).chassis);
    }
    const size_t stage = static_cast<size_t>(stage_units());
    for (int& at : above) at = topology_.at(at).parent;
    // Racks of one leaf share its switches.
    for (int tier = kLeaf; tier < kCore; ++tier) {
      for (int& at : above) at = topology_.at(at).parent;
      for (size_t unit = 1; unit < above.size(); ++unit) {
        crossings += unit % stage != 0 && above[unit] != above[unit - 1];
      }
      for (size_t first = stage; first < above.size(); first += stage) {
        const size_t peers = std::min(stage, above.size() - first);
        crossings += !std::equal(above.begin() + static_cast<std::ptrdiff_t>(first),
                                 above.begin() + static_cast<std::ptrdiff_t>(first + peers),
                                 above.begin() + static_cast<std::ptrdiff_t>(first - stage));
      }
    }
    return crossings;
  }

  const Topology& topology_;
  const Demand& demand_;
  std::vector<uint8_t> selected_;  // by pool
  std::vector<int> units_in_;      // by free devices of a domain
  int stride_ = 1;
  // Where nodes are units: those that can give their share by home domain, tightest first, and
  // their number by domain and by switch.
  std::vector<Giver> givers_;
  std::vector<Room> nodes_in_domain_;
  std::vector<Room> nodes_under_;
};

}  // namespace

std::vector<Room> FewestOf(std::vector<Room> rooms, int need) {
  std::stable_sort(rooms.begin(), rooms.end(), [](const Room& a, const Room& b) {
    return a.units != b.units ? a.units > b.units : a.free < b.free;
  });
  std::vector<Room> taken;
  for (size_t i = 0; need > 0; ++i) {
    GRAFT_CHECK(i < rooms.size()) << "counts promised " << need << " units more";
    if (rooms[i].units < need) {
      taken.push_back(rooms[i]);
      need -= rooms[i].units;
      continue;
    }
    size_t tightest = i;
    for (size_t j = i; j < rooms.size() && rooms[j].units >= need; ++j) {
      if (rooms[j].units < rooms[tightest].units || rooms[j].free < rooms[tightest].free) {
        tightest = j;
      }
    }
    taken.push_back({rooms[tightest].id, need, rooms[tightest].free});
    need = 0;
  }
  return taken;
}

std::optional<Plan> FindPlan(const Topology& topology, const std::vector<int>& pools,
                             const Demand& demand) {
  return Search(topology, pools, demand).Run();
}

}  // namespace graft::scheduler
