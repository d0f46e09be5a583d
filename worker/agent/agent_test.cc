#include "worker/agent/agent.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using State = v1::ActualAttempt::State;

constexpr absl::Duration kPatience = absl::Seconds(30);

// A scheduler of one node: what it desires is set by the test, what the agent reports is kept.
class FakeScheduler final : public SchedulerLink {
 public:
  absl::StatusOr<v1::RegisterResponse> Register(const v1::RegisterRequest& request,
                                                absl::Duration) override {
    MutexLock lock(mu_);
    registrations_.push_back(request);
    v1::RegisterResponse response;
    response.set_node(absl::StrCat("nodes/", request.node_id()));
    response.set_epoch(++epoch_);
    response.set_protocol_version(1);
    response.mutable_stop_after()->set_seconds(2);
    response.set_node_credential("credential");
    response.set_access_token("token");
    changed_.SignalAll();
    return response;
  }
  void SetAccessToken(const std::string&) override {}
  void Synchronize(const v1::SynchronizeRequest& request, absl::Duration,
                   OnSynchronized done) override {
    OnSynchronized older;
    v1::SynchronizeResponse response;
    {
      MutexLock lock(mu_);
      last_ = request;
      changed_.SignalAll();
      if (silent_) {
        unanswered_.push_back(std::move(done));
        return;
      }
      older = std::move(pending_);
      pending_ = nullptr;
      const bool may_go = request.leaving() && desired_.attempts().empty();
      if (request.epoch() == epoch_ && request.revision() == desired_.revision() && !may_go) {
        pending_ = std::move(done);
        done = nullptr;
      } else {
        response = desired_;
      }
    }
    if (older) older(absl::CancelledError("a newer call"));
    if (done) done(response);
  }
  void CancelSynchronize() override {
    OnSynchronized open;
    {
      MutexLock lock(mu_);
      open = std::move(pending_);
      pending_ = nullptr;
    }
    if (open) open(absl::CancelledError("cancelled"));
  }

  class Stream final : public EventStream {
   public:
    Stream(FakeScheduler& owner, OnAck on_ack) : owner_(owner), on_ack_(std::move(on_ack)) {}
    bool Write(const v1::PushEventsRequest& request) override {
      v1::PushEventsResponse response;
      {
        MutexLock lock(owner_.mu_);
        for (const auto& batch : request.batches()) {
          for (const auto& event : batch.events()) owner_.events_.push_back(event);
          auto& ack = *response.add_acks();
          ack.set_attempt(batch.attempt());
          ack.set_rank(batch.rank());
          ack.set_sequence(batch.first_sequence() + static_cast<uint64_t>(batch.events_size()) - 1);
        }
      }
      on_ack_(response);
      return !cancelled_;
    }
    void Cancel() override { cancelled_ = true; }

   private:
    FakeScheduler& owner_;
    const OnAck on_ack_;
    std::atomic<bool> cancelled_{false};
  };
  std::unique_ptr<EventStream> OpenEvents(EventStream::OnAck on_ack) override {
    return std::make_unique<Stream>(*this, std::move(on_ack));
  }
  std::unique_ptr<InferenceStream> OpenInference(OnInference,
                                                 std::function<void(absl::Status)>) override {
    return nullptr;
  }

  void Desire(std::vector<v1::DesiredAttempt> attempts) {
    OnSynchronized open;
    v1::SynchronizeResponse response;
    {
      MutexLock lock(mu_);
      desired_.set_revision(desired_.revision() + 1);
      desired_.clear_attempts();
      for (auto& attempt : attempts) *desired_.add_attempts() = std::move(attempt);
      open = std::move(pending_);
      pending_ = nullptr;
      response = desired_;
    }
    if (open) open(response);
  }
  // Answers nothing any more, as if the network were cut.
  void FallSilent() {
    MutexLock lock(mu_);
    silent_ = true;
    if (pending_) unanswered_.push_back(std::move(pending_));
    pending_ = nullptr;
  }

