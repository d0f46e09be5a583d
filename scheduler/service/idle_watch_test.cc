// Jobs that hold devices and do nothing are found, told of once, and stopped where their queue says
// so.
#include "scheduler/service/idle_watch.h"

#include "base/status_matchers.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace graft::scheduler {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr char kJob[] = "w/a";

class IdleWatchTest : public ::testing::Test {
 protected:
  // One job runs on the two devices of one node.
  void SetUp() override {
    Node node{.name = "n0"};
    for (int i = 0; i < 2; ++i) node.devices.push_back({.index = i, .kind = "gpu"});
    Step(NodeRegistered{node});
    Step(JobSubmitted{
        {.key = kJob, .workspace = "w", .queue = "default", .gang = {.layout = {.dp = 2}}}});
    Say(PartState::kRunning);
    ASSERT_EQ(core_.FindJob(kJob)->state, JobState::kRunning);
  }
  void Step(const Event& event) {
    const Effects effects = core_.Step(event, now_);
    ASSERT_THAT(effects.status, IsOk());
    if (effects.pass_wanted) core_.Step(PassDue{}, now_);
  }
  void Say(PartState state, AttemptEnd end = AttemptEnd::kNone) {
    NodeSynced sync{.node = "n0",
                    .epoch = core_.FindNode("n0")->epoch,
                    .desired_revision = core_.FindNode("n0")->desired_revision};
    sync.parts.push_back({.job = kJob, .attempt = 1, .state = state, .end = end});
    Step(sync);
  }
  // Minutes pass, in each of which the job makes a step or not and its devices are so busy.
  std::vector<IdleWatch::Finding> Pass(int minutes, bool steps, double busy) {
    std::vector<IdleWatch::Finding> all;
    for (int i = 0; i < minutes; ++i) {
      now_ += absl::Minutes(1);
      graft::agent::v1::SynchronizeRequest report;
      for (int d = 0; d < 2; ++d) report.add_device_use()->set_utilisation(busy);
      use_.Put("n0", report, now_);
      graft::v1::JobProgress progress;
      progress.set_steps_done(steps_ += steps ? 1 : 0);
      progress_.Put(kJob, 1, true, progress);
      for (auto& one : watch_.Look(core_, policies_, now_)) all.push_back(std::move(one));
    }
    return all;
  }

  Core core_{CoreOptions()};
  absl::Time now_ = absl::FromUnixSeconds(1000);
  int64_t steps_ = 0;
  ProgressBoard progress_;
  NodeUseBoard use_;
  IdleWatch watch_{progress_, use_};
  IdleWatch::Policies policies_{{"default", {.after = absl::Minutes(10)}}};
};

TEST_F(IdleWatchTest, AJobThatTrainsIsLeftAlone) {
  EXPECT_THAT(Pass(60, true, 0.9), IsEmpty());
  EXPECT_EQ(watch_.idle(), 0);
}

TEST_F(IdleWatchTest, AJobWithoutAStepIsToldOfOnceAndAgainAfterItHasGoneOn) {
  EXPECT_THAT(Pass(10, false, 0.9), IsEmpty());
  const auto found = Pass(20, false, 0.9);
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_THAT(found[0].why, HasSubstr("no step for 10m"));
  EXPECT_FALSE(found[0].stop);
  EXPECT_EQ(watch_.idle(), 1);
  EXPECT_THAT(Pass(5, true, 0.9), IsEmpty());
  EXPECT_EQ(watch_.idle(), 0);
  EXPECT_THAT(Pass(20, false, 0.9), SizeIs(1));
}

TEST_F(IdleWatchTest, AJobWhoseDevicesDoNothingIsFound) {
  policies_["default"].stop = true;
  EXPECT_THAT(Pass(5, true, 0.9), IsEmpty());
  const auto found = Pass(20, true, 0.01);
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_THAT(found[0].why, HasSubstr("less than 5 % busy"));
  EXPECT_TRUE(found[0].stop);
}

TEST_F(IdleWatchTest, WhatIsNotKnownCountsAsBusy) {
  for (int i = 0; i < 30; ++i) {
    now_ += absl::Minutes(1);
    graft::v1::JobProgress progress;
    progress.set_steps_done(++steps_);
    progress_.Put(kJob, 1, true, progress);
    EXPECT_THAT(watch_.Look(core_, policies_, now_), IsEmpty());
  }
}

TEST(ProgressBoardTest, WhatTheLeaderOfAnAttemptSaysIsNotReplacedByItsOthers) {
  ProgressBoard board;
  const auto shown = [&](int attempt, bool leads, int64_t steps) {
    graft::v1::JobProgress progress;
    progress.set_steps_done(steps);
    board.Put("w/j", attempt, leads, progress);
    return board.StepsDone("w/j");
  };
  EXPECT_EQ(shown(1, false, 1), 1) << "nobody leads yet";
  EXPECT_EQ(shown(1, true, 3), 3);
  EXPECT_EQ(shown(1, false, 2), 3);
  EXPECT_EQ(shown(2, false, 2), 2) << "another attempt";
}

TEST_F(IdleWatchTest, WithoutAPolicyNothingIsFound) {
  policies_.clear();
  EXPECT_THAT(Pass(60, false, 0), IsEmpty());
}

TEST_F(IdleWatchTest, APausedOneSaysWhyAndCanGoOn) {
  Step(JobCommanded{kJob, JobVerb::kPauseIdle, "it has made no step for 10m"});
  EXPECT_EQ(core_.FindJob(kJob)->state, JobState::kPausing);
  Say(PartState::kEnded, AttemptEnd::kStopped);
  const Job& job = *core_.FindJob(kJob);
  EXPECT_EQ(job.state, JobState::kPaused);
  EXPECT_EQ(job.reason_code, "IDLE");
  EXPECT_THAT(job.reason, HasSubstr("no step for 10m; paused at step 0"));
  Step(JobCommanded{kJob, JobVerb::kResume, ""});
  EXPECT_NE(core_.FindJob(kJob)->state, JobState::kPaused);
}

}  // namespace
}  // namespace graft::scheduler
