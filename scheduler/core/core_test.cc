#include "scheduler/core/core.h"

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "scheduler/core/invariants.h"

namespace graft::scheduler {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Drives a core by hand; every step is checked against the invariants.
class CoreTest : public ::testing::Test {
 protected:
  Effects Step(const Event& event) {
    Effects effects = core_.Step(event, now_);
    EXPECT_THAT(invariants_.Check(core_), IsEmpty());
    if (effects.pass_wanted) {
      Effects pass = core_.Step(PassDue{}, now_);
      EXPECT_THAT(invariants_.Check(core_), IsEmpty());
      for (PublishCall& call : pass.calls) effects.calls.push_back(call);
    }
    for (const PublishCall& call : effects.calls) calls_.push_back(call);
    return effects;
  }
  int64_t AddNode(const std::string& name, int devices) {
    Node node{.name = name};
    for (int i = 0; i < devices; ++i) node.devices.push_back({.index = i, .kind = "h100"});
    EXPECT_THAT(Step(NodeRegistered{node}).status, IsOk());
    return core_.FindNode(name)->epoch;
  }
  absl::Status Submit(const std::string& id, Layout layout = {}, int priority = 0,
                      int max_restarts = 1) {
    return Step(JobSubmitted{{.key = "w/" + id,
                              .workspace = "w",
                              .queue = "default",
                              .priority = priority,
                              .gang = {.layout = layout},
                              .max_restarts = max_restarts}})
        .status;
  }
  // The node says that all its parts are in `state`.
  absl::Status Sync(const std::string& node, PartState state, AttemptEnd end = AttemptEnd::kNone,
                    PartReport also = {}, bool leaving = false) {
    NodeSynced sync{.node = node,
                    .epoch = core_.FindNode(node)->epoch,
                    .desired_revision = core_.FindNode(node)->desired_revision,
                    .leaving = leaving};
    for (const DesiredPart& part : core_.Desired(node)) {
      PartReport report = also;
      report.job = part.job;
      report.attempt = part.attempt;
      report.state = state;
      report.end = end;
      sync.parts.push_back(report);
    }
    return Step(sync).status;
  }
  JobState StateOf(const std::string& id) { return core_.FindJob("w/" + id)->state; }
  // The decisive reason of a waiting job.
  std::string Cause(const std::string& id) {
    const JobExplanation why = core_.Explain(JobOf(id), now_);
    return why.reasons.empty() ? "" : why.reasons[0].code;
  }
  const Job& JobOf(const std::string& id) { return *core_.FindJob("w/" + id); }

  Core core_{CoreOptions()};
  InvariantChecker invariants_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::vector<PublishCall> calls_;
};

TEST_F(CoreTest, AJobRunsAndCompletesWhenItsResultIsPublished) {
  AddNode("n0", 1);
  ASSERT_THAT(Submit("a"), IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kStarting);
  ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kRunning);
  ASSERT_THAT(Sync("n0", PartState::kEnded, AttemptEnd::kSucceeded, {.result_session = "s"}),
              IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kRunning);
  ASSERT_EQ(calls_.size(), 1);
  EXPECT_TRUE(calls_[0].result);
  Step(CallAnswered{calls_[0].id, absl::OkStatus(), "v1"});
  EXPECT_EQ(StateOf("a"), JobState::kCompleted);
  EXPECT_EQ(JobOf("a").result_version, "v1");
}

TEST_F(CoreTest, AGangStartsWholeOrNotAtAll) {
  AddNode("n0", 2);
  ASSERT_THAT(Submit("a", {.dp = 3}), IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kQueued);
  AddNode("n1", 1);
  EXPECT_EQ(StateOf("a"), JobState::kStarting);
  EXPECT_EQ(JobOf("a").attempt.ranks.size(), 3);
}

