// What explanations of waiting jobs say is true of the clusters of the simulation.
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/sim/simulation.h"
#include "tests/support/tier.h"

namespace graft::scheduler {
namespace {

// Whether the job starts in the next pass.
bool StartsInPass(Core core, absl::Time now, const JobKey& key) {
  core.Step(PassDue{}, now);
  return core.FindJob(key)->state == JobState::kStarting;
}

// Makes the change for real, through the core's own events, and lets a pass go by.
bool StartsWhenApplied(Core core, absl::Time now, const JobKey& key, const Counterfactual& change) {
  JobRequest request = core.FindJob(key)->request;
  for (const std::string& name : change.uncordon) {
    core.Step(NodeCommanded{name, NodeVerb::kUncordon, ""}, now);
    if (!core.FindNode(name)->alive) core.Step(NodeRegistered{*core.cluster().Find(name)}, now);
  }
  if (change.remedy == Remedy::kQuota) {
    Queue queue = core.queues().at(request.queue);
    for (Share& share : queue.shares) {
      if (share.workspace == request.workspace) share.quota = change.quota;
    }
    core.Step(QueuePut{queue}, now);
  } else if (change.remedy != Remedy::kUncordon) {
    request.gang = change.job.gang;
    request.priority = change.job.priority;
    if (!core.Step(JobAmended{request}, now).status.ok()) return false;
  }
  return StartsInPass(std::move(core), now, key);
}

TEST(SimulatedExplanationsTest, EveryWaitingJobHasAReasonAndEveryCounterfactualStartsIt) {
  const int wanted = graft::testing::ByTier(200, 1000, 20'000);
  int pending = 0, changes = 0;
  std::map<Remedy, int> remedies;
  uint64_t seed = 0;
  const auto look = [&](const Core& core, absl::Time now) {
    for (const Job* job : core.Waiting(now)) {
      const JobExplanation why = core.Explain(*job, now);
      ++pending;
      EXPECT_FALSE(why.reasons.empty()) << "seed " << seed << " " << job->request.key;
      EXPECT_EQ(why.starts_now, StartsInPass(core, now, job->request.key))
          << "seed " << seed << " " << job->request.key;
      for (const Counterfactual& change : why.counterfactuals) {
        ++changes;
        ++remedies[change.remedy];
        EXPECT_TRUE(StartsWhenApplied(core, now, job->request.key, change))
            << "seed " << seed << " " << job->request.key << ": " << change.text;
      }
      if (::testing::Test::HasFailure()) return;
    }
  };
  while (pending < wanted && !::testing::Test::HasFailure()) {
    ++seed;
    ASSERT_EQ(Simulation({.seed = seed, .look = look}).Run().broken, "") << "seed " << seed;
  }
  std::printf("%d waiting jobs, %d counterfactuals of %zu kinds, all true\n", pending, changes,
              remedies.size());
  // The simulated clusters are small and busy: most jobs wait for several things at once, and one
  // change seldom helps.
  EXPECT_GT(changes, wanted / 20);
  EXPECT_GE(remedies.size(), 3u);
}

}  // namespace
}  // namespace graft::scheduler