  template <typename Predicate>
  bool WaitFor(Predicate predicate) {
    const absl::Time deadline = absl::Now() + kPatience;
    MutexLock lock(mu_);
    while (!predicate()) {
      if (absl::Now() > deadline) return false;
      changed_.WaitFor(mu_, absl::Milliseconds(100));
    }
    return true;
  }
  bool WaitForState(State state) {
    return WaitFor(
        [&] { return last_.attempts_size() == 1 && last_.attempts(0).state() == state; });
  }
  bool WaitForStep(int64_t step) {
    return WaitFor([&] {
      return last_.attempts_size() == 1 && last_.attempts(0).progress().steps_done() >= step;
    });
  }
  v1::ActualAttempt attempt() {
    MutexLock lock(mu_);
    return last_.attempts_size() == 1 ? last_.attempts(0) : v1::ActualAttempt();
  }
  bool WaitUntilLeaving() {
    return WaitFor([&] { return last_.leaving(); });
  }
  bool WaitForRegistrations(size_t count) {
    return WaitFor([&] { return registrations_.size() >= count; });
  }
  bool WaitUntilForgotten() {
    return WaitFor([&] { return last_.attempts_size() == 0; });
  }
  size_t registrations() {
    MutexLock lock(mu_);
    return registrations_.size();
  }
  std::vector<v1::AgentEvent> events() {
    MutexLock lock(mu_);
    return events_;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  int64_t epoch_ = 0;
  bool silent_ = false;
  v1::SynchronizeResponse desired_;
  v1::SynchronizeRequest last_;
  OnSynchronized pending_;
  std::vector<OnSynchronized> unanswered_;
  std::vector<v1::RegisterRequest> registrations_;
  std::vector<v1::AgentEvent> events_;
};

// Inputs are empty folders; uploads are remembered by session.
class FakeFiles final : public FileLink {
 public:
  explicit FakeFiles(std::string folder) : folder_(std::move(folder)) {}
  absl::StatusOr<std::string> Fetch(const v1::Input& input, const std::string&, const std::string&,
                                    const CancelFlag&, const OnProgress&) override {
    if (absl::StrContains(input.version(), "missing"))
      return absl::NotFoundError("no such version");
    return folder_;
  }
  void Release(const std::string&) override {}
  absl::StatusOr<int64_t> Upload(const std::string& folder, const std::string& session,
                                 const std::string&, const CancelFlag&) override {
    MutexLock lock(mu_);
    if (std::exchange(fail_next_, false)) return absl::NotFoundError("a file has gone");
    auto names = ListDirectory(folder);
    if (!names.ok()) return names.status();
    std::sort(names->begin(), names->end());
    uploads_.emplace_back(session, (*names)[0]);
    return 7;
  }
  void FailNextUpload() {
    MutexLock lock(mu_);
    fail_next_ = true;
  }
  std::vector<std::pair<std::string, std::string>> uploads() {
    MutexLock lock(mu_);
    return uploads_;
  }

 private:
  const std::string folder_;
  Mutex mu_;
  bool fail_next_ = false;
  std::vector<std::pair<std::string, std::string>> uploads_;
};

class AgentTest : public ::testing::Test {
 protected:
  AgentTest() : folder_(absl::StrCat(::testing::TempDir(), "/agent.", getpid())) {
    EXPECT_THAT(RemoveTree(folder_), IsOk());
    EXPECT_THAT(MakeDirectories(JoinPath(folder_, "input")), IsOk());
    files_ = std::make_unique<FakeFiles>(JoinPath(folder_, "input"));
    devices_ = device::CpuDevices(1);
  }
  ~AgentTest() override {
    agent_.reset();
    EXPECT_THAT(RemoveTree(folder_), IsOk());
  }

  void StartAgent(const std::string& trainer = "graft-fake-trainer") {
    const char* build = std::getenv("GRAFT_BINARY_DIR");
    ASSERT_NE(build, nullptr) << "run by ctest";
    agent_ = std::make_unique<Agent>(
        AgentOptions{.node_id = "n1",
                     .join_token = "join",
                     .state_folder = JoinPath(folder_, "state"),
                     .cache_folder = folder_,
                     .trainer_program = absl::StrCat(build, "/bin/", trainer),
                     .validator_program = absl::StrCat(build, "/bin/", trainer),
                     .rank_environment = rank_environment_},
        clock_, scheduler_, *files_, *devices_);
    ASSERT_THAT(agent_->Start(), IsOk());
    ASSERT_TRUE(scheduler_.WaitForRegistrations(1));
  }