TEST_F(CoreTest, ALostWorkerRequeuesFromTheLastCheckpointUntilNoRestartIsLeft) {
  AddNode("n0", 1);
  ASSERT_THAT(Submit("a"), IsOk());
  ASSERT_THAT(Sync("n0", PartState::kRunning, AttemptEnd::kNone,
                   {.checkpoint = {.step = 40, .session = "c"}}),
              IsOk());
  ASSERT_EQ(calls_.size(), 1);
  Step(CallAnswered{calls_[0].id, absl::OkStatus(), "v40"});
  now_ += absl::Seconds(16);
  Step(Ticked{});
  EXPECT_EQ(StateOf("a"), JobState::kQueued);
  EXPECT_THAT(JobOf("a").reason, HasSubstr("from step 40"));
  AddNode("n0", 1);
  now_ += absl::Seconds(3);
  Step(Ticked{});
  ASSERT_EQ(StateOf("a"), JobState::kStarting);
  EXPECT_EQ(core_.Desired("n0")[0].resume_from.version, "v40");
  now_ += absl::Seconds(16);
  Step(Ticked{});
  EXPECT_EQ(StateOf("a"), JobState::kFailed);
}

TEST_F(CoreTest, ARegistrationEndsWhatRanOnlyOnceItsWorkerSpeaks) {
  const int64_t first = AddNode("n0", 1);
  ASSERT_THAT(Submit("a"), IsOk());
  ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
  // One that was sent long ago and comes now: its worker does not know that epoch.
  AddNode("n0", 1);
  EXPECT_EQ(StateOf("a"), JobState::kRunning);
  EXPECT_THAT(Step(NodeSynced{.node = "n0", .epoch = first}).status,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("register again")));
  const int64_t third = AddNode("n0", 1);
  EXPECT_EQ(StateOf("a"), JobState::kRunning);
  ASSERT_THAT(Step(NodeSynced{.node = "n0", .epoch = third}).status, IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kQueued);
}

TEST_F(CoreTest, AStaleWorkerIsFenced) {
  const int64_t first = AddNode("n0", 1);
  ASSERT_THAT(Submit("a"), IsOk());
  AddNode("n0", 1);
  EXPECT_THAT(Step(NodeSynced{.node = "n0", .epoch = first}).status,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("register again")));
}

TEST_F(CoreTest, APausedJobTakesACheckpointAndGoesOnThere) {
  AddNode("n0", 1);
  ASSERT_THAT(Submit("a"), IsOk());
  ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
  ASSERT_THAT(Step(JobCommanded{"w/a", JobVerb::kPause, "asked"}).status, IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kPausing);
  EXPECT_EQ(core_.Desired("n0")[0].mode, AttemptMode::kCheckpointAndStop);
  ASSERT_THAT(Sync("n0", PartState::kEnded, AttemptEnd::kStopped,
                   {.checkpoint = {.step = 7, .session = "c"}}),
              IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kPausing) << "the checkpoint is not published yet";
  Step(CallAnswered{calls_[0].id, absl::OkStatus(), "v7"});
  EXPECT_EQ(StateOf("a"), JobState::kPaused);
  ASSERT_THAT(Step(JobCommanded{"w/a", JobVerb::kResume, ""}).status, IsOk());
  EXPECT_EQ(core_.Desired("n0")[0].resume_from.step, 7);
}

