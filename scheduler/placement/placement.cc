#include "scheduler/placement/placement.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>

#include "absl/container/btree_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "scheduler/placement/node_match.h"
#include "scheduler/placement/search.h"

namespace graft::scheduler {
namespace {

bool Has(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

bool MayUse(const GangRequest& request, const std::string& node) {
  const std::vector<std::string>& only = request.only_nodes;
  return (only.empty() || Has(only, node)) && !Has(request.avoid_nodes, node);
}

bool TaintsTolerated(const std::vector<std::string>& taints, const GangRequest& request) {
  return std::all_of(taints.begin(), taints.end(),
                     [&](const std::string& taint) { return Has(request.tolerations, taint); });
}

bool NodeMatches(const Node& node, const GangRequest& request) {
  return NodeMisfit(node, request).empty();
}

absl::Status CheckLayout(const GangRequest& request) {
  const Layout& layout = request.layout;
  for (int factor : {layout.tp, layout.cp, layout.dp, layout.pp, layout.ep}) {
    if (factor < 1) {
      return absl::InvalidArgumentError(absl::StrCat("the layout has a factor of ", factor,
                                                     "; each of tp, cp, dp, pp and ep is at "
                                                     "least 1"));
    }
  }
  if (layout.ep > 1 && (layout.tp != 1 || (layout.cp * layout.dp) % layout.ep != 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "ep ", layout.ep, " needs tp 1 and must divide cp x dp = ", layout.cp * layout.dp));
  }
  if (request.nodes < 0 || (request.nodes > 0 && layout.world() % request.nodes != 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(layout.world(), " ranks do not divide over ", request.nodes, " nodes"));
  }
  return absl::OkStatus();
}

// Devices that each node gives; of a request that says how many nodes.
int PerNode(const GangRequest& request) { return request.layout.world() / request.nodes; }

// Pools of one kind that match what pools know of a request.
struct Choice {
  std::string kind;
  std::vector<int> pools;
};

std::vector<Choice> Match(const Topology& topology, const GangRequest& request) {
  std::vector<Choice> choices;
  const std::vector<Topology::Pool>& pools = topology.pools();
  for (size_t id = 0; id < pools.size(); ++id) {
    const Topology::Pool& pool = pools[id];
    if (!request.device_kind.empty() && pool.kind != request.device_kind) continue;
    if (pool.memory_bytes < request.min_memory_bytes) continue;
    if (pool.slices && request.layout.tp * request.layout.cp > 1) continue;
    if (pool.traits.available_until < request.needed_until) continue;
    if (!TaintsTolerated(pool.traits.taints, request)) continue;
    bool labelled = true;
    for (const auto& [key, value] : request.labels) {
      if (!topology.Indexed(key)) continue;
      const auto it = pool.traits.labels.find(key);
      labelled &= it != pool.traits.labels.end() && it->second == value;
    }
    if (!labelled) continue;
    const auto it = std::find_if(choices.begin(), choices.end(),
                                 [&](const Choice& choice) { return choice.kind == pool.kind; });
    if (it != choices.end()) {
      it->pools.push_back(static_cast<int>(id));
    } else {
      choices.push_back({pool.kind, {static_cast<int>(id)}});
    }
  }
  std::sort(choices.begin(), choices.end(),
            [](const Choice& a, const Choice& b) { return a.kind < b.kind; });
  return choices;
}

int LargestDomain(const Topology& topology, const std::vector<int>& pools) {
  int largest = 0;
  for (int id = 0; id < topology.domains(); ++id) {
    const Topology::Domain& domain = topology.domain(id);
    if (std::find(pools.begin(), pools.end(), domain.pool) != pools.end()) {
      largest = std::max(largest, domain.total);
    }
  }
  return largest;
}

void AddDivisors(int of, int factor, int most, std::vector<int>& units) {
  for (int part = of; part >= 1; --part) {
    if (of % part == 0 && part * factor <= most) units.push_back(part * factor);
  }
}

// Makes nodes the units of a demand. False when its TP or EP groups do not come out whole on so
// many nodes.
bool CountByNode(const GangRequest& request, int nodes, int chunk_ranks, Demand& demand) {
  const int per_node = request.layout.world() / nodes;
  demand.units = nodes;
  demand.per_node = per_node;
  if (request.max_level == Level::kDomain) demand.unit = per_node * nodes;
  demand.together = std::lcm(demand.unit, per_node) / per_node;
  demand.chunk = chunk_ranks > 1 ? std::lcm(chunk_ranks, per_node) / per_node : 1;
  return nodes % demand.together == 0 && nodes % demand.chunk == 0;
}

// The ways to cut the gang into units, best first.
std::vector<Demand> Demands(const Topology& topology, const Choice& choice,
                            const GangRequest& request) {
  const Layout& layout = request.layout;
  const bool experts = layout.ep > 1;
  const bool split_tp = request.allow_tp_across_domains;
  const int largest = experts || split_tp ? LargestDomain(topology, choice.pools) : layout.world();
  std::vector<int> units;
  int chunk_ranks = 1;
  if (!experts) {
    AddDivisors(layout.cp, layout.tp, layout.world(), units);
    if (split_tp) AddDivisors(layout.tp, 1, std::min(largest, layout.tp - 1), units);
  } else if (layout.ep <= largest) {
    units.push_back(layout.ep);
  } else {
    chunk_ranks = layout.ep;
    AddDivisors(layout.ep, 1, largest, units);
  }
  std::vector<Demand> demands;
  const bool one_node = request.max_level == Level::kNode;
  if (one_node && request.nodes > 1) return demands;
  const int nodes = one_node ? 1 : request.nodes;
  for (int unit : units) {
    if (layout.world() % unit != 0) continue;
    Demand demand{.unit = unit,
                  .units = layout.world() / unit,
                  .stage = layout.stage(),
                  .chunk = std::max(1, chunk_ranks / unit),
                  .max_level = request.max_level};
    if (nodes > 0 && !CountByNode(request, nodes, chunk_ranks, demand)) continue;
    demands.push_back(demand);
  }
  return demands;
}

std::optional<Placement> PlaceInPools(const Topology& topology, const GangRequest& request) {
  std::optional<Plan> best;
  int best_unit = 0;
  for (const Choice& choice : Match(topology, request)) {
    for (const Demand& demand : Demands(topology, choice, request)) {
      std::optional<Plan> plan = FindPlan(topology, choice.pools, demand);
      if (!plan.has_value()) continue;
      const bool better = !best.has_value() || demand.unit > best_unit ||
                          (demand.unit == best_unit && plan->Score() < best->Score());
      if (better) {
        best = std::move(plan);
        best_unit = demand.unit;
      }
      break;
    }
  }
  if (!best.has_value()) return std::nullopt;
  absl::btree_set<int> domains;
  for (const Plan::Part& part : best->parts) domains.insert(part.domain);
  return Placement{.ranks = AssignRanks(topology, *best),
                   .level = best->level,
                   .unit = best_unit,
                   .domains = static_cast<int>(domains.size()),
                   .crossings = best->crossings};
}

// The members that match in what pools do not know.
std::vector<int> MembersFor(const Topology& topology, const GangRequest& request) {
  std::vector<int> members;
  const std::string* rare = nullptr;
  for (const auto& [key, value] : request.labels) {
    if (topology.Indexed(key)) continue;
    const std::vector<int> with = topology.MembersWith(key, value);
    if (rare == nullptr) {
      members = with;
    } else {
      std::vector<int> both;
      std::set_intersection(members.begin(), members.end(), with.begin(), with.end(),
                            std::back_inserter(both));
      members = std::move(both);
    }
    rare = &key;
  }
  if (rare == nullptr) {
    for (int id = 0; id < topology.members(); ++id) members.push_back(id);
  }
  members.erase(std::remove_if(members.begin(), members.end(),
                               [&](int id) {
                                 return topology.MemberEnd(id) < request.needed_until ||
                                        !MayUse(request, topology.member(id).name) ||
                                        !topology.MemberMatches(id, request.labels,
                                                                request.tolerations);
                               }),
                members.end());
  return members;
}

GangRequest WithoutNodeConditions(const GangRequest& request) {
  GangRequest bare = request;
  bare.labels.clear();
  bare.only_nodes.clear();
  bare.avoid_nodes.clear();
  bare.needed_until = absl::InfinitePast();
  return bare;
}

// Whether pools tell all that the request asks.
bool PoolsSuffice(const Topology& topology, const GangRequest& request) {
  if (!request.only_nodes.empty() || !request.avoid_nodes.empty()) return false;
  if (request.needed_until != absl::InfinitePast() && !topology.EndsIndexed()) return false;
  return std::all_of(request.labels.begin(), request.labels.end(),
                     [&](const auto& label) { return topology.Indexed(label.first); });
}

// Of the devices that match: how many there are, how many are free, and the most in one domain.
struct Tally {
  int matching = 0;
  int free = 0;
  int largest_free = 0;
};

Tally Count(const Topology& topology, const GangRequest& request) {
  Tally tally;
  for (const Choice& choice : Match(topology, request)) {
    for (int pool : choice.pools) {
      const Topology::Pool& own = topology.pools()[static_cast<size_t>(pool)];
      tally.matching += own.total;
      for (const auto& [known, where] : topology.at(Topology::kRoot).counts) {
        if (known != pool) continue;
        for (int free = 1; free < own.stride; ++free) {
          tally.free += free * topology.Counts(where)[free];
          if (topology.Counts(where)[free] > 0) {
            tally.largest_free = std::max(tally.largest_free, free);
          }
        }
      }
    }
  }
  return tally;
}

bool FitsWithTpSplit(const Topology& empty, const GangRequest& request) {
  GangRequest split = request;
  split.allow_tp_across_domains = true;
  return TryPlace(empty, split).has_value();
}

// The largest part of a TP group that a domain holds and that divides a node's share, and the
// pipeline that keeps the number of ranks.
std::string UseSmallerTp(const Layout& layout, int share, int domain) {
  int tp = std::max(1, std::min(layout.tp, domain));
  while (layout.tp % tp != 0 || share % tp != 0) --tp;
  return absl::StrCat("use tp ", tp, " with pp ", layout.pp * (layout.tp / tp),
                      ", or allow_tp_across_nodes");
}

// Why a gang that would fit anywhere does not fit so many nodes.
absl::Status NodesDoNotFit(const Topology& empty, const GangRequest& request,
                           const Funnel& funnel) {
  const std::string asks =
      absl::StrCat("needs ", PerNode(request), " devices on each of ", request.nodes, " nodes, ");
  if (funnel.nodes_large_enough < request.nodes) {
    return absl::FailedPreconditionError(absl::StrCat(
        asks, "but ", funnel.nodes_large_enough, " of the ", funnel.nodes_matching,
        " nodes that match have so many; use other nodes and gpus_per_node, or leave nodes out"));
  }
  if (FitsWithTpSplit(empty, request)) {
    return absl::FailedPreconditionError(
        absl::StrCat(asks, "where TP groups of ", request.layout.tp, " leave their NVLink domain; ",
                     UseSmallerTp(request.layout, PerNode(request), funnel.largest_domain)));
  }
  return absl::FailedPreconditionError(
      absl::StrCat(asks, "and groups of tp ", request.layout.tp, " and ep ", request.layout.ep,
                   " do not come out whole there inside one ", LevelName(request.max_level),
                   "; leave nodes out, or use a smaller tp or ep"));
}

}  // namespace

std::string NodeMisfit(const Node& node, const GangRequest& request) {
  for (const auto& [key, value] : request.labels) {
    const auto it = node.labels.find(key);
    if (it == node.labels.end() || it->second != value) {
      return absl::StrCat("lacks the label ", key, "=", value);
    }
  }
  for (const std::string& taint : node.taints) {
    if (!Has(request.tolerations, taint)) return absl::StrCat("has the taint ", taint);
  }
  if (!MayUse(request, node.name)) {
    return Has(request.avoid_nodes, node.name) ? "is to be avoided" : "is none of those asked for";
  }
  if (node.available_until < request.needed_until) {
    return absl::StrCat("leaves at ", absl::FormatTime(node.available_until));
  }
  return "";
}

bool DeviceMatches(const Device& device, const GangRequest& request) {
  return device.healthy && device.memory_bytes >= request.min_memory_bytes &&
         (request.device_kind.empty() || device.kind == request.device_kind);
}

const std::string& DomainOf(const Node& node, const Device& device) {
  return device.nvlink_domain.empty() ? node.name : device.nvlink_domain;
}

absl::string_view LevelName(Level level) {
  switch (level) {
    case Level::kNode:
      return "node";
    case Level::kDomain:
      return "NVLink domain";
    case Level::kRack:
      return "rack";
    case Level::kRailGroup:
      return "rail group";
    case Level::kSpine:
      return "spine";
    case Level::kCluster:
      return "cluster";
  }
  return "cluster";
}

std::vector<std::string> Placement::Nodes() const {
  std::vector<std::string> nodes;
  for (const DeviceRef& ref : ranks) nodes.push_back(ref.node);
  std::sort(nodes.begin(), nodes.end());
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
  return nodes;
}

Funnel Measure(const ClusterView& cluster, const GangRequest& request) {
  Funnel funnel;
  // Free devices and devices, by kind and domain.
  absl::btree_map<std::pair<std::string, std::string>, std::pair<int, int>> domains;
  for (const auto& [name, node] : cluster.nodes()) {
    ++funnel.nodes;
    if (!NodeMatches(node, request)) continue;
    ++funnel.nodes_matching;
    funnel.nodes_schedulable += node.schedulable;
    absl::btree_map<absl::string_view, std::pair<int, int>> kinds;  // as domains
    for (const Device& device : node.devices) {
      if (!DeviceMatches(device, request)) continue;
      auto& [kind_free, kind_all] = kinds[device.kind];
      ++kind_all;
      ++funnel.devices_matching;
      funnel.devices_schedulable += node.schedulable;
      const bool free = node.schedulable && device.holder.empty();
      funnel.devices_free += free;
      kind_free += free;
      auto& [domain_free, domain_all] = domains[{device.kind, DomainOf(node, device)}];
      domain_free += free;
      ++domain_all;
    }
    if (request.nodes == 0) continue;
    const auto has = [&](int share, auto which) {
      return std::any_of(kinds.begin(), kinds.end(),
                         [&](const auto& kind) { return kind.second.*which >= share; });
    };
    funnel.nodes_with_room += has(PerNode(request), &std::pair<int, int>::first);
    funnel.nodes_large_enough += has(PerNode(request), &std::pair<int, int>::second);
  }
  for (const auto& [key, sizes] : domains) {
    if (sizes.first > funnel.largest_free_domain) {
      funnel.largest_free_domain = sizes.first;
      funnel.largest_free_domain_name = key.second;
    }
    if (sizes.second > funnel.largest_domain) {
      funnel.largest_domain = sizes.second;
      funnel.largest_domain_name = key.second;
    }
  }
  return funnel;
}

std::optional<Placement> TryPlace(const Topology& topology, const GangRequest& request) {
  if (!CheckLayout(request).ok()) return std::nullopt;
  if (PoolsSuffice(topology, request)) {
    std::optional<Placement> placement = PlaceInPools(topology, request);
    // Domains whose nodes differ are whole in a subset alone.
    const bool in_one = placement.has_value() && placement->domains == 1;
    if (in_one || !topology.has_mixed_domains()) return placement;
  }
  const Topology matching = topology.Subset(MembersFor(topology, request));
  return PlaceInPools(matching, WithoutNodeConditions(request));
}

absl::StatusOr<Placement> Place(const Topology& topology, const GangRequest& request) {
  GRAFT_RETURN_IF_ERROR(CheckLayout(request));
  if (std::optional<Placement> placement = TryPlace(topology, request); placement.has_value()) {
    return *std::move(placement);
  }
  const Tally tally =
      PoolsSuffice(topology, request)
          ? Count(topology, request)
          : Count(topology.Subset(MembersFor(topology, request)), WithoutNodeConditions(request));
  std::string within;
  if (request.nodes > 0) {
    within = absl::StrCat(", ", PerNode(request), " on each of ", request.nodes, " nodes,");
  }
  if (request.max_level != Level::kCluster) {
    absl::StrAppend(&within, " inside one ", LevelName(request.max_level));
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      "needs ", request.layout.world(), " devices in TP groups of ", request.layout.tp, within,
      "; ", tally.free, " of ", tally.matching, " matching devices are free, at most ",
      tally.largest_free, " of them in one NVLink domain"));
}

