#include "scheduler/placement/placement.h"

#include <algorithm>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace graft::scheduler {
namespace {

// The free devices of one kind in one NVLink domain, in the order in which ranks take them.
struct Domain {
  std::string name;
  std::string kind;
  std::vector<DeviceRef> free;
};

bool NodeMatches(const Node& node, const GangRequest& request) {
  for (const auto& [key, value] : request.labels) {
    const auto it = node.labels.find(key);
    if (it == node.labels.end() || it->second != value) return false;
  }
  const auto has = [](const std::vector<std::string>& all, const std::string& one) {
    return std::find(all.begin(), all.end(), one) != all.end();
  };
  for (const std::string& taint : node.taints) {
    if (!has(request.tolerations, taint)) return false;
  }
  return !has(request.avoid_nodes, node.name);
}

bool DeviceMatches(const Device& device, const GangRequest& request) {
  return device.healthy && device.memory_bytes >= request.min_memory_bytes &&
         (request.device_kind.empty() || device.kind == request.device_kind);
}

const std::string& DomainOf(const Node& node, const Device& device) {
  return device.nvlink_domain.empty() ? node.name : device.nvlink_domain;
}

// `everything`: as if nothing were held, cordoned or avoided.
std::vector<Domain> DomainsFor(const ClusterView& cluster, const GangRequest& request,
                               bool everything) {
  absl::btree_map<std::pair<std::string, std::string>, Domain> domains;
  for (const auto& [name, node] : cluster.nodes()) {
    if (!NodeMatches(node, request) || (!node.schedulable && !everything)) continue;
    for (const Device& device : node.devices) {
      if (!DeviceMatches(device, request) || (!device.holder.empty() && !everything)) continue;
      Domain& domain = domains[{device.kind, DomainOf(node, device)}];
      domain.name = DomainOf(node, device);
      domain.kind = device.kind;
      domain.free.push_back({name, device.index});
    }
  }
  std::vector<Domain> list;
  for (auto& [key, domain] : domains) list.push_back(std::move(domain));
  return list;
}

// Cuts the world into blocks of `block` ranks and puts each into the tightest domain that still has
// room for it; blocks that follow one another go on in the domain of the last where they fit.
bool FillByBlocks(std::vector<Domain> domains, int world, int block, Placement& placement) {
  placement.ranks.clear();
  Domain* last = nullptr;
  for (int done = 0; done < world; done += block) {
    const size_t need = static_cast<size_t>(block);
    Domain* best = last != nullptr && last->free.size() >= need ? last : nullptr;
    for (Domain& domain : domains) {
      if (best == last && best != nullptr) break;
      if (domain.free.size() < need) continue;
      if (best == nullptr || domain.free.size() < best->free.size()) best = &domain;
    }
    if (best == nullptr) return false;
    placement.ranks.insert(placement.ranks.end(), best->free.begin(), best->free.begin() + block);
    best->free.erase(best->free.begin(), best->free.begin() + block);
    last = best;
  }
  return true;
}

// From the whole gang in one domain down to a TP group in each: the first that fits keeps the most
// traffic inside.
std::vector<int> BlockSizes(const GangRequest& request) {
  const Layout& layout = request.layout;
  std::vector<int> sizes = {layout.world(), layout.stage(),
                            layout.tp * std::max(layout.cp, layout.ep), layout.tp * layout.cp,
                            layout.tp};
  if (request.allow_tp_across_domains) sizes.push_back(1);
  std::vector<int> dividing;
  for (int size : sizes) {
    if (layout.world() % size == 0) dividing.push_back(size);
  }
  return dividing;
}

absl::Status CheckLayout(const Layout& layout) {
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
  return absl::OkStatus();
}

bool PlaceIn(const std::vector<Domain>& domains, const GangRequest& request, Placement& placement) {
  for (int block : BlockSizes(request)) {
    std::vector<std::string> kinds;
    for (const Domain& domain : domains) kinds.push_back(domain.kind);
    std::sort(kinds.begin(), kinds.end());
    kinds.erase(std::unique(kinds.begin(), kinds.end()), kinds.end());
    for (const std::string& kind : kinds) {
      std::vector<Domain> of_kind;
      for (const Domain& domain : domains) {
        if (domain.kind == kind) of_kind.push_back(domain);
      }
      if (FillByBlocks(std::move(of_kind), request.layout.world(), block, placement)) return true;
    }
  }
  return false;
}

}  // namespace

std::vector<std::string> Placement::Nodes() const {
  std::vector<std::string> nodes;
  for (const DeviceRef& ref : ranks) nodes.push_back(ref.node);
  std::sort(nodes.begin(), nodes.end());
  nodes.erase(std::unique(nodes.begin(), nodes.end()), nodes.end());
  return nodes;
}

Funnel Measure(const ClusterView& cluster, const GangRequest& request) {
  Funnel funnel;
  for (const auto& [name, node] : cluster.nodes()) {
    ++funnel.nodes;
    if (!NodeMatches(node, request)) continue;
    ++funnel.nodes_matching;
    funnel.nodes_schedulable += node.schedulable;
    for (const Device& device : node.devices) {
      if (!DeviceMatches(device, request)) continue;
      ++funnel.devices_matching;
      funnel.devices_schedulable += node.schedulable;
      funnel.devices_free += node.schedulable && device.holder.empty();
    }
  }
  for (const Domain& domain : DomainsFor(cluster, request, false)) {
    if (static_cast<int>(domain.free.size()) <= funnel.largest_free_domain) continue;
    funnel.largest_free_domain = static_cast<int>(domain.free.size());
    funnel.largest_free_domain_name = domain.name;
  }
  for (const Domain& domain : DomainsFor(cluster, request, true)) {
    if (static_cast<int>(domain.free.size()) <= funnel.largest_domain) continue;
    funnel.largest_domain = static_cast<int>(domain.free.size());
    funnel.largest_domain_name = domain.name;
  }
  return funnel;
}

absl::StatusOr<Placement> Place(const ClusterView& cluster, const GangRequest& request) {
  if (absl::Status status = CheckLayout(request.layout); !status.ok()) return status;
  Placement placement;
  if (PlaceIn(DomainsFor(cluster, request, false), request, placement)) return placement;
  const Funnel funnel = Measure(cluster, request);
  return absl::ResourceExhaustedError(absl::StrCat(
      "needs ", request.layout.world(), " devices in TP groups of ", request.layout.tp, "; ",
      funnel.devices_free, " of ", funnel.devices_matching, " matching devices are free, at most ",
      funnel.largest_free_domain, " of them in one NVLink domain"));
}

absl::Status FitsEmptyCluster(const ClusterView& cluster, const GangRequest& request) {
  if (absl::Status status = CheckLayout(request.layout); !status.ok()) return status;
  GangRequest anywhere = request;
  anywhere.avoid_nodes.clear();
  Placement placement;
  if (PlaceIn(DomainsFor(cluster, anywhere, true), anywhere, placement)) return absl::OkStatus();
  const Funnel funnel = Measure(cluster, anywhere);
  if (funnel.devices_matching < request.layout.world()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "needs ", request.layout.world(), " devices, but the cluster has ", funnel.devices_matching,
        " that match, on ", funnel.nodes_matching, " of ", funnel.nodes, " nodes"));
  }
  return absl::FailedPreconditionError(
      absl::StrCat("needs TP groups of ", request.layout.tp,
                   " devices in one NVLink domain, but the "
                   "largest has ",
                   funnel.largest_domain, " (", funnel.largest_domain_name,
                   "); use a smaller tp with more pp, or allow_tp_across_nodes"));
}

}  // namespace graft::scheduler