TEST_F(CoreTest, AtItsTimeLimitAJobPausesFailsOrIsDone) {
  AddNode("n0", 1);
  const auto run_to_its_limit = [&](const std::string& id, AtTimeLimit then) {
    ASSERT_THAT(Step(JobSubmitted{{.key = "w/" + id,
                                   .workspace = "w",
                                   .queue = "default",
                                   .time_limit = absl::Seconds(100),
                                   .at_time_limit = then}})
                    .status,
                IsOk());
    ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
    now_ += absl::Seconds(99);
    ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
    Step(Ticked{});
    ASSERT_EQ(core_.Desired("n0")[0].mode, AttemptMode::kRun);
    ASSERT_FALSE(core_.Desired("n0")[0].finish);
    now_ += absl::Seconds(1);
    Step(Ticked{});
  };
  const auto end = [&](PartReport with, const char* version) {
    const AttemptEnd how =
        with.result_session.empty() ? AttemptEnd::kStopped : AttemptEnd::kSucceeded;
    ASSERT_THAT(Sync("n0", PartState::kEnded, how, with), IsOk());
    Step(CallAnswered{calls_.back().id, absl::OkStatus(), version});
  };

  run_to_its_limit("a", AtTimeLimit::kPause);
  EXPECT_EQ(core_.Desired("n0")[0].mode, AttemptMode::kCheckpointAndStop);
  end({.checkpoint = {.step = 7, .session = "c"}}, "v7");
  EXPECT_EQ(StateOf("a"), JobState::kPaused);
  EXPECT_EQ(JobOf("a").reason_code, "TIME_LIMIT");
  ASSERT_THAT(Step(JobCommanded{"w/a", JobVerb::kResume, ""}).status, IsOk());
  ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
  now_ += absl::Seconds(99);
  ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
  Step(Ticked{});
  EXPECT_EQ(core_.Desired("n0")[0].mode, AttemptMode::kRun) << "resuming gives it the time anew";
  now_ += absl::Seconds(1);
  Step(Ticked{});
  EXPECT_EQ(core_.Desired("n0")[0].mode, AttemptMode::kCheckpointAndStop);
  end({.checkpoint = {.step = 9, .session = "d"}}, "v9");
  EXPECT_EQ(StateOf("a"), JobState::kPaused);

  run_to_its_limit("b", AtTimeLimit::kFail);
  EXPECT_EQ(core_.Desired("n0")[0].mode, AttemptMode::kCheckpointAndStop);
  end({.checkpoint = {.step = 3, .session = "e"}}, "v3");
  EXPECT_EQ(StateOf("b"), JobState::kFailed);
  EXPECT_EQ(JobOf("b").reason_code, "TIME_LIMIT");

  run_to_its_limit("c", AtTimeLimit::kComplete);
  EXPECT_EQ(core_.Desired("n0")[0].mode, AttemptMode::kRun);
  EXPECT_TRUE(core_.Desired("n0")[0].finish);
  end({.result_session = "r", .step = 5}, "v");
  EXPECT_EQ(StateOf("c"), JobState::kCompleted);
  EXPECT_EQ(JobOf("c").reason_code, "TIME_LIMIT");
  EXPECT_EQ(JobOf("c").reason, "finished at step 5, where its time limit passed");
}

TEST_F(CoreTest, CancelWaitsForTheRanksToEnd) {
  AddNode("n0", 1);
  ASSERT_THAT(Submit("a"), IsOk());
  ASSERT_THAT(Step(JobCommanded{"w/a", JobVerb::kCancel, "asked"}).status, IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kCancelling);
  ASSERT_THAT(Submit("b"), IsOk());
  EXPECT_EQ(StateOf("b"), JobState::kQueued);
  ASSERT_THAT(Sync("n0", PartState::kEnded, AttemptEnd::kStopped), IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kCancelled);
  EXPECT_EQ(StateOf("b"), JobState::kStarting);
  EXPECT_THAT(Step(JobErased{"w/b"}).status, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Step(JobErased{"w/a"}).status, IsOk());
}

TEST_F(CoreTest, AHigherPriorityPreemptsWithACheckpointFirst) {
  Step(QueuePut{{.name = "default"}});
  AddNode("n0", 1);
  ASSERT_THAT(Submit("low"), IsOk());
  ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
  ASSERT_THAT(Submit("high", {}, 10), IsOk());
  EXPECT_EQ(StateOf("low"), JobState::kPreempting);
  ASSERT_THAT(Sync("n0", PartState::kEnded, AttemptEnd::kStopped), IsOk());
  EXPECT_EQ(StateOf("low"), JobState::kQueued);
  EXPECT_EQ(StateOf("high"), JobState::kStarting);
}

