// Whether a placement keeps every condition of its request, from the nodes themselves: it shares
// nothing with the search, so that a mistake there does not become one here.
#include <algorithm>
#include <string>

#include "absl/container/btree_set.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "scheduler/placement/node_match.h"
#include "scheduler/placement/placement.h"

namespace graft::scheduler {
namespace {

struct Site {
  const Node* node = nullptr;
  const Device* device = nullptr;
};

absl::Status Broken(absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat("the placement no longer holds: ", what));
}

std::string Text(const DeviceRef& ref) {
  return absl::StrCat("device ", ref.device, " of node ", ref.node);
}

absl::StatusOr<Site> Resolve(const ClusterView& cluster, const GangRequest& request,
                             const DeviceRef& ref) {
  Site site{.node = cluster.Find(ref.node)};
  if (site.node == nullptr) return Broken(absl::StrCat("node ", ref.node, " is not there"));
  for (const Device& device : site.node->devices) {
    if (device.index == ref.device) site.device = &device;
  }
  if (site.device == nullptr) return Broken(absl::StrCat(Text(ref), " is not there"));
  const std::string misfit = NodeMisfit(*site.node, request);
  if (!misfit.empty()) return Broken(absl::StrCat("node ", ref.node, " ", misfit));
  if (!site.node->schedulable) return Broken(absl::StrCat("node ", ref.node, " takes no jobs"));
  if (!site.device->holder.empty()) {
    return Broken(absl::StrCat(Text(ref), " is held by ", site.device->holder));
  }
  if (!DeviceMatches(*site.device, request)) {
    return Broken(absl::StrCat(Text(ref), " is of another kind, too small or not healthy"));
  }
  return site;
}

// A name of the switch of that level, unlike that of any other.
std::string SwitchOf(const Site& site, Level level) {
  const Node& node = *site.node;
  const std::string leaf = node.rail_group.empty() ? node.rack : node.rail_group;
  switch (level) {
    case Level::kNode:
      return node.name;
    case Level::kDomain:
      return DomainOf(node, *site.device);
    case Level::kRack:
      return absl::StrCat(node.spine, "\n", leaf, "\n", node.rack);
    case Level::kRailGroup:
      return absl::StrCat(node.spine, "\n", leaf);
    case Level::kSpine:
      return node.spine;
    case Level::kCluster:
      return "";
  }
  return "";
}

// Whether ranks [first, first + count) share a switch of the level.
bool Together(const std::vector<Site>& sites, size_t first, size_t count, Level level) {
  const std::string at = SwitchOf(sites[first], level);
  return std::all_of(sites.begin() + static_cast<std::ptrdiff_t>(first),
                     sites.begin() + static_cast<std::ptrdiff_t>(first + count),
                     [&](const Site& site) { return SwitchOf(site, level) == at; });
}

// So many nodes, each with the same number of consecutive ranks.
absl::Status CheckNodes(const std::vector<Site>& sites, int nodes) {
  const size_t share = sites.size() / static_cast<size_t>(nodes);
  absl::btree_set<std::string> distinct;
  for (size_t first = 0; first < sites.size(); first += share) {
    if (!Together(sites, first, share, Level::kNode)) {
      return Broken(absl::StrCat("ranks ", first, " to ", first + share - 1, " share no node"));
    }
    distinct.insert(sites[first].node->name);
  }
  if (distinct.size() == static_cast<size_t>(nodes)) return absl::OkStatus();
  return Broken(absl::StrCat("it is on ", distinct.size(), " nodes and wants ", nodes));
}

absl::Status CheckGroups(const std::vector<Site>& sites, const GangRequest& request) {
  const Layout& layout = request.layout;
  const size_t tp = static_cast<size_t>(layout.tp);
  const size_t ep = static_cast<size_t>(layout.ep);
  if (layout.tp * layout.cp > 1 && sites.front().device->card >= 0) {
    return Broken("slices of cards have no NVLink for TP and CP groups");
  }
  if (!request.allow_tp_across_domains) {
    for (size_t first = 0; first < sites.size(); first += tp) {
      if (!Together(sites, first, tp, Level::kDomain)) {
        return Broken(absl::StrCat("the TP group of rank ", first, " leaves its NVLink domain"));
      }
    }
  }
  for (size_t first = 0; ep > 1 && first < sites.size(); first += ep) {
    if (!Together(sites, first, ep, Level::kRailGroup) &&
        !Together(sites, first, ep, Level::kDomain)) {
      return Broken(absl::StrCat("the EP group of rank ", first, " leaves its leaf"));
    }
  }
  if (request.nodes > 0) GRAFT_RETURN_IF_ERROR(CheckNodes(sites, request.nodes));
  if (!Together(sites, 0, sites.size(), request.max_level)) {
    return Broken(absl::StrCat("the gang leaves its ", LevelName(request.max_level)));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Validate(const ClusterView& cluster, const GangRequest& request,
                      const Placement& placement) {
  const size_t world = static_cast<size_t>(request.layout.world());
  if (placement.ranks.size() != world) {
    return Broken(absl::StrCat("it has ", placement.ranks.size(), " ranks for a world of ", world));
  }
  std::vector<Site> sites;
  absl::btree_set<DeviceRef> distinct;
  for (const DeviceRef& ref : placement.ranks) {
    GRAFT_ASSIGN_OR_RETURN(const Site site, Resolve(cluster, request, ref));
    if (!distinct.insert(ref).second) return Broken(absl::StrCat(Text(ref), " is there twice"));
    sites.push_back(site);
    if (site.device->kind != sites.front().device->kind) {
      return Broken(
          absl::StrCat("it mixes ", sites.front().device->kind, " and ", site.device->kind));
    }
  }
  return CheckGroups(sites, request);
}

}  // namespace graft::scheduler
