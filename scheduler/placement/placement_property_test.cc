// Random clusters and requests against a placer that counts from the nodes themselves.
#include <algorithm>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/container/btree_set.h"
#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "scheduler/placement/node_match.h"
#include "scheduler/placement/placement.h"
#include "tests/support/tier.h"

namespace graft::scheduler {
namespace {

struct World {
  ClusterView cluster;
  GangRequest request;
};

World Draw(SeededRandom& random) {
  World world;
  const int nodes = 1 + static_cast<int>(random.Uniform(12));
  const int per_domain = 1 << random.Uniform(4);
  const bool wide = random.Uniform(4) == 0;  // domains that span two nodes
  for (int n = 0; n < nodes; ++n) {
    Node node{.name = absl::StrCat("n", n / 10, n % 10),
              .rack = absl::StrCat("r", n / 2),
              .spine = absl::StrCat("s", n / 6)};
    const std::string kind = random.Uniform(5) == 0 ? "a100" : "h100";
    for (int d = 0; d < 8; ++d) {
      node.devices.push_back({.index = d,
                              .kind = kind,
                              .nvlink_domain = wide ? absl::StrCat("d", n / 2)
                                                    : absl::StrCat(node.name, "/", d / per_domain),
                              .healthy = random.Uniform(20) != 0});
      if (random.Uniform(3) == 0) node.devices.back().holder = "x";
    }
    if (random.Uniform(3) == 0) node.labels["zone"] = "a";
    if (random.Uniform(6) == 0) node.taints.push_back("odd");
    node.schedulable = random.Uniform(8) != 0;
    world.cluster.PutNode(node);
  }
  world.request.layout = {.tp = 1 + static_cast<int>(random.Uniform(5)),
                          .dp = 1 + static_cast<int>(random.Uniform(6)),
                          .pp = 1 + static_cast<int>(random.Uniform(3))};
  if (random.Uniform(3) == 0) world.request.labels["zone"] = "a";
  if (random.Uniform(3) == 0) world.request.tolerations.push_back("odd");
  if (random.Uniform(4) == 0) world.request.avoid_nodes.push_back("n01");
  if (random.Uniform(4) == 0) world.request.only_nodes = {"n00", "n01", "n02", "n03"};
  if (random.Uniform(2) == 0) {
    world.request.max_level = random.Uniform(2) == 0 ? Level::kRack : Level::kSpine;
  }
  return world;
}

// The narrowest level at which some switch has enough TP groups free; 0: none.
int NarrowestLevel(const World& world) {
  const Layout& layout = world.request.layout;
  using Region = std::pair<std::string, std::string>;  // kind, switch
  for (Level level : {Level::kDomain, Level::kRack, Level::kSpine, Level::kCluster}) {
    absl::btree_map<Region, absl::btree_map<std::string, int>> free;
    for (const auto& [name, node] : world.cluster.nodes()) {
      if (!node.schedulable || !NodeMisfit(node, world.request).empty()) continue;
      for (const Device& device : node.devices) {
        if (!DeviceMatches(device, world.request) || !device.holder.empty()) continue;
        const std::string& domain = DomainOf(node, device);
        const std::string at = level == Level::kDomain  ? domain
                               : level == Level::kRack  ? node.rack
                               : level == Level::kSpine ? node.spine
                                                        : "";
        ++free[{device.kind, at}][domain];
      }
    }
    for (const auto& [region, domains] : free) {
      int groups = 0;
      for (const auto& [domain, devices] : domains) groups += devices / layout.tp;
      if (groups >= layout.world() / layout.tp && level <= world.request.max_level) {
        return static_cast<int>(level);
      }
    }
  }
  return 0;
}

// Free TP groups by kind and spine, of each rack; largest first.
int FewestRacks(const World& world) {
  const Layout& layout = world.request.layout;
  absl::btree_map<std::pair<std::string, std::string>,
                  absl::btree_map<std::string, absl::btree_map<std::string, int>>>
      free;
  for (const auto& [name, node] : world.cluster.nodes()) {
    if (!node.schedulable || !NodeMisfit(node, world.request).empty()) continue;
    for (const Device& device : node.devices) {
      if (!DeviceMatches(device, world.request) || !device.holder.empty()) continue;
      ++free[{device.kind, node.spine}][node.rack][DomainOf(node, device)];
    }
  }
  int fewest = 1000;
  for (const auto& [spine, racks] : free) {
    std::vector<int> groups;
    for (const auto& [rack, domains] : racks) {
      groups.push_back(0);
      for (const auto& [domain, devices] : domains) groups.back() += devices / layout.tp;
    }
    std::sort(groups.rbegin(), groups.rend());
    int need = layout.world() / layout.tp;
    int used = 0;
    for (size_t i = 0; i < groups.size() && need > 0; ++i, ++used) need -= groups[i];
    if (need <= 0) fewest = std::min(fewest, used);
  }
  return fewest;
}

TEST(PlacementPropertyTest, AGangThatNeedsSeveralRacksTakesTheFewest) {
  int seen = 0;
  for (int seed = 0; seed < testing::ByTier(6000, 60000, 600000); ++seed) {
    SeededRandom random(static_cast<uint64_t>(seed));
    World world = Draw(random);
    world.request.layout.pp = 1;  // stages may be worth a rack more
    const absl::StatusOr<Placement> placement = Place(world.cluster, world.request);
    if (!placement.ok() || placement->level != Level::kSpine) continue;
    absl::btree_set<std::string> racks;
    for (const std::string& name : placement->Nodes()) {
      racks.insert(world.cluster.Find(name)->rack);
    }
    ++seen;
    ASSERT_EQ(static_cast<int>(racks.size()), FewestRacks(world)) << "seed " << seed;
  }
  EXPECT_GT(seen, 50);
}

TEST(PlacementPropertyTest, AGangIsPlacedExactlyWhenItFitsAndAtTheNarrowestLevel) {
  const int rounds = testing::ByTier(3000, 30000, 300000);
  int placed = 0;
  for (int seed = 0; seed < rounds; ++seed) {
    SeededRandom random(static_cast<uint64_t>(seed));
    const World world = Draw(random);
    const absl::StatusOr<Placement> placement = Place(world.cluster, world.request);
    const int narrowest = NarrowestLevel(world);
    ASSERT_EQ(placement.ok(), narrowest != 0) << "seed " << seed << " " << placement.status();
    if (!placement.ok()) continue;
    ++placed;
    ASSERT_THAT(Validate(world.cluster, world.request, *placement), IsOk()) << "seed " << seed;
    // A node is a place inside a rack that has no name of its own here.
    const int level =
        std::max(static_cast<int>(placement->level), static_cast<int>(Level::kDomain));
    const bool same =
        level == narrowest ||
        (placement->level == Level::kNode && narrowest == static_cast<int>(Level::kRack)) ||
        (level == static_cast<int>(Level::kRailGroup) &&
         narrowest == static_cast<int>(Level::kRack));
    ASSERT_TRUE(same) << "seed " << seed << ": level " << level << ", could be " << narrowest;
  }
  EXPECT_GT(placed, rounds / 5);
  EXPECT_LT(placed, rounds);
}

// The narrowest level at which some switch has enough nodes that can give their share; 0: none.
int NarrowestLevelOfNodes(const World& world) {
  const Layout& layout = world.request.layout;
  const int share = layout.world() / world.request.nodes;
  const int together = std::lcm(layout.tp, share) / share;
  if (world.request.nodes % together != 0) return 0;
  for (Level level : {Level::kDomain, Level::kRack, Level::kSpine, Level::kCluster}) {
    // By kind and switch, nodes of each domain; a node of several counts under its own name.
    absl::btree_map<std::pair<std::string, std::string>, absl::btree_map<std::string, int>> able;
    for (const auto& [name, node] : world.cluster.nodes()) {
      if (!node.schedulable || !NodeMisfit(node, world.request).empty()) continue;
      absl::btree_map<std::string, int> free;
      for (const Device& device : node.devices) {
        const bool usable = DeviceMatches(device, world.request) && device.holder.empty();
        free[DomainOf(node, device)] += usable;
      }
      int gives = 0, most = 0;
      for (const auto& [domain, devices] : free) {
        gives += devices / layout.tp * layout.tp;
        most = std::max(most, devices);
      }
      const bool of_one = together > 1 || world.request.max_level == Level::kDomain;
      if ((of_one ? most : gives) < share) continue;
      const std::string home = free.size() == 1 ? free.begin()->first : name;
      const std::string at = level == Level::kDomain  ? home
                             : level == Level::kRack  ? node.rack
                             : level == Level::kSpine ? node.spine
                                                      : "";
      ++able[{node.devices.front().kind, at}][home];
    }
    for (const auto& [region, homes] : able) {
      int nodes = 0;
      for (const auto& [home, count] : homes) nodes += count - count % together;
      if (nodes >= world.request.nodes && level <= world.request.max_level) {
        return static_cast<int>(level);
      }
    }
  }
  return 0;
}

TEST(PlacementPropertyTest, AGangOnSoManyNodesIsPlacedExactlyWhenItFits) {
  const int rounds = testing::ByTier(3000, 30000, 300000);
  int placed = 0, refused = 0;
  for (int seed = 0; seed < rounds; ++seed) {
    SeededRandom random(static_cast<uint64_t>(seed));
    World world = Draw(random);
    world.request.nodes = 1 + static_cast<int>(random.Uniform(4));
    if (world.request.layout.world() % world.request.nodes != 0) continue;
    if (random.Uniform(5) == 0) world.request.max_level = Level::kDomain;
    const absl::StatusOr<Placement> placement = Place(world.cluster, world.request);
    const int narrowest = NarrowestLevelOfNodes(world);
    ASSERT_EQ(placement.ok(), narrowest != 0) << "seed " << seed << " " << placement.status();
    ++(placement.ok() ? placed : refused);
    if (!placement.ok()) continue;
    ASSERT_THAT(Validate(world.cluster, world.request, *placement), IsOk()) << "seed " << seed;
    const int level =
        std::max(static_cast<int>(placement->level), static_cast<int>(Level::kDomain));
    const int leaf = static_cast<int>(Level::kRailGroup);
    ASSERT_EQ(level == leaf ? static_cast<int>(Level::kRack) : level, narrowest) << seed;
  }
  EXPECT_GT(placed, rounds / 20);
  EXPECT_GT(refused, rounds / 10);
}

// Whatever order nodes come, go and change in, the index says what a fresh one says.
TEST(PlacementPropertyTest, TheIndexAfterAnyHistoryIsThatOfTheStateItself) {
  SeededRandom random(7);
  ClusterView cluster;
  for (int round = 0; round < testing::ByTier(400, 4000, 40000); ++round) {
    const World drawn = Draw(random);
    for (const auto& [name, node] : drawn.cluster.nodes()) {
      const uint64_t what = random.Uniform(5);
      if (what == 0) {
        cluster.RemoveNode(name);
      } else if (what == 1) {
        cluster.SetSchedulable(name, random.Uniform(2) == 0);
      } else if (what == 2) {
        (void)cluster.Take({{name, static_cast<int>(random.Uniform(8))}}, "y");
      } else if (what == 3) {
        cluster.Release({{name, 0}, {name, 3}, {name, 5}}, "y");
      } else {
        cluster.PutNode(node);
      }
    }
    ClusterView fresh;
    for (const auto& [name, node] : cluster.nodes()) fresh.PutNode(node);
    const absl::StatusOr<Placement> a = Place(cluster, drawn.request);
    const absl::StatusOr<Placement> b = Place(fresh, drawn.request);
    ASSERT_EQ(a.status(), b.status()) << "round " << round;
    if (a.ok()) {
      ASSERT_EQ(std::max(a->level, Level::kDomain), std::max(b->level, Level::kDomain)) << round;
      ASSERT_EQ(a->crossings, b->crossings) << "round " << round;
      ASSERT_EQ(a->domains, b->domains) << "round " << round;
    }
  }
}

}  // namespace
}  // namespace graft::scheduler