TEST_F(CoreTest, BackfillNeverTakesTheRoomThatIsKeptForTheHead) {
  AddNode("n0", 2);
  ASSERT_THAT(Submit("a"), IsOk());
  ASSERT_THAT(Submit("big", {.dp = 2}), IsOk());
  ASSERT_THAT(Submit("small"), IsOk());
  EXPECT_EQ(StateOf("big"), JobState::kQueued);
  EXPECT_EQ(StateOf("small"), JobState::kQueued);
  EXPECT_EQ(Cause("big"), "CAPACITY");
  EXPECT_EQ(Cause("small"), "RESERVED");
}

TEST_F(CoreTest, QuotaHoldsAJobBackAndSaysSo) {
  AddNode("n0", 2);
  Step(QueuePut{{.name = "default", .shares = {{.workspace = "w", .quota = 1, .borrow = 0}}}});
  ASSERT_THAT(Submit("a"), IsOk());
  ASSERT_THAT(Submit("b"), IsOk());
  EXPECT_EQ(StateOf("b"), JobState::kQueued);
  EXPECT_EQ(Cause("b"), "QUOTA");
}

TEST_F(CoreTest, DrainMovesItsJobsElsewhere) {
  AddNode("n0", 1);
  ASSERT_THAT(Submit("a"), IsOk());
  ASSERT_THAT(Step(NodeCommanded{"n0", NodeVerb::kDrain, "new driver"}).status, IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kPreempting);
  ASSERT_THAT(Sync("n0", PartState::kEnded, AttemptEnd::kStopped), IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kQueued);
  EXPECT_EQ(Cause("a"), "DRAINING");
  AddNode("n1", 1);
  EXPECT_EQ(StateOf("a"), JobState::kStarting);
}

TEST_F(CoreTest, WhatHasNotMovedWhenADrainIsOverEndsWithoutACheckpoint) {
  AddNode("n0", 1);
  ASSERT_THAT(Submit("a"), IsOk());
  ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
  ASSERT_THAT(Step(NodeCommanded{"n0", NodeVerb::kDrain, "new fan", absl::Seconds(10)}).status,
              IsOk());
  now_ += absl::Seconds(9);
  Step(Ticked{});
  EXPECT_EQ(core_.Desired("n0")[0].mode, AttemptMode::kCheckpointAndStop);
  Core next({.incarnation = 2});  // knows it still
  next.Restore({JobOf("a")}, {{*core_.FindNode("n0"), *core_.cluster().Find("n0")}}, {}, now_);
  now_ += absl::Seconds(2);
  Step(Ticked{});
  EXPECT_EQ(core_.Desired("n0")[0].mode, AttemptMode::kStop);
  next.Step(Ticked{}, now_);
  EXPECT_EQ(next.Desired("n0")[0].mode, AttemptMode::kStop);
}

TEST_F(CoreTest, AWorkerThatShutsDownMovesItsJobsAndSpendsNoRestart) {
  AddNode("n0", 1);
  ASSERT_THAT(Submit("a", {}, 0, 0), IsOk());
  ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
  ASSERT_THAT(Sync("n0", PartState::kRunning, AttemptEnd::kNone, {}, /*leaving=*/true), IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kPreempting);
  EXPECT_EQ(core_.Desired("n0")[0].mode, AttemptMode::kCheckpointAndStop);
  ASSERT_THAT(Sync("n0", PartState::kEnded, AttemptEnd::kStopped), IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kQueued);  // and not there once more
  EXPECT_EQ(Cause("a"), "DRAINING");
  AddNode("n0", 1);  // the new program
  EXPECT_EQ(StateOf("a"), JobState::kStarting);
  EXPECT_EQ(JobOf("a").restarts, 0);
}

