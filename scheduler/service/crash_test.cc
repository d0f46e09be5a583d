// The real program is killed with SIGKILL again and again while clients submit jobs: what was
// acknowledged is there afterwards, and what was sent again after a lost answer is there once.
#include <atomic>
#include <cstdio>
#include <filesystem>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/file.h"
#include "graft/v1/fileset.pb.h"
#include "rpc/client.h"
#include "rpc/server.h"
#include "rpc/service.h"
#include "scheduler/service/testing/test_server.h"
#include "scheduler/store/rocks_store.h"
#include "tests/support/program.h"
#include "tests/support/tier.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr int kClients = 4;
constexpr absl::Duration kBetweenSubmits = absl::Milliseconds(20);  // of a client: 200/s in all

// As much of a fileservice as creating jobs needs.
class StandInFiles {
 public:
  absl::StatusOr<v1::FileSetVersion> GetFileSetVersion(
      const rpc::Call&, const v1::GetFileSetVersionRequest& request) {
    v1::FileSetVersion version;
    version.set_name(
        absl::StrCat(request.name().substr(0, request.name().find("/versions/")), "/versions/1"));
    version.set_digest("sha256:00");
    return version;
  }
  absl::StatusOr<v1::Pin> PutPin(const rpc::Call&, const v1::PutPinRequest& request) {
    return request.pin();
  }
};

class EveryoneIsTheScheduler final : public rpc::Authenticator {
 public:
  absl::StatusOr<std::shared_ptr<const rpc::Identity>> Authenticate(
      const rpc::Credentials&) override {
    auto identity = std::make_shared<rpc::Identity>();
    identity->kind = rpc::IdentityKind::kScheduler;
    identity->subject = "scheduler";
    identity->roles[std::string(rpc::kCluster)] = rpc::Role::kAdmin;
    return identity;
  }
};

// One life of the program.
class Life {
 public:
  Life(const std::string& folder, const std::string& fileservice) {
    const std::string port_file = folder + "/port";
    auto program = testing::Program::Start(
        {GRAFT_SCHEDULER_PROGRAM, "--data", folder, "--insecure", "--no-auth", "--listen",
         "127.0.0.1:0", "--port-file", port_file, "--fileservice", fileservice},
        port_file);
    GRAFT_CHECK_OK(program.status());
    program_ = *std::move(program);
    auto connection =
        rpc::Connection::Dial({.address = absl::StrCat("127.0.0.1:", program_->port()),
                               .insecure = true,
                               .own_socket = true});
    connection_ = *std::move(connection);
    jobs_ = v1::JobService::NewStub(connection_->channel());
  }
  void Kill() { program_->Kill(); }
  absl::StatusOr<v1::Job> Submit(int number) {
    v1::CreateJobRequest request;
    request.set_parent("workspaces/default");
    request.set_request_id(absl::StrCat("r", number));
    (*request.mutable_job()->mutable_labels())["number"] = absl::StrCat(number);
    auto& spec = *request.mutable_job()->mutable_spec();
    spec.mutable_model()->set_base("workspaces/default/models/base");
    spec.mutable_dataset()->add_training()->set_fileset("workspaces/default/filesets/rows");
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::Job job;
    const grpc::Status status = jobs_->CreateJob(&context, request, &job);
    if (!status.ok()) return rpc::FromGrpcStatus(status);
    return job;
  }
  std::vector<v1::Job> All() {
    std::vector<v1::Job> all;
    v1::ListJobsRequest request;
    request.set_parent("workspaces/default");
    request.set_page_size(1000);
    do {
      auto page = connection_->Call<v1::ListJobsResponse>(*jobs_, &v1::JobService::Stub::ListJobs,
                                                          request, {.idempotent = true});
      EXPECT_THAT(page, IsOk());
      if (!page.ok()) return all;
      all.insert(all.end(), page->jobs().begin(), page->jobs().end());
      request.set_page_token(page->next_page_token());
    } while (!request.page_token().empty());
    return all;
  }

 private:
  std::unique_ptr<testing::Program> program_;
  std::unique_ptr<rpc::Connection> connection_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
};

// What one client knows: a number that was not acknowledged is sent again in the next life.
struct Client {
  int next = 0;
  std::map<int, std::string> acked;  // number, uid
};

