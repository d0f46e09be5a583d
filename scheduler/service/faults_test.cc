// What the services hold against a wall clock that jumps and requests that come several times, late
// and out of order.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <map>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "graft/v1/node.grpc.pb.h"
#include "scheduler/service/testing/test_server.h"
#include "scheduler/service/testing/test_worker.h"
#include "tests/support/tier.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
namespace agent = graft::agent::v1;

// The wall clock is what the test says; the other goes on as it does.
class JumpingClock final : public Clock {
 public:
  absl::Time Now() override { return real_.Now(); }
  absl::Time WallNow() override { return real_.WallNow() + absl::Microseconds(offset_us_.load()); }
  void Jump(absl::Duration offset) { offset_us_ = absl::ToInt64Microseconds(offset); }

 private:
  RealClock real_;
  std::atomic<int64_t> offset_us_{0};
};

class WallClockTest : public ServiceTest {
 protected:
  void SetUp() override {
    AddModel("default", "base");
    signer_ = TestSigner();
    GRAFT_ASSERT_OK_AND_ASSIGN(
        server_, StartTestServer({store_, jumping_, random_, files_, *signer_}, {.no_auth = true}));
    channel_ = ChannelTo(*server_);
    jobs_ = v1::JobService::NewStub(channel_);
  }
  void TearDown() override { server_.reset(); }  // before its clock
  v1::Job Get(const std::string& name) {
    v1::GetJobRequest get;
    get.set_name(name);
    v1::Job job;
    EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::GetJob, get, job), IsOk());
    return job;
  }
  JumpingClock jumping_;
};

TEST_F(WallClockTest, JumpsCostNoLeaseAndNoAttempt) {
  TestWorker worker(channel_);
  worker.Register();
  const std::string name = MakeJob("runs").name();
  agent::SynchronizeResponse desired;
  while (desired.attempts_size() == 0) desired = worker.Sync();
  auto& actual = *worker.report().add_attempts();
  actual.set_attempt(desired.attempts(0).attempt());
  actual.set_state(agent::ActualAttempt::STATE_RUNNING);
  worker.Sync();
  const absl::Duration year = absl::Hours(24 * 365);
  std::vector<absl::Duration> jumps = {absl::Hours(1), absl::Hours(-1), 10 * year, -10 * year};
  for (int i = 0; i < graft::testing::ByTier(50, 500, 5000); ++i) {
    jumps.push_back(absl::Seconds(static_cast<double>(random_.Uniform(1'000'000'000)) - 5e8));
  }
  for (const absl::Duration jump : jumps) {
    jumping_.Jump(jump);
    const agent::SynchronizeResponse still = worker.Sync();
    ASSERT_EQ(still.attempts_size(), 1) << jump;
    ASSERT_EQ(still.attempts(0).goal(), agent::DesiredAttempt::GOAL_RUN) << jump;
  }
  const v1::Job job = Get(name);
  EXPECT_EQ(job.status().state(), v1::JOB_STATE_RUNNING);
  EXPECT_EQ(job.status().attempt(), 1);
  EXPECT_EQ(job.status().restarts(), 0);
  std::printf(
      "{\"bench\":\"scheduler\",\"metric\":\"wall_clock_jumps\",\"jumps\":%zu,\"lost\":0}\n",
      jumps.size());
}

using RepeatedRequestsTest = ServiceTest;

// Each create is sent one to five times, all of them shuffled over eight clients.
TEST_F(RepeatedRequestsTest, EachHasOneEffect) {
  const int requests = graft::testing::ByTier(3000, 50'000, 500'000);
  SeededRandom random(5);
  std::vector<int> sends;
  int creates = 0;
  while (static_cast<int>(sends.size()) < requests) {
    const int times = 1 + static_cast<int>(random.Uniform(5));
    sends.insert(sends.end(), static_cast<size_t>(times), creates++);
  }
  for (size_t i = sends.size() - 1; i > 0; --i) std::swap(sends[i], sends[random.Uniform(i + 1)]);

  std::vector<std::map<int, std::set<std::string>>> answered(8);
  std::vector<std::thread> clients;
  std::atomic<size_t> next{0};
  for (auto& uids : answered) {
    clients.emplace_back([&] {
      for (size_t i = next++; i < sends.size(); i = next++) {
        v1::CreateJobRequest request = NewJob("");
        request.set_request_id(absl::StrCat("r", sends[i]));
        request.mutable_job()->set_description(absl::StrCat("number ", sends[i]));
        v1::Job job;
        EXPECT_THAT(Call(*jobs_, &v1::JobService::Stub::CreateJob, request, job), IsOk());
        uids[sends[i]].insert(job.uid());
      }
    });
  }
  for (std::thread& client : clients) client.join();

  std::map<int, std::set<std::string>> by_number;
  for (const auto& uids : answered) {
    for (const auto& [number, seen] : uids) by_number[number].insert(seen.begin(), seen.end());
  }
  int doubled = 0;
  for (const auto& [number, seen] : by_number) doubled += seen.size() == 1 ? 0 : 1;
  EXPECT_EQ(by_number.size(), static_cast<size_t>(creates));
  EXPECT_EQ(doubled, 0);
  int stored = 0;
  EXPECT_THAT(ForEachRecord(store_, {.prefix = "job/"},
                            [&](const Record&, int64_t) {
                              ++stored;
                              return absl::OkStatus();
                            }),
              IsOk());
  EXPECT_EQ(stored, creates);
  std::printf(
      "{\"bench\":\"scheduler\",\"metric\":\"repeated_requests\",\"requests\":%zu,"
      "\"effects\":%d,\"doubled\":%d}\n",
      sends.size(), stored, doubled);
}

}  // namespace
}  // namespace graft::scheduler