  static v1::DesiredAttempt Wish(int64_t steps, int64_t checkpoint_interval = 0) {
    v1::DesiredAttempt wish;
    wish.set_attempt("workspaces/w/jobs/j/attempts/1");
    wish.set_attempt_epoch(1);
    wish.set_kind(v1::DesiredAttempt::KIND_TRAIN);
    wish.set_goal(v1::DesiredAttempt::GOAL_RUN);
    wish.set_run_json(absl::StrCat(
        R"({"version":1,"model":{"path":"${inputs.model}"},"dataset":{"training":["${inputs.data}"]},)",
        R"("schedule":{"max_steps":)", steps, R"(},"checkpoint":{"interval":)", checkpoint_interval,
        "}}"));
    for (const char* key : {"model", "data"}) {
      v1::Input& input = *wish.add_inputs();
      input.set_key(key);
      input.set_version(absl::StrCat("workspaces/w/filesets/", key, "/versions/1"));
    }
    wish.add_local_ranks()->set_rank(0);
    wish.add_rank_table()->set_rank(0);
    for (int i = 1; i <= 3; ++i) {
      v1::UploadGrant& grant = *wish.add_upload_grants();
      grant.set_session(absl::StrCat("checkpoint-", i));
      grant.set_kind(v1::Upload::KIND_CHECKPOINT);
    }
    v1::UploadGrant& grant = *wish.add_upload_grants();
    grant.set_session("adapter");
    grant.set_kind(v1::Upload::KIND_ADAPTER);
    return wish;
  }

  const std::string folder_;
  RealClock clock_;
  FakeScheduler scheduler_;
  std::unique_ptr<FakeFiles> files_;
  std::unique_ptr<device::DeviceSource> devices_;
  std::map<std::string, std::string> rank_environment_;
  std::unique_ptr<Agent> agent_;
};

TEST_F(AgentTest, RunsAnAttemptToItsEndAndUploadsTheAdapter) {
  StartAgent();
  scheduler_.Desire({Wish(5)});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_ENDED));
  const v1::ActualAttempt report = scheduler_.attempt();
  EXPECT_EQ(report.progress().steps_done(), 5);
  const bool adapter =
      std::any_of(report.uploads().begin(), report.uploads().end(), [](const auto& upload) {
        return upload.kind() == v1::Upload::KIND_ADAPTER && upload.session() == "adapter";
      });
  EXPECT_TRUE(adapter);
  int metrics = 0;
  for (const v1::AgentEvent& event : scheduler_.events()) metrics += event.has_metrics();
  EXPECT_EQ(metrics, 5);
  // What the scheduler no longer lists is forgotten.
  scheduler_.Desire({});
  EXPECT_TRUE(scheduler_.WaitUntilForgotten());
}

TEST_F(AgentTest, WhatTheNodeSetsForItsFabricStandsInTheLog) {
  rank_environment_ = {{"NCCL_SOCKET_IFNAME", "ib0"}};
  StartAgent();
  scheduler_.Desire({Wish(2)});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_ENDED));
  const std::vector<v1::AgentEvent> events = scheduler_.events();
  EXPECT_TRUE(std::any_of(events.begin(), events.end(), [](const v1::AgentEvent& event) {
    return event.log().text() == "this node sets NCCL_SOCKET_IFNAME=ib0";
  }));
}

TEST_F(AgentTest, ACheckpointThatWasNotUploadedHoldsNothingUp) {
  files_->FailNextUpload();
  StartAgent();
  v1::DesiredAttempt wish = Wish(6, 2);
  wish.mutable_upload_grants()->DeleteSubrange(2, 1);  // one session fewer than checkpoints
  scheduler_.Desire({wish});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_ENDED));
  // The next checkpoint went where the first one did not.
  ASSERT_FALSE(files_->uploads().empty());
  EXPECT_EQ(files_->uploads().front().first, "checkpoint-1");
  EXPECT_EQ(files_->uploads().back().first, "adapter");
}

TEST_F(AgentTest, AnAttemptThatIsToFinishBeforeItsRanksStartFinishes) {
  setenv("GRAFT_FAKE_STEP_SECONDS", "0.02", 1);
  StartAgent();
  v1::DesiredAttempt wish = Wish(100000);
  wish.set_goal(v1::DesiredAttempt::GOAL_FINISH);
  scheduler_.Desire({wish});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_ENDED));
  EXPECT_LT(scheduler_.attempt().progress().steps_done(), 1000);
  ASSERT_FALSE(files_->uploads().empty());
  EXPECT_EQ(files_->uploads().back().first, "adapter");
  unsetenv("GRAFT_FAKE_STEP_SECONDS");
}

TEST_F(AgentTest, APausedAttemptLeavesItsCheckpoint) {
  setenv("GRAFT_FAKE_STEP_SECONDS", "0.02", 1);
  StartAgent();
  v1::DesiredAttempt wish = Wish(100000);
  scheduler_.Desire({wish});
  ASSERT_TRUE(scheduler_.WaitForStep(3));
  wish.set_goal(v1::DesiredAttempt::GOAL_CHECKPOINT_AND_STOP);
  scheduler_.Desire({wish});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_ENDED));
  const v1::ActualAttempt report = scheduler_.attempt();
  ASSERT_EQ(report.uploads_size(), 1);
  EXPECT_EQ(report.uploads(0).kind(), v1::Upload::KIND_CHECKPOINT);
  EXPECT_GE(report.uploads(0).step(), 3);
  unsetenv("GRAFT_FAKE_STEP_SECONDS");
}