absl::StatusOr<Placement> Place(const ClusterView& cluster, const GangRequest& request) {
  return Place(cluster.topology(), request);
}

bool OnlyTpKeepsOut(const ClusterView& cluster, const GangRequest& request) {
  const Topology& empty = cluster.empty();
  return CheckLayout(request).ok() && !TryPlace(empty, request).has_value() &&
         FitsWithTpSplit(empty, request);
}

absl::Status FitsEmptyCluster(const ClusterView& cluster, const GangRequest& request) {
  GRAFT_RETURN_IF_ERROR(CheckLayout(request));
  GangRequest anywhere = request;
  anywhere.avoid_nodes.clear();
  const Topology& empty = cluster.empty();
  if (TryPlace(empty, anywhere).has_value()) return absl::OkStatus();
  const Funnel funnel = Measure(cluster, anywhere);
  if (funnel.devices_matching < request.layout.world()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "needs ", request.layout.world(), " devices, but the cluster has ", funnel.devices_matching,
        " that match, on ", funnel.nodes_matching, " of ", funnel.nodes, " nodes"));
  }
  if (request.nodes > 0) {
    GangRequest loose = anywhere;
    loose.nodes = 0;
    if (TryPlace(empty, loose).has_value()) return NodesDoNotFit(empty, anywhere, funnel);
  }
  if (funnel.largest_domain >= request.layout.tp) {
    anywhere.max_level = Level::kCluster;
    if (request.max_level != Level::kCluster && TryPlace(empty, anywhere).has_value()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "needs ", request.layout.world(), " devices inside one ", LevelName(request.max_level),
          ", and none has so many; use a wider max_level"));
    }
    return absl::FailedPreconditionError(
        absl::StrCat("needs ", request.layout.world(), " devices in TP groups of ",
                     request.layout.tp, " and EP groups of ", request.layout.ep,
                     ", each whole in one NVLink domain (EP: or one "
                     "leaf); ",
                     funnel.devices_matching, " devices match, at most ", funnel.largest_domain,
                     " in one domain; use a smaller tp, ep or gang"));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("needs TP groups of ", request.layout.tp,
                   " devices in one NVLink domain, but the "
                   "largest has ",
                   funnel.largest_domain, " (", funnel.largest_domain_name, "); ",
                   UseSmallerTp(request.layout, request.layout.world(), funnel.largest_domain)));
}

}  // namespace graft::scheduler