TEST_F(CoreTest, AnInventoryTakesDevicesAwayAndBringsThemBack) {
  const int64_t epoch = AddNode("n0", 2);
  const auto devices = [](std::vector<std::pair<int, bool>> of) {
    std::vector<Device> list;
    for (const auto& [index, healthy] : of) {
      list.push_back({.index = index, .kind = "h100", .healthy = healthy});
    }
    return list;
  };
  ASSERT_THAT(Submit("a", {.tp = 2}), IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kStarting);
  // One is gone under the job, which goes on until its worker says otherwise.
  ASSERT_THAT(Step(NodeInventoried{"n0", epoch, devices({{0, true}})}).status, IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kStarting);
  EXPECT_FALSE(core_.cluster().FindDevice({"n0", 1})->healthy);
  ASSERT_THAT(Sync("n0", PartState::kEnded, AttemptEnd::kFailed), IsOk());
  now_ += absl::Seconds(10);
  Step(Ticked{});
  EXPECT_EQ(StateOf("a"), JobState::kQueued);
  EXPECT_EQ(Cause("a"), "NO_NODE_MATCHES");
  ASSERT_THAT(Step(NodeInventoried{"n0", epoch, devices({{0, true}, {1, false}})}).status, IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kQueued);
  ASSERT_THAT(Step(NodeInventoried{"n0", epoch, devices({{0, true}, {1, true}})}).status, IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kStarting);
  EXPECT_THAT(Step(NodeInventoried{"n0", epoch - 1, {}}).status,
              StatusIs(absl::StatusCode::kFailedPrecondition));
}

// A job of this length is blocked: others go beside it until so long has passed.
void ExpectRoomIsKept(absl::Duration own, absl::Duration after, absl::Time now) {
  Core core({.lease = absl::Hours(100), .keep_room_after = absl::Hours(1)});
  const auto step = [&](const Event& event) {
    EXPECT_THAT(core.Step(event, now).status, IsOk());
    core.Step(PassDue{}, now);
  };
  const auto submit = [&](const std::string& id, int devices) {
    step(JobSubmitted{{.key = "w/" + id,
                       .workspace = "w",
                       .queue = "default",
                       .gang = {.layout = {.dp = devices}},
                       .expected_run_time = own}});
    return core.FindJob("w/" + id)->state;
  };
  Node node{.name = "n0"};
  for (int i = 0; i < 4; ++i) node.devices.push_back({.index = i, .kind = "h100"});
  step(NodeRegistered{node});
  EXPECT_EQ(submit("first", 2), JobState::kStarting);
  EXPECT_EQ(submit("wide", 4), JobState::kQueued);
  if (after > absl::ZeroDuration()) {
    now += after - absl::Seconds(1);
    EXPECT_EQ(submit("beside", 1), JobState::kStarting) << "nothing is kept yet";
    now += absl::Seconds(1);
  }
  EXPECT_EQ(submit("late", 1), JobState::kQueued) << "it would delay the one that has waited";
}

TEST(CoreRoomTest, RoomIsKeptForAJobOnlyWhenItHasWaited) {
  const absl::Time now = absl::FromUnixSeconds(1000);
  ExpectRoomIsKept(absl::Hours(10), absl::Hours(1), now);
  ExpectRoomIsKept(absl::Minutes(10), absl::Minutes(20), now);
  ExpectRoomIsKept(absl::InfiniteDuration(), absl::ZeroDuration(), now);
}

TEST_F(CoreTest, ValidationRunsWithoutADeviceAndRefusesBadInputs) {
  ASSERT_THAT(Step(JobSubmitted{{.key = "w/a", .workspace = "w", .needs_validation = true}}).status,
              IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kCreated);
  AddNode("n0", 0);
  EXPECT_EQ(StateOf("a"), JobState::kValidating);
  ASSERT_THAT(Sync("n0", PartState::kEnded, AttemptEnd::kHopeless, {.message = "row 3 is empty"}),
              IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kFailed);
  EXPECT_THAT(JobOf("a").reason, HasSubstr("row 3"));
}

