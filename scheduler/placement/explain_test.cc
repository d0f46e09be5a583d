#include "scheduler/placement/explain.h"

#include <algorithm>
#include <map>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "tests/support/tier.h"

namespace graft::scheduler {
namespace {

using ::testing::HasSubstr;

// A cluster, what runs on it and who waits, drawn from a seed.
struct World {
  ClusterView cluster;
  WaitingQueue queue;
  std::vector<WaitingJob> jobs;
  std::map<std::string, std::vector<DeviceRef>> held;
  std::vector<RunningGang> running;
  FairShare shares;
  PassInput input;

  PassInput Input() {
    PassInput now = input;
    now.running = [this] { return running; };
    now.topology = &cluster.topology();
    return now;
  }
};

void DrawNodes(SeededRandom& random, World& world) {
  const int nodes = 2 + static_cast<int>(random.Uniform(10));
  for (int n = 0; n < nodes; ++n) {
    Node node{.name = absl::StrCat("n", n / 10, n % 10),
              .rack = absl::StrCat("r", n / 2),
              .spine = absl::StrCat("s", n / 4)};
    for (int d = 0; d < 8; ++d) {
      node.devices.push_back({.index = d, .kind = "h100", .healthy = random.Uniform(12) != 0});
    }
    if (random.Uniform(4) == 0) node.labels["zone"] = "a";
    if (random.Uniform(6) == 0) node.taints.push_back("odd");
    node.schedulable = random.Uniform(6) != 0;
    world.cluster.PutNode(node);
  }
}

WaitingJob DrawJob(SeededRandom& random, int64_t sequence) {
  WaitingJob job{.id = absl::StrCat("j", sequence),
                 .account = random.Uniform(2) == 0 ? "a" : "b",
                 .priority = static_cast<int>(random.Uniform(3)),
                 .sequence = sequence};
  job.gang.layout = {.tp = 1 << random.Uniform(4),
                     .dp = 1 + static_cast<int>(random.Uniform(4)),
                     .pp = 1 + static_cast<int>(random.Uniform(2))};
  const int nodes = 1 + static_cast<int>(random.Uniform(4));
  if (random.Uniform(3) == 0 && job.gang.layout.world() % nodes == 0) job.gang.nodes = nodes;
  if (random.Uniform(5) == 0) job.gang.labels["zone"] = "a";
  if (random.Uniform(3) == 0) job.gang.max_level = Level::kRack;
  if (random.Uniform(2) == 0) job.estimate = absl::Minutes(random.Uniform(300));
  return job;
}

std::unique_ptr<World> Draw(SeededRandom& random) {
  auto world = std::make_unique<World>();
  world->input.now = absl::FromUnixSeconds(1000);
  world->input.shares = &world->shares;
  world->input.reservations = static_cast<int>(random.Uniform(4));
  DrawNodes(random, *world);
  if (random.Uniform(2) == 0) {
    const int quota = static_cast<int>(random.Uniform(40));
    world->input.quotas.Set("a", quota, quota + static_cast<int>(random.Uniform(8)));
  }
  world->shares.Charge("b", 8, absl::Minutes(random.Uniform(100)), world->input.now);
  int64_t sequence = 0;
  for (const int runs = static_cast<int>(random.Uniform(12)); sequence < runs;) {
    const WaitingJob job = DrawJob(random, sequence++);
    const absl::StatusOr<Placement> placement = Place(world->cluster, job.gang);
    if (!placement.ok()) continue;
    GRAFT_CHECK_OK(world->cluster.Take(placement->ranks, job.id));
    world->held[job.id] = placement->ranks;
    world->input.quotas.Charge(job.account, job.gang.layout.world());
  }
  for (const auto& [id, ranks] : world->held) {
    world->running.push_back({id, &ranks, world->input.now + absl::Minutes(random.Uniform(200))});
  }
  for (const int64_t last = sequence + 8; sequence < last; ++sequence) {
    world->jobs.push_back(DrawJob(random, sequence));
    world->queue.Add(world->jobs.back());
  }
  return world;
}

bool Starts(const PassResult& result, const std::string& id) {
  return std::any_of(result.starts.begin(), result.starts.end(),
                     [&](const PassStart& start) { return start.id == id; });
}

// The change made for real, to nodes, quotas and queue, and a whole pass.
bool StartsWhenApplied(World& world, const Counterfactual& change) {
  ClusterView cluster = world.cluster;
  for (const std::string& node : change.uncordon) cluster.SetSchedulable(node, true);
  WaitingQueue queue;
  for (const WaitingJob& job : world.jobs) {
    queue.Add(job.id == change.job.id ? change.job : job);
  }
  PassInput input = world.Input();
  input.topology = &cluster.topology();
  if (change.remedy == Remedy::kQuota) input.quotas.SetGuarantee(change.job.account, change.quota);
  return Starts(RunPass(queue, input), change.job.id);
}

TEST(ExplainTest, EveryCounterfactualStartsTheJobWhenApplied) {
  const int wanted = testing::ByTier(1000, 10000, 100000);
  int pending = 0, counterfactuals = 0;
  std::map<Remedy, int> kinds;
  for (uint64_t seed = 1; pending < wanted; ++seed) {
    SeededRandom random(seed);
    const std::unique_ptr<World> world = Draw(random);
    const PassInput input = world->Input();
    const PassResult truth = RunPass(world->queue, input);
    for (const WaitingJob& job : world->jobs) {
      const Explanation why =
          Explain(world->cluster, world->queue, input, job.id, {{.tp = 2, .dp = 2}, {}});
      ASSERT_EQ(why.starts_now, Starts(truth, job.id)) << "seed " << seed << " " << job.id;
      if (why.starts_now) continue;
      ++pending;
      ASSERT_FALSE(why.reasons.empty()) << "seed " << seed << " " << job.id;
      for (const Counterfactual& change : why.counterfactuals) {
        ++counterfactuals;
        ++kinds[change.remedy];
        ASSERT_TRUE(StartsWhenApplied(*world, change))
            << "seed " << seed << " " << job.id << ": " << change.text;
      }
    }
  }
  EXPECT_GT(counterfactuals, wanted / 2);
  EXPECT_EQ(kinds.size(), 10u);  // each kind has been seen
}

TEST(ExplainTest, AFragmentedClusterIsExplainedWithItsNumbers) {
  ClusterView cluster;
  for (int n = 0; n < 2; ++n) {
    Node node{.name = absl::StrCat("n", n)};
    for (int d = 0; d < 4; ++d) node.devices.push_back({.index = d, .kind = "h100"});
    cluster.PutNode(node);
  }
  const std::vector<DeviceRef> held = {{"n0", 0}, {"n1", 0}};
  ASSERT_THAT(cluster.Take(held, "r"), IsOk());
  WaitingQueue queue;
  queue.Add({.id = "j", .account = "w", .sequence = 1, .gang = {.layout = {.tp = 4}}});
  PassInput input{.topology = &cluster.topology(), .now = absl::FromUnixSeconds(50)};
  input.running = [&] {
    return std::vector<RunningGang>{{"r", &held, absl::FromUnixSeconds(250)}};
  };
  const Explanation why = Explain(cluster, queue, input, "j", {{.tp = 2, .pp = 2}});
  ASSERT_FALSE(why.reasons.empty());
  EXPECT_EQ(why.reasons[0].code, "FRAGMENTED");
  EXPECT_THAT(why.reasons[0].text, HasSubstr("6 are free, at most 3 in one NVLink domain (n0)"));
  EXPECT_EQ(why.expected_start, absl::FromUnixSeconds(250));
  ASSERT_FALSE(why.counterfactuals.empty());
  EXPECT_EQ(why.counterfactuals[0].text, "would start now with tp 2, dp 1, pp 2");
}

TEST(ExplainTest, AGangThatNamesItsNodesIsToldHowManyHaveRoom) {
  ClusterView cluster;
  for (int n = 0; n < 3; ++n) {
    Node node{.name = absl::StrCat("n", n)};
    for (int d = 0; d < 4; ++d) node.devices.push_back({.index = d, .kind = "h100"});
    cluster.PutNode(node);
  }
  ASSERT_THAT(cluster.Take({{"n0", 0}, {"n1", 0}, {"n1", 1}, {"n1", 2}}, "r"), IsOk());
  WaitingQueue queue;
  queue.Add({.id = "j", .account = "w", .gang = {.layout = {.dp = 8}, .nodes = 2}});
  const PassInput input{.topology = &cluster.topology(), .now = absl::FromUnixSeconds(50)};
  const Explanation why = Explain(cluster, queue, input, "j", {});
  ASSERT_FALSE(why.reasons.empty());
  EXPECT_EQ(why.reasons[0].code, "NODE_COUNT");
  EXPECT_THAT(why.reasons[0].text,
              HasSubstr("1 nodes have the 4 of one kind free that each of its 2 nodes gives"));
  ASSERT_EQ(why.counterfactuals.size(), 2u);
  EXPECT_EQ(why.counterfactuals[0].text, "would start now with dp 4");
  EXPECT_EQ(why.counterfactuals[0].job.gang.nodes, 1) << "as many of each node as it asked for";
  EXPECT_EQ(why.counterfactuals[1].text, "would start now on any number of nodes");
}

}  // namespace
}  // namespace graft::scheduler