// How many submits of a life were acknowledged.
class Acks {
 public:
  void Count() {
    MutexLock lock(mu_);
    ++count_;
    changed_.SignalAll();
  }
  void WaitFor(int count) {
    MutexLock lock(mu_);
    while (count_ < count) changed_.Wait(mu_);
  }

 private:
  Mutex mu_;
  CondVar changed_;
  int count_ GRAFT_GUARDED_BY(mu_) = 0;
};

void SubmitUntil(const std::atomic<bool>& stop, Life& life, Client& client, Acks& acks) {
  while (!stop) {
    const auto job = life.Submit(client.next);
    if (job.ok()) {
      client.acked[client.next] = job->uid();
      client.next += kClients;
      acks.Count();
    } else if (!absl::IsUnavailable(job.status()) && !absl::IsCancelled(job.status())) {
      ADD_FAILURE() << job.status();
      return;
    }
    absl::SleepFor(kBetweenSubmits);  // the pace of the load; nothing waits for it
  }
}

TEST(CrashTest, KilledUnderLoadNothingAcknowledgedIsLostOrDoubled) {
  const std::string folder = absl::StrCat(::testing::TempDir(), "/crash-", SecureRandom().Id(12));
  ASSERT_THAT(MakeDirectories(folder, 0700), IsOk());
  {
    v1::Model model;
    model.set_name("workspaces/default/models/base");
    model.set_fileset("workspaces/default/filesets/base/versions/1");
    model.set_state(v1::Model::STATE_READY);
    GRAFT_ASSERT_OK_AND_ASSIGN(const auto store, RocksStore::Open({.folder = folder}));
    ASSERT_THAT(store->Commit({.writes = {{Family::kRecords, ModelRecordKey("default", "base"),
                                           EncodeResource(model)}}}),
                IsOk());
  }
  StandInFiles files;
  EveryoneIsTheScheduler everyone;
  std::vector<rpc::Service> services;
  services.emplace_back("graft.v1.FileSetService");
  services.back()
      .Unary("GetFileSetVersion", &files, &StandInFiles::GetFileSetVersion)
      .Unary("PutPin", &files, &StandInFiles::PutPin);
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const auto fileservice,
      rpc::Server::Start({.insecure = true, .authenticator = &everyone}, std::move(services)));
  const std::string address = absl::StrCat("127.0.0.1:", fileservice->port());

  std::vector<Client> clients(kClients);
  for (int i = 0; i < kClients; ++i) clients[static_cast<size_t>(i)].next = i;
  SeededRandom random(1);
  const int kills = graft::testing::ByTier(10, 100, 500);
  for (int i = 0; i < kills && !::testing::Test::HasFailure(); ++i) {
    std::atomic<bool> stop{false};
    Life life(folder, address);
    Acks acks;
    std::vector<std::thread> threads;
    threads.reserve(kClients);
    for (Client& client : clients) {
      threads.emplace_back([&] { SubmitUntil(stop, life, client, acks); });
    }
    // At any point of the submits that are under way.
    acks.WaitFor(1 + static_cast<int>(random.Uniform(60)));
    life.Kill();
    stop = true;
    for (std::thread& thread : threads) thread.join();
  }

  Life last(folder, address);
  std::map<std::string, std::string> by_number;  // label, uid
  int doubled = 0;
  for (const v1::Job& job : last.All()) {
    doubled += by_number.emplace(job.labels().at("number"), job.uid()).second ? 0 : 1;
  }
  int acked = 0;
  int lost = 0;
  for (const Client& client : clients) {
    for (const auto& [number, uid] : client.acked) {
      ++acked;
      const auto found = by_number.find(absl::StrCat(number));
      lost += found == by_number.end() || found->second != uid ? 1 : 0;
    }
  }
  EXPECT_EQ(lost, 0);
  EXPECT_EQ(doubled, 0);
  EXPECT_GT(acked, kills);
  std::printf(
      "{\"bench\":\"scheduler\",\"metric\":\"lost_or_doubled_by_%d_kills\",\"value\":%d,"
      "\"unit\":\"of %d acknowledged\",\"peer\":\"Slurm 22.05, 5 kills, of "
      "500\",\"peer_value\":495,"
      "\"ratio\":%.3f,\"bar\":0,\"ok\":%s}\n",
      kills, lost + doubled, acked, (lost + doubled) / 495.0,
      lost + doubled == 0 ? "true" : "false");
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace graft::scheduler