TEST_F(CoreTest, AReportIsPublishedBesideTheJobAndAskedForAgainAfterARestart) {
  AddNode("n0", 1);
  ASSERT_THAT(Submit("a"), IsOk());
  ASSERT_THAT(Sync("n0", PartState::kEnded, AttemptEnd::kSucceeded,
                   {.result_session = "s", .report_session = "r"}),
              IsOk());
  ASSERT_EQ(calls_.size(), 2);
  EXPECT_TRUE(calls_[0].report);
  Step(CallAnswered{calls_[1].id, absl::OkStatus(), "v1"});
  EXPECT_EQ(StateOf("a"), JobState::kCompleted) << "it does not wait for its report";
  Core next({.incarnation = 2});
  const Effects restored = next.Restore({JobOf("a")}, {}, {}, now_);
  ASSERT_EQ(restored.calls.size(), 1);
  EXPECT_EQ(restored.calls[0].session, "r");
  Step(CallAnswered{calls_[0].id, absl::OkStatus(), "v2"});
  EXPECT_EQ(JobOf("a").report_version, "v2");
  EXPECT_EQ(JobOf("a").result_version, "v1");
}

TEST_F(CoreTest, ANodeCarriesAFewValidationsAtATime) {
  AddNode("n0", 0);
  for (const char* key : {"w/a", "w/b", "w/c"}) {
    ASSERT_THAT(Step(JobSubmitted{{.key = key, .workspace = "w", .needs_validation = true}}).status,
                IsOk());
  }
  EXPECT_EQ(StateOf("b"), JobState::kValidating);
  EXPECT_EQ(StateOf("c"), JobState::kCreated);
  NodeSynced sync{.node = "n0",
                  .epoch = core_.FindNode("n0")->epoch,
                  .desired_revision = core_.FindNode("n0")->desired_revision};
  sync.parts = {
      {.job = "w/a", .attempt = 1, .state = PartState::kEnded, .end = AttemptEnd::kSucceeded},
      {.job = "w/b", .attempt = 1, .state = PartState::kRunning}};
  ASSERT_THAT(Step(sync).status, IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kQueued);
  EXPECT_EQ(StateOf("c"), JobState::kValidating);
}

TEST_F(CoreTest, ARestoredCoreGoesOnWhereTheOldOneWas) {
  AddNode("n0", 2);
  ASSERT_THAT(Submit("a"), IsOk());
  ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
  Core next({.incarnation = 2});
  std::vector<std::pair<NodeState, Node>> nodes = {
      {*core_.FindNode("n0"), *core_.cluster().Find("n0")}};
  next.Restore({JobOf("a")}, nodes, {}, now_);
  EXPECT_EQ(next.FindJob("w/a")->state, JobState::kRunning);
  EXPECT_EQ(next.cluster().Find("n0")->devices[0].holder, "w/a");
  // The worker has not heard of the new life yet: what it does not list may yet come.
  next.Step(NodeSynced{.node = "n0",
                       .epoch = core_.FindNode("n0")->epoch,
                       .desired_revision = core_.FindNode("n0")->desired_revision},
            now_);
  EXPECT_EQ(next.FindJob("w/a")->state, JobState::kRunning);
}

TEST_F(CoreTest, ASessionHasOneLifeAndIsNeverPausedOrMoved) {
  AddNode("n0", 1);
  JobRequest session{.key = "w/inferenceSessions/s",
                     .workspace = "w",
                     .queue = "default",
                     .kind = GangKind::kGenerate,
                     .max_restarts = 3};
  ASSERT_THAT(Step(JobSubmitted{session}).status, IsOk());
  EXPECT_EQ(core_.Desired("n0")[0].kind, GangKind::kGenerate);
  ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
  EXPECT_THAT(Step(JobCommanded{session.key, JobVerb::kPause, ""}).status,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("session")));
  now_ += absl::Seconds(16);
  Step(Ticked{});
  EXPECT_EQ(core_.FindJob(session.key)->state, JobState::kFailed);
  EXPECT_EQ(core_.FindJob(session.key)->reason_code, "WORKER_LOST");
}