TEST_F(AgentTest, AWorkerLeavesWhenItsCheckpointIsThereAndTheSchedulerKnows) {
  setenv("GRAFT_FAKE_STEP_SECONDS", "0.02", 1);
  StartAgent();
  v1::DesiredAttempt wish = Wish(100000);
  scheduler_.Desire({wish});
  ASSERT_TRUE(scheduler_.WaitForStep(3));
  std::atomic<bool> left{false};
  std::thread leaver([&] {
    agent_->Leave(absl::Minutes(10));
    left = true;
  });
  EXPECT_TRUE(scheduler_.WaitUntilLeaving());
  wish.set_goal(v1::DesiredAttempt::GOAL_CHECKPOINT_AND_STOP);
  scheduler_.Desire({wish});
  EXPECT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_ENDED));
  EXPECT_EQ(scheduler_.attempt().uploads_size(), 1);
  EXPECT_FALSE(left);
  scheduler_.Desire({});
  leaver.join();
  unsetenv("GRAFT_FAKE_STEP_SECONDS");
}

TEST_F(AgentTest, AnIdleWorkerLeavesAtOnce) {
  StartAgent();
  agent_->Leave(absl::Minutes(10));
  EXPECT_TRUE(scheduler_.WaitUntilLeaving());
}

TEST_F(AgentTest, AnAttemptGoesOnFromTheCheckpointThatItIsGiven) {
  EXPECT_THAT(WriteFileAtomically(JoinPath(folder_, "input/fake.json"), R"({"step":3})"), IsOk());
  StartAgent();
  v1::DesiredAttempt wish = Wish(5);
  v1::Input& input = *wish.add_inputs();
  input.set_key("checkpoint");
  input.set_role(v1::Input::ROLE_CHECKPOINT);
  input.set_version("workspaces/w/filesets/checkpoint/versions/1");
  scheduler_.Desire({wish});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_ENDED));
  std::vector<int64_t> steps;
  for (const v1::AgentEvent& event : scheduler_.events()) {
    if (event.has_metrics()) steps.push_back(event.metrics().step());
  }
  EXPECT_THAT(steps, ElementsAre(4, 5));
}

TEST_F(AgentTest, ACancelledAttemptEndsAtOnce) {
  setenv("GRAFT_FAKE_STEP_SECONDS", "0.02", 1);
  StartAgent();
  v1::DesiredAttempt wish = Wish(100000);
  scheduler_.Desire({wish});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_RUNNING));
  const pid_t pid = static_cast<pid_t>(scheduler_.attempt().ranks(0).pid());
  wish.set_goal(v1::DesiredAttempt::GOAL_STOP);
  scheduler_.Desire({wish});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_ENDED));
  EXPECT_EQ(kill(pid, 0), -1);
  EXPECT_TRUE(files_->uploads().empty());
  unsetenv("GRAFT_FAKE_STEP_SECONDS");
}

TEST_F(AgentTest, WithoutAnAnswerEveryRankIsEndedAndTheNodeRegistersAgain) {
  setenv("GRAFT_FAKE_STEP_SECONDS", "0.02", 1);
  StartAgent();
  scheduler_.Desire({Wish(100000)});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_RUNNING));
  const pid_t pid = static_cast<pid_t>(scheduler_.attempt().ranks(0).pid());
  scheduler_.FallSilent();
  EXPECT_TRUE(scheduler_.WaitForRegistrations(2));
  EXPECT_EQ(kill(pid, 0), -1);
  unsetenv("GRAFT_FAKE_STEP_SECONDS");
}

// Each report of progress takes the place of the call before: the lease must live on what the
// scheduler had heard, not on answers that never come.
TEST_F(AgentTest, ReportsOfProgressDoNotStarveTheLease) {
  setenv("GRAFT_FAKE_STEP_SECONDS", "0.05", 1);
  StartAgent();
  scheduler_.Desire(
      {Wish(120)});  // 6 s of steps; the lease is 2 s and no call is answered meanwhile
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_ENDED));
  EXPECT_EQ(scheduler_.registrations(), 1u);
  unsetenv("GRAFT_FAKE_STEP_SECONDS");
}

