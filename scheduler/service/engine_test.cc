#include "scheduler/service/engine.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "scheduler/service/records.h"
#include "scheduler/store/mem_store.h"

namespace graft::scheduler {
namespace {

class Output final : public EngineOutput {
 public:
  void OnCommitted(int64_t) override { ++commits; }
  void OnDesiredChanged(const std::string& node) override { desired.push_back(node); }
  void OnPublish(const PublishCall& call) override { calls.push_back(call); }
  void OnJobWritten(Turn& turn, const Job& job) override {
    turn.Put(Family::kRecords, "seen/" + job.request.key, "");
  }
  int commits = 0;
  std::vector<std::string> desired;
  std::vector<PublishCall> calls;
};

class EngineTest : public ::testing::Test {
 protected:
  void SetUp() override { Open(); }
  void Open() {
    store_ = std::make_unique<MemStore>(disk_);
    GRAFT_ASSERT_OK_AND_ASSIGN(engine_, Engine::Open(*store_, output_, {}, now_));
  }
  Engine::Request Submit(const std::string& id) {
    return {.work =
                [id](Turn& turn) {
                  turn.Audit({"ana", "CreateJob", id, ""});
                  return turn.Step(JobSubmitted{{.key = "w/" + id, .workspace = "w"}});
                },
            .done = [this](absl::Status status, int64_t) { answers_.push_back(status); }};
  }
  Engine::Request Register() {
    return {.work = [](Turn& turn) {
      return turn.Step(NodeRegistered{{.name = "n0", .devices = {{.kind = "cpu"}}}});
    }};
  }

  MemDisk disk_;
  Output output_;
  absl::Time now_ = absl::FromUnixSeconds(1000);
  std::unique_ptr<MemStore> store_;
  std::unique_ptr<Engine> engine_;
  std::vector<absl::Status> answers_;
};

TEST_F(EngineTest, AllThatWaitsSharesOneCommit) {
  const int before = output_.commits;
  engine_->Run({Submit("a"), Submit("b"), Submit("a")}, now_);
  EXPECT_EQ(output_.commits, before + 1);
  ASSERT_EQ(answers_.size(), 3);
  EXPECT_THAT(answers_[1], IsOk());
  EXPECT_THAT(answers_[2], StatusIs(absl::StatusCode::kAlreadyExists));
  EXPECT_THAT(store_->Get(Family::kRecords, "seen/w/b"), IsOk());
}

TEST_F(EngineTest, AFailedCommitIsNotAcknowledgedAndLeavesNothing) {
  disk_.next_fault = MemDisk::Fault::kRefuse;
  engine_->Run({Submit("a")}, now_);
  EXPECT_THAT(answers_[0], StatusIs(absl::StatusCode::kResourceExhausted));
  engine_->Run({Submit("b")}, now_);
  EXPECT_THAT(answers_[1], IsOk());
  EXPECT_EQ(engine_->core().FindJob("w/a"), nullptr);
}

TEST_F(EngineTest, AnOpenedEngineKnowsWhatTheLastOneDid) {
  engine_->Run({Register(), Submit("a")}, now_);
  ASSERT_EQ(engine_->core().FindJob("w/a")->state, JobState::kStarting);
  const int64_t epoch = engine_->core().FindNode("n0")->epoch;
  Open();
  const Job* job = engine_->core().FindJob("w/a");
  ASSERT_NE(job, nullptr);
  EXPECT_EQ(job->state, JobState::kStarting);
  EXPECT_EQ(job->attempt.ranks.size(), 1);
  engine_->Run({Register()}, now_);
  EXPECT_GT(engine_->core().FindNode("n0")->epoch, epoch);
}

TEST_F(EngineTest, TheAuditTrailShowsAnyChange) {
  engine_->Run({Submit("a"), Submit("b")}, now_);
  Open();
  engine_->Run({Submit("c")}, now_);
  EXPECT_THAT(CheckAuditChain(*store_), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(ListResult trail, store_->List({.family = Family::kAudit}));
  const Record second = trail.records[1];
  std::string edited = second.value;
  edited.back() = ' ';
  ASSERT_THAT(store_->Commit({.writes = {{Family::kAudit, second.key, edited}}}), IsOk());
  EXPECT_THAT(CheckAuditChain(*store_), StatusIs(absl::StatusCode::kDataLoss));
  ASSERT_THAT(store_->Commit({.writes = {{Family::kAudit, second.key, std::nullopt}}}), IsOk());
  EXPECT_THAT(CheckAuditChain(*store_), StatusIs(absl::StatusCode::kDataLoss));
}

TEST(RecordsTest, AJobReadsBackAsItWasWritten) {
  Job job;
  job.request = {.key = "w/j", .workspace = "w", .queue = "q", .priority = -3, .max_restarts = 2};
  job.request.gang.layout = {.tp = 2, .cp = 3, .dp = 4, .pp = 5, .ep = 1};
  job.request.gang.labels["zone"] = "a";
  job.state = JobState::kRunning;
  job.attempt = {.number = 2, .ranks = {{"n0", 1}, {"n1", 0}}};
  job.attempt.parts["n0"] = {.epoch = 7, .state = PartState::kRunning};
  job.created = absl::FromUnixSeconds(5);
  job.checkpoint = {"v", 9, "s"};
  GRAFT_ASSERT_OK_AND_ASSIGN(const Job read, DecodeJob(EncodeJob(job)));
  EXPECT_EQ(EncodeJob(read), EncodeJob(job));
  EXPECT_EQ(read.attempt.ranks[1].node, "n1");
  EXPECT_EQ(read.finished, absl::InfiniteFuture());
}

TEST(RecordsTest, ANewerVersionIsRefused) {
  EXPECT_THAT(DecodeJob(R"({"v":99})"), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(DecodeJob("nonsense"), StatusIs(absl::StatusCode::kDataLoss));
}

}  // namespace
}  // namespace graft::scheduler