TEST_F(CoreTest, ADrainedSessionEndsAndSaysWhy) {
  AddNode("n0", 1);
  JobRequest session{.key = "w/inferenceSessions/s",
                     .workspace = "w",
                     .queue = "default",
                     .kind = GangKind::kGenerate};
  ASSERT_THAT(Step(JobSubmitted{session}).status, IsOk());
  ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
  ASSERT_THAT(Step(NodeCommanded{"n0", NodeVerb::kDrain, "new driver"}).status, IsOk());
  ASSERT_THAT(Sync("n0", PartState::kEnded, AttemptEnd::kSucceeded), IsOk());
  EXPECT_EQ(core_.FindJob(session.key)->state, JobState::kFailed);
  EXPECT_EQ(core_.FindJob(session.key)->reason_code, "DRAINING");
}

TEST_F(CoreTest, UsageSaysWhatWasHeldBusyLostAndWaitedFor) {
  AddNode("n0", 1);
  ASSERT_THAT(Submit("a", {.dp = 2}), IsOk());
  now_ += absl::Seconds(5);
  AddNode("n1", 1);
  ASSERT_EQ(StateOf("a"), JobState::kStarting);
  now_ += absl::Seconds(10);
  ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
  ASSERT_THAT(Sync("n1", PartState::kRunning), IsOk());
  now_ += absl::Seconds(10);
  ASSERT_THAT(Sync("n0", PartState::kRunning, AttemptEnd::kNone,
                   {.checkpoint = {.step = 5, .session = "c"}}),
              IsOk());
  Step(CallAnswered{calls_[0].id, absl::OkStatus(), "v5"});
  now_ += absl::Seconds(4);
  ASSERT_THAT(Sync("n0", PartState::kEnded, AttemptEnd::kFailed), IsOk());
  ASSERT_THAT(Sync("n1", PartState::kEnded, AttemptEnd::kStopped), IsOk());
  const JobUsage& usage = JobOf("a").usage;
  EXPECT_DOUBLE_EQ(usage.queued_seconds, 5);
  EXPECT_DOUBLE_EQ(usage.device_seconds, 2 * 24);
  EXPECT_DOUBLE_EQ(usage.busy_device_seconds, 2 * 14);
  EXPECT_DOUBLE_EQ(usage.lost_seconds, 4);
  EXPECT_EQ(usage.preemptions, 0);
}