TEST_F(AgentTest, AFailureOfTheTrainerIsToldWithItsReasonAndHint) {
  setenv("GRAFT_FAKE_FAIL_AT", "2=out_of_memory", 1);
  StartAgent();
  scheduler_.Desire({Wish(5)});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_FAILED));
  const v1::ActualAttempt report = scheduler_.attempt();
  EXPECT_EQ(report.reason(), graft::v1::REASON_OUT_OF_MEMORY);
  EXPECT_FALSE(report.retryable());
  EXPECT_THAT(report.message(), HasSubstr("unset GRAFT_FAKE_FAIL_AT"));
  // So is what it found odd before that, for the job and in its log.
  ASSERT_EQ(report.warnings_size(), 1);
  EXPECT_EQ(report.warnings(0).code(), "FAKE_FAILURE");
  EXPECT_EQ(report.warnings(0).message(), "step 2: the run is about to fail, as asked for");
  const std::vector<v1::AgentEvent> events = scheduler_.events();
  EXPECT_TRUE(std::any_of(events.begin(), events.end(), [](const v1::AgentEvent& event) {
    return event.log().severity() == graft::v1::LogEntry::SEVERITY_WARNING &&
           event.log().text() == "step 2: the run is about to fail, as asked for (FAKE_FAILURE)";
  }));
  unsetenv("GRAFT_FAKE_FAIL_AT");
}

TEST_F(AgentTest, AMissingInputFailsTheAttemptByName) {
  StartAgent();
  v1::DesiredAttempt wish = Wish(5);
  wish.mutable_inputs(0)->set_version("workspaces/w/filesets/missing/versions/1");
  scheduler_.Desire({wish});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_FAILED));
  EXPECT_THAT(scheduler_.attempt().message(), HasSubstr("filesets/missing/versions/1"));
}

TEST_F(AgentTest, AFinishedJobAnswersItsValidationRowsBeforeAndAfter) {
  for (const char* file : {"training.jsonl", "validation.jsonl"}) {
    ASSERT_THAT(WriteFileAtomically(JoinPath(JoinPath(folder_, "input"), file),
                                    "{\"prompt\":\"say it\",\"completion\":\"it\"}\n"),
                IsOk());
  }
  StartAgent();
  v1::DesiredAttempt wish = Wish(5);
  const std::string run = wish.run_json();
  wish.set_run_json(
      absl::StrCat(run.substr(0, run.size() - 1), R"(,"evaluation":{"report_rows":3}})"));
  v1::UploadGrant& grant = *wish.add_upload_grants();
  grant.set_session("report");
  grant.set_kind(v1::Upload::KIND_REPORT);
  scheduler_.Desire({wish});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_ENDED));
  const auto uploads = files_->uploads();
  const auto report = std::find(uploads.begin(), uploads.end(),
                                std::pair<std::string, std::string>("report", "report.html"));
  EXPECT_NE(report, uploads.end()) << "no report was uploaded";
}

TEST_F(AgentTest, ADiskWithoutRoomFailsTheAttemptWithNumbersBeforeAnythingIsFetched) {
  StartAgent();
  v1::DesiredAttempt wish = Wish(5);
  wish.mutable_inputs(0)->set_role(v1::Input::ROLE_MODEL);
  wish.mutable_inputs(0)->set_size_bytes(1LL << 60);
  scheduler_.Desire({wish});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_FAILED));
  EXPECT_EQ(scheduler_.attempt().reason(), graft::v1::REASON_DISK_FULL);
  EXPECT_THAT(scheduler_.attempt().message(), HasSubstr("1.5 times the base model's"));
  EXPECT_TRUE(scheduler_.attempt().retryable());
}

TEST_F(AgentTest, TheRowsAreReadInAProcessOfTheirOwn) {
  StartAgent();
  v1::DesiredAttempt wish = Wish(5);
  wish.set_kind(v1::DesiredAttempt::KIND_VALIDATE);
  wish.clear_local_ranks();
  scheduler_.Desire({wish});
  ASSERT_TRUE(scheduler_.WaitForState(v1::ActualAttempt::STATE_ENDED));
  EXPECT_EQ(scheduler_.attempt().validation().training_rows(), 1);
  EXPECT_EQ(scheduler_.attempt().validation().row_format(), graft::v1::DatasetSection::FORMAT_CHAT);
}

TEST_F(AgentTest, TwoAgentsDoNotShareAStateFolder) {
  StartAgent();
  Agent second(
      {.node_id = "n1", .state_folder = JoinPath(folder_, "state"), .cache_folder = folder_},
      clock_, scheduler_, *files_, *devices_);
  EXPECT_THAT(second.Start(),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another")));
}

}  // namespace
}  // namespace graft::agent
