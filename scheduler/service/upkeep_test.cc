// What is swept away in time and what is not, and pins that are put right.
#include "scheduler/service/upkeep.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "scheduler/service/engine.h"
#include "scheduler/service/pins.h"
#include "scheduler/service/testing/test_server.h"

namespace graft::scheduler {
namespace {

class Silent final : public EngineOutput {
 public:
  void OnCommitted(int64_t) override {}
  void OnDesiredChanged(const std::string&) override {}
  void OnPublish(const PublishCall&) override {}
  void OnJobWritten(Turn&, const Job&) override {}
};

// The services' context without services, on a clock that the test moves.
class UpkeepTest : public ::testing::Test {
 protected:
  void SetUp() override {
    GRAFT_ASSERT_OK_AND_ASSIGN(control_, Control::Start(store_, clock_, output_, {}));
    background_ = std::make_unique<Background>(clock_, 1);
    watchers_ = std::make_unique<Watchers>(*background_, store_);
    context_ = std::make_unique<const ServiceContext>(
        ServiceContext{*control_, store_, clock_, random_, files_, *background_, "cluster",
                       "127.0.0.1:1", tokens_, *watchers_, std::string(32, 'd')});
  }
  void TearDown() override {
    background_->Stop();
    control_->Stop();
  }
  // Writes in a turn and waits for its commit; also for all that was submitted before.
  void Write(const std::string& key, std::string value, Family family = Family::kRecords) {
    Notification done;
    control_->Submit({.work =
                          [&](Turn& turn) {
                            turn.Put(family, key, std::move(value));
                            return absl::OkStatus();
                          },
                      .done = [&](absl::Status, int64_t) { done.Notify(); }});
    done.Wait();
  }
  void Sweep(Upkeep::Options options = {}) {
    Upkeep(*context_, std::move(options)).Sweep();
    Write("fence", "");
  }
  bool Has(const std::string& key, Family family = Family::kRecords) {
    return store_.Get(family, key).ok();
  }

  MemDisk disk_;
  MemStore store_{disk_};
  FakeClock clock_;
  SecureRandom random_;
  FakeFiles files_;
  Silent output_;
  rpc::PageTokenCodec tokens_{"key"};
  std::unique_ptr<Control> control_;
  std::unique_ptr<Background> background_;
  std::unique_ptr<Watchers> watchers_;
  std::unique_ptr<const ServiceContext> context_;
};

TEST_F(UpkeepTest, ChangesAreKeptForTheHorizonAndNoLonger) {
  Write("a", "1");
  const int64_t old = store_.revision();
  Sweep();
  EXPECT_THAT(store_.Changes(old - 1, 10), IsOk());
  clock_.Advance(kWatchHorizon + absl::Minutes(1));
  Write("b", "1");
  const int64_t young = store_.revision();
  Sweep();
  EXPECT_THAT(store_.Changes(old - 1, 10), StatusIs(absl::StatusCode::kOutOfRange));
  EXPECT_THAT(store_.Changes(young - 1, 10), IsOk());
}

TEST_F(UpkeepTest, NoMoreChangesAreKeptThanThereIsRoomFor) {
  for (int i = 0; i < 20; ++i) Write(absl::StrCat("k", i), "1");
  Sweep({.max_changes = 5});
  EXPECT_GE(store_.compacted(), 10);
}

TEST_F(UpkeepTest, DeletedJobsGoAfterTheirTime) {
  const auto key = [&](absl::Duration ago, const std::string& job) {
    return absl::StrCat("job.deleted/",
                        absl::StrFormat("%012d", absl::ToUnixSeconds(clock_.Now() - ago)), "/w/",
                        job);
  };
  const std::string old = key(kDeletedKept + absl::Hours(1), "old");
  const std::string young = key(kDeletedKept - absl::Hours(1), "young");
  Write(old, "x");
  Write(young, "x");
  Sweep();
  EXPECT_FALSE(Has(old));
  EXPECT_TRUE(Has(young));
}

TEST_F(UpkeepTest, DamagedOrOldRequestIdsAreForgotten) {
  Write("someone\nmethod\nid", "not what is remembered", Family::kIdempotency);
  Sweep();
  EXPECT_FALSE(Has("someone\nmethod\nid", Family::kIdempotency));
}

TEST_F(UpkeepTest, VersionsThatWereGivenUpAreDeletedOnceNobodyElseHoldsThem) {
  const std::string mine = "workspaces/w/filesets/a-checkpoints/versions/1";
  const std::string shared = "workspaces/w/filesets/a-checkpoints/versions/2";
  const std::string job = "workspaces/w/jobs/a", fork = "workspaces/w/jobs/fork";
  const auto give_up = [&](const std::string& version, const std::string& holder) {
    control_->Submit({.work = [version, holder](Turn& turn) {
      GiveUpVersion(turn, version, holder);
      return absl::OkStatus();
    }});
    Write("fence", "");
  };
  files_.pins = {{mine, job, clock_.WallNow()},
                 {shared, job, clock_.WallNow()},
                 {shared, fork, clock_.WallNow()}};
  give_up(mine, job);
  give_up(shared, job);
  ReconcilePins(*context_);
  EXPECT_EQ(files_.deleted, (std::set<std::string>{mine}));
  ASSERT_EQ(files_.pins.size(), 1);
  EXPECT_EQ(files_.pins[0].holder, fork);
  give_up(shared, fork);
  ReconcilePins(*context_);
  EXPECT_EQ(files_.deleted, (std::set<std::string>{mine, shared}));
  files_.deleted.clear();
  Write("fence", "");
  ReconcilePins(*context_);
  EXPECT_TRUE(files_.deleted.empty()) << "once";
}

TEST_F(UpkeepTest, PinsFollowTheRecords) {
  graft::v1::Model model;
  model.set_name("workspaces/w/models/base");
  model.set_fileset("workspaces/w/filesets/base/versions/1");
  Write(ModelRecordKey("w", "base"), EncodeResource(model));
  const absl::Time long_ago = clock_.WallNow() - absl::Hours(5);
  files_.pins = {
      {"workspaces/w/filesets/old/versions/1", "workspaces/w/models/gone", long_ago},
      {"workspaces/w/filesets/new/versions/1", "workspaces/w/models/soon", clock_.WallNow()}};
  ReconcilePins(*context_);
  std::set<std::string> pinned;
  for (const auto& pin : files_.pins) pinned.insert(pin.version);
  EXPECT_EQ(pinned, (std::set<std::string>{"workspaces/w/filesets/base/versions/1",
                                           "workspaces/w/filesets/new/versions/1"}))
      << "what nothing needs goes, but not while its record may be on the way";
}

}  // namespace
}  // namespace graft::scheduler