TEST_F(CoreTest, AWaitingJobMayWantSomethingElse) {
  AddNode("n0", 2);
  ASSERT_THAT(Submit("a", {.tp = 4}), IsOk());
  JobRequest request = JobOf("a").request;
  request.gang.layout = {.tp = 2};
  ASSERT_THAT(Step(JobAmended{request}).status, IsOk());
  EXPECT_EQ(StateOf("a"), JobState::kStarting);
  request.priority = 3;
  EXPECT_THAT(Step(JobAmended{request}).status, IsOk());
  request.gang.layout = {.tp = 1};
  EXPECT_THAT(Step(JobAmended{request}).status,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("only while it waits")));
  request.priority = kMostJobPriority + 1;
  EXPECT_THAT(Step(JobAmended{request}).status, StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(CoreTest, AQueueAdmitsTheWorkspacesOfItsSharesAlone) {
  Step(QueuePut{{.name = "default", .shares = {{.workspace = "v"}}}});
  EXPECT_THAT(Submit("a"), StatusIs(absl::StatusCode::kFailedPrecondition,
                                    HasSubstr("does not admit workspace w")));
}

TEST_F(CoreTest, AJobIsExplainedBeforeItIsSubmitted) {
  AddNode("n0", 2);
  JobRequest request{.key = "w/new", .workspace = "w", .queue = "default"};
  EXPECT_TRUE(core_.ExplainUnsubmitted(request, now_).starts_now);
  request.gang.layout = {.dp = 4};
  const JobExplanation why = core_.ExplainUnsubmitted(request, now_);
  ASSERT_EQ(why.reasons.size(), 2u);
  EXPECT_EQ(why.reasons[0].code, "NO_NODE_MATCHES");
  ASSERT_FALSE(why.counterfactuals.empty());
  EXPECT_EQ(why.counterfactuals[0].text, "would start now with dp 2");
}

TEST_F(CoreTest, PlacesAreCountedByQueueAndTheFirstToBeBlockedKnowTheirStart) {
  const auto submit = [&](const std::string& id, const std::string& queue, absl::Duration runs) {
    return Step(
               JobSubmitted{
                   {.key = "w/" + id, .workspace = "w", .queue = queue, .expected_run_time = runs}})
        .status;
  };
  AddNode("n0", 1);
  Step(QueuePut{{.name = "night", .priority = -5}});
  ASSERT_THAT(submit("runs", "default", absl::Minutes(10)), IsOk());
  for (const char* id : {"a", "b"}) ASSERT_THAT(submit(id, "default", absl::Hours(1)), IsOk());
  ASSERT_THAT(submit("c", "night", absl::Hours(1)), IsOk());
  now_ += absl::Minutes(4);
  const std::vector<WaitingPlace> places = core_.Outlook(now_);
  ASSERT_EQ(places.size(), 3u);
  EXPECT_EQ(places[0].job->request.key, "w/a");
  EXPECT_EQ(places[0].position, 1);
  EXPECT_EQ(places[0].expected_start, now_ + absl::Minutes(6));
  EXPECT_EQ(places[1].position, 2);
  EXPECT_EQ(places[1].expected_start, absl::InfiniteFuture()) << "behind another of its kind";
  EXPECT_EQ(places[2].job->request.key, "w/c");
  EXPECT_EQ(places[2].position, 1) << "in its own queue";
}

TEST_F(CoreTest, AStartIsExpectedByHowFarEstimatesWereOff) {
  AddNode("n0", 1);
  const auto submit = [&](const std::string& id) {
    return Step(JobSubmitted{{.key = "w/" + id,
                              .workspace = "w",
                              .queue = "default",
                              .expected_run_time = absl::Seconds(100)}})
        .status;
  };
  // Of twenty, three took twice as long.
  for (int i = 0; i < 20; ++i) {
    ASSERT_THAT(submit(absl::StrCat(i)), IsOk());
    ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
    const absl::Time end = now_ + absl::Seconds(i < 3 ? 200 : 100);
    while (now_ < end) {
      now_ += absl::Seconds(10);  // within its lease
      ASSERT_THAT(Sync("n0", PartState::kRunning), IsOk());
    }
    if (i == 19) {
      ASSERT_THAT(submit("early"), IsOk());
      EXPECT_EQ(core_.Explain(JobOf("early"), now_).expected_start_p90, absl::InfiniteFuture())
          << "nineteen say nothing";
      Step(JobCommanded{"w/early", JobVerb::kCancel});
    }
    ASSERT_THAT(Sync("n0", PartState::kEnded, AttemptEnd::kSucceeded, {.result_session = "s"}),
                IsOk());
    Step(CallAnswered{calls_.back().id, absl::OkStatus(), "v"});
  }
  ASSERT_THAT(submit("runs"), IsOk());
  ASSERT_THAT(submit("waits"), IsOk());
  const JobExplanation why = core_.Explain(JobOf("waits"), now_);
  EXPECT_EQ(why.expected_start, now_ + absl::Seconds(100));
  EXPECT_EQ(why.expected_start_p90, now_ + absl::Seconds(200));
}

TEST(JobStateTest, NothingLeavesATerminalState) {
  for (const JobTransition& way : JobTransitions()) EXPECT_FALSE(IsTerminal(way.from));
}

}  // namespace
}  // namespace graft::scheduler
