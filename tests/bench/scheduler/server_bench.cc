// The scheduler's server: real gRPC, real RocksDB with a synced write-ahead log, access tokens
// checked with every call; client and server share the machine. The fileservice and the worker are
// simulated in this process. $1 is a folder on the disk that is to be measured, $2 the
// graft-scheduler program.
#include <time.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mutex.h"
#include "base/random.h"
#include "graft/v1/job.grpc.pb.h"
#include "graft/v1/model.pb.h"
#include "graft/v1/server.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/impl/codegen/client_callback.h"
#include "rpc/client.h"
#include "rpc/tls_material.h"
#include "scheduler/service/job_records.h"
#include "scheduler/service/resources.h"
#include "scheduler/service/scheduler_server.h"
#include "scheduler/service/testing/fake_files.h"
#include "scheduler/store/rocks_store.h"
#include "tests/bench/scheduler/simulated_workers.h"
#include "tests/support/program.h"
#include "tests/support/tier.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr int kClients = 64;
constexpr char kBase[] = "workspaces/default/models/base";

// --- Figures ---

absl::Duration CpuTime(clockid_t clock) {
  timespec used;
  GRAFT_CHECK(clock_gettime(clock, &used) == 0);
  return absl::DurationFromTimespec(used);
}

struct Latencies {
  std::vector<absl::Duration> all;
  absl::Duration wall;
  absl::Duration cpu = absl::ZeroDuration();  // of this process: both ends
  double cpu_us() const {
    return absl::ToDoubleMicroseconds(cpu) / static_cast<double>(all.size());
  }
  double rate() const { return static_cast<double>(all.size()) / absl::ToDoubleSeconds(wall); }
  double ms(double quantile) {
    std::sort(all.begin(), all.end());
    const auto at = static_cast<size_t>(quantile * static_cast<double>(all.size() - 1));
    return absl::ToDoubleMilliseconds(all[at]);
  }
};

bool all_ok = true;

// `most`: the bar is an upper bound. A bar of 0 is none.
void Report(const char* metric, double value, const char* unit, const char* peer, double peer_value,
            double bar, bool most = false) {
  const bool ok = bar == 0 || (most ? value <= bar : value >= bar);
  all_ok &= ok;
  absl::PrintF(
      "{\"bench\":\"scheduler\",\"metric\":\"%s\",\"value\":%.6g,\"unit\":\"%s\",\"peer\":\"%s\","
      "\"peer_value\":%.6g,\"ratio\":%.3f,\"bar\":%.6g,\"ok\":%s}\n",
      metric, value, unit, peer, peer_value, peer_value == 0 ? 0 : value / peer_value, bar,
      ok ? "true" : "false");
  std::fflush(stdout);
}

// Keeps `under_way` calls going until `count` have ended.
class Driver {
 public:
  // Starts call `i` and calls `done` when it has ended.
  using StartCall = std::function<void(int i, std::function<void()> done)>;
  Driver(int count, int under_way, StartCall start)
      : count_(count), under_way_(std::min(under_way, count)), start_(std::move(start)) {
    latencies_.resize(static_cast<size_t>(count));
  }
  Latencies Run() {
    const absl::Time begin = absl::Now();
    const absl::Duration cpu = CpuTime(CLOCK_PROCESS_CPUTIME_ID);
    for (int i = 0; i < under_way_; ++i) Next();
    done_.Wait();
    return {std::move(latencies_), absl::Now() - begin, CpuTime(CLOCK_PROCESS_CPUTIME_ID) - cpu};
  }

 private:
  void Next() {
    const int i = next_.fetch_add(1);
    if (i >= count_) return;
    const absl::Time begin = absl::Now();
    start_(i, [this, i, begin] {
      latencies_[static_cast<size_t>(i)] = absl::Now() - begin;
      Next();
      if (ended_.fetch_add(1) + 1 == count_) done_.Notify();
    });
  }
  const int count_;
  const int under_way_;
  const StartCall start_;
  std::vector<absl::Duration> latencies_;
  std::atomic<int> next_{0};
  std::atomic<int> ended_{0};
  Notification done_;
};

// --- The server ---

class Bench {
 public:
  explicit Bench(std::string folder) : folder_(std::move(folder)) {
    auto signer = rpc::TokenSigner::FromSeed(std::string(32, 's'));
    GRAFT_CHECK_OK(signer.status());
    signer_ = std::make_unique<rpc::TokenSigner>(*std::move(signer));
    tokens_ = std::make_unique<rpc::TokenSource>(clock_, [this] {
      auto token = signer_->Sign({.issuer = "graft-scheduler",
                                  .audience = "graft",
                                  .subject = "users/bench",
                                  .roles = {{std::string(rpc::kCluster), rpc::Role::kAdmin}},
                                  .jti = random_.Id(),
                                  .expires = clock_.WallNow() + absl::Hours(1)});
      return absl::StatusOr<rpc::AccessToken>(rpc::AccessToken{*token});
    });
  }

  void Open(const rpc::TlsIdentity* tls, const std::string& authority) {
    auto store = RocksStore::Open({.folder = folder_});
    GRAFT_CHECK_OK(store.status());
    store_ = *std::move(store);
    SchedulerOptions options{.attempt_secret = "secret", .data_key = std::string(32, 'd')};
    options.server.insecure = tls == nullptr;
    if (tls != nullptr) options.server.tls = *tls;
    auto server =
        SchedulerServer::Start(std::move(options), *store_, clock_, random_, files_, *signer_);
    GRAFT_CHECK_OK(server.status());
    server_ = *std::move(server);
    auto connection = rpc::Connection::Dial({.address = absl::StrCat("localhost:", server_->port()),
                                             .insecure = tls == nullptr,
                                             .server_ca = authority,
                                             .tokens = tokens_.get()});
    GRAFT_CHECK_OK(connection.status());
    connection_ = *std::move(connection);
    jobs_ = v1::JobService::NewStub(connection_->channel());
  }
  // As the program ends when it is asked to, or when it is killed: with all that the logs hold.
  enum class End { kAsked, kKilled };
  void Close(End end = End::kAsked) {
    jobs_.reset();
    connection_.reset();
    server_.reset();
    if (end == End::kAsked) GRAFT_CHECK_OK(store_->Flush());
    store_.reset();
  }

  void AddBase() {
    v1::Model model;
    model.set_name(kBase);
    model.set_fileset("workspaces/default/filesets/base/versions/1");
    model.set_state(v1::Model::STATE_READY);
    model.mutable_spec()->set_attention_heads(8);
    model.mutable_spec()->set_kv_heads(8);
    model.mutable_spec()->set_context_length(4096);
    auto store = RocksStore::Open({.folder = folder_});
    GRAFT_CHECK_OK(store.status());
    GRAFT_CHECK_OK((*store)
                       ->Commit({.writes = {{Family::kRecords, ModelRecordKey("default", "base"),
                                             EncodeResource(model)}}})
                       .status());
  }

  static v1::CreateJobRequest NewJob(const std::string& id) {
    v1::CreateJobRequest request;
    request.set_parent("workspaces/default");
    request.set_job_id(id);
    request.set_request_id(id);
    auto& spec = *request.mutable_job()->mutable_spec();
    spec.mutable_model()->set_base(kBase);
    spec.mutable_dataset()->add_training()->set_fileset("workspaces/default/filesets/rows");
    return request;
  }

  Latencies CreateJobs(int count) {
    const int first = made_;
    made_ += count;
    return Driver(count, kClients,
                  [this, first](int i, std::function<void()> done) {
                    Create(NewJob(absl::StrCat("job-", first + i)), std::move(done));
                  })
        .Run();
  }

  void Create(v1::CreateJobRequest request, std::function<void()> done) {
    struct Pending {
      grpc::ClientContext context;
      v1::CreateJobRequest request;
      v1::Job response;
    };
    auto* pending = new Pending;
    pending->request = std::move(request);
    GRAFT_CHECK_OK(connection_->Prepare(pending->context, {.deadline = absl::Seconds(120)}));
    jobs_->async()->CreateJob(&pending->context, &pending->request, &pending->response,
                              [pending, done](const grpc::Status& status) {
                                GRAFT_CHECK_OK(rpc::FromGrpcStatus(status));
                                delete pending;
                                done();
                              });
  }

  Latencies GetJobs(int count) {
    return Driver(
               count, kClients,
               [this](int i, std::function<void()> done) {
                 struct Pending {
                   grpc::ClientContext context;
                   v1::GetJobRequest request;
                   v1::Job response;
                 };
                 auto* pending = new Pending;
                 pending->request.set_name(absl::StrCat("workspaces/default/jobs/job-", i % made_));
                 GRAFT_CHECK_OK(
                     connection_->Prepare(pending->context, {.deadline = absl::Seconds(120)}));
                 jobs_->async()->GetJob(&pending->context, &pending->request, &pending->response,
                                        [pending, done](const grpc::Status& status) {
                                          GRAFT_CHECK_OK(rpc::FromGrpcStatus(status));
                                          delete pending;
                                          done();
                                        });
               })
        .Run();
  }

  Latencies Lists(int count, const std::string& filter) {
    Latencies result;
    const absl::Time begin = absl::Now();
    for (int i = 0; i < count; ++i) {
      v1::ListJobsRequest request;
      request.set_parent("workspaces/default");
      request.set_page_size(100);
      request.set_filter(filter);
      const absl::Time start = absl::Now();
      auto page =
          connection_->Call<v1::ListJobsResponse>(*jobs_, &v1::JobService::Stub::ListJobs, request);
      GRAFT_CHECK_OK(page.status());
      GRAFT_CHECK(page->jobs_size() == std::min(100, made_)) << "a short page";
      result.all.push_back(absl::Now() - start);
    }
    result.wall = absl::Now() - begin;
    return result;
  }

  Latencies SubmitToStart(int count);
  absl::Duration Burst(int nodes, int jobs);

  int made() const { return made_; }
  rpc::Connection& connection() { return *connection_; }

 private:
  const std::string folder_;
  RealClock clock_;
  SecureRandom random_;
  FakeFiles files_;
  std::unique_ptr<rpc::TokenSigner> signer_;
  std::unique_ptr<rpc::TokenSource> tokens_;
  std::unique_ptr<RocksStore> store_;
  std::unique_ptr<SchedulerServer> server_;
  std::unique_ptr<rpc::Connection> connection_;
  std::unique_ptr<v1::JobService::Stub> jobs_;
  int made_ = 0;
};

// From the call of CreateJob to the moment in which the worker has been told of the attempt.
Latencies Bench::SubmitToStart(int count) {
  SimulatedWorker worker(*connection_);
  Latencies result;
  const absl::Time begin = absl::Now();
  for (int i = 0; i < count; ++i) {
    const std::string id = absl::StrCat("start-", i);
    const absl::Time start = absl::Now();
    const auto job =
        connection_->Call<v1::Job>(*jobs_, &v1::JobService::Stub::CreateJob, NewJob(id));
    GRAFT_CHECK_OK(job.status());
    worker.WaitFor(job->name());
    result.all.push_back(absl::Now() - start);
    worker.EndAll();
  }
  result.wall = absl::Now() - begin;
  return result;
}

// 1,000 jobs of 8 GPUs are created at once over 512 nodes of 8; each ends as soon as its node has
// been told of it. From the first call to the moment in which the last node was told.
absl::Duration Bench::Burst(int nodes, int jobs) {
  SimulatedCluster cluster(*connection_, nodes, jobs);
  const absl::Time begin = absl::Now();
  Driver(jobs, kClients, [this](int i, std::function<void()> done) {
    v1::CreateJobRequest request = NewJob(absl::StrCat("burst-", i));
    request.mutable_job()->mutable_spec()->mutable_parallelism()->set_gpus_per_node(8);
    Create(std::move(request), std::move(done));
  }).Run();
  cluster.WaitForAll();
  const absl::Duration took = absl::Now() - begin;
  cluster.Stop();
  return took;
}

// --- The program by itself ---

int64_t RssBytes(pid_t pid) {
  const auto text = ReadFile(absl::StrCat("/proc/", pid, "/status"), 1 << 16);
  GRAFT_CHECK_OK(text.status());
  const size_t at = text->find("VmRSS:");
  int64_t kilobytes = 0;
  const std::vector<std::string> words =
      absl::StrSplit(text->substr(at + 6, 60), ' ', absl::SkipWhitespace());
  GRAFT_CHECK(
      absl::SimpleAtoi(words[0].find('\t') == 0 ? words[0].substr(1) : words[0], &kilobytes))
      << "no VmRSS";
  return kilobytes * 1024;
}

absl::Duration CpuOf(pid_t pid) {
  clockid_t clock;
  GRAFT_CHECK(clock_getcpuclockid(pid, &clock) == 0);
  return CpuTime(clock);
}

struct Started {
  absl::Duration ready;
  absl::Duration cpu;  // of all its threads until then
  int64_t rss = 0;
};
// Until it answers a call.
Started StartProgram(const std::string& program, const std::string& folder) {
  const std::string port_file = JoinPath(folder, "port");
  const absl::Time begin = absl::Now();
  auto started_program =
      testing::Program::Start({program, "--data", folder, "--insecure", "--no-auth", "--listen",
                               "127.0.0.1:0", "--port-file", port_file},
                              port_file);
  GRAFT_CHECK_OK(started_program.status());
  testing::Program& running = **started_program;
  auto connection = rpc::Connection::Dial(
      {.address = absl::StrCat("127.0.0.1:", running.port()), .insecure = true});
  const auto jobs = v1::JobService::NewStub((*connection)->channel());
  v1::ListJobsRequest request;
  request.set_parent("workspaces/default");
  request.set_page_size(1);
  GRAFT_CHECK_OK((*connection)
                     ->Call<v1::ListJobsResponse>(*jobs, &v1::JobService::Stub::ListJobs, request,
                                                  {.idempotent = true})
                     .status());
  Started started{.ready = absl::Now() - begin, .cpu = CpuOf(running.pid())};
  absl::SleepFor(absl::Milliseconds(500));  // at rest
  started.rss = RssBytes(running.pid());
  running.End(SIGTERM);
  return started;
}

// Of some rounds the one with the median rate: others use the machine too.
Latencies MedianOfGets(Bench& bench) {
  bench.GetJobs(2000);
  std::vector<Latencies> rounds;
  for (int i = 0; i < 5; ++i) {
    rounds.push_back(bench.GetJobs(graft::testing::ByTier(20000, 60000, 400000)));
  }
  std::sort(rounds.begin(), rounds.end(),
            [](const Latencies& a, const Latencies& b) { return a.rate() < b.rate(); });
  return std::move(rounds[2]);
}

int Main(const std::string& folder, const std::string& program) {
  const std::string empty = JoinPath(folder, "empty");
  GRAFT_CHECK_OK(MakeDirectories(empty, 0700));
  const Started fresh = StartProgram(program, empty);
  Report("ready_empty", absl::ToDoubleSeconds(fresh.ready), "s", "none", 0, 1, true);
  Report("rss_empty", static_cast<double>(fresh.rss) / (1 << 20), "MiB", "slurmctld 22.05", 63, 60,
         true);

  const std::string data = JoinPath(folder, "data");
  GRAFT_CHECK_OK(MakeDirectories(data, 0700));
  Bench bench(data);
  bench.AddBase();
  bench.Open(nullptr, "");
  bench.CreateJobs(500);  // connects and warms up
  Latencies creates = bench.CreateJobs(graft::testing::ByTier(5000, 20000, 100000));
  Report("durable_creates", creates.rate(), "jobs/s", "NeMo Platform (quiet, best)", 78, 2000);
  Report("durable_creates_p99", creates.ms(0.99), "ms", "none", 0, 50, true);
  // What a call costs both ends: that does not depend on who else wants the processor.
  Report("durable_create_cpu", creates.cpu_us(), "us", "none", 0, 0);
  Latencies gets = MedianOfGets(bench);
  Report("get_plaintext_token", gets.rate(), "calls/s", "NeMo Platform (quiet, best)", 142, 20000);
  Report("get_plaintext_cpu", gets.cpu_us(), "us", "none", 0, 0);
  bench.Close();

  const absl::Time from = absl::Now() - absl::Hours(1);
  const auto authority = rpc::MakeAuthority({"bench", {}, from});
  const auto certificate = rpc::MakeCertificate(*authority, {"server", {"localhost"}, from});
  GRAFT_CHECK_OK(certificate.status());
  const rpc::TlsIdentity identity{certificate->certificate, certificate->private_key};
  bench.Open(&identity, authority->certificate);
  Latencies tls = MedianOfGets(bench);
  Report("get_tls_token", tls.rate(), "calls/s", "NeMo Platform (quiet, best)", 142, 12000);
  Report("get_tls_cpu", tls.cpu_us(), "us", "none", 0, 0);
  bench.Close();

  const std::string idle = JoinPath(folder, "idle");
  GRAFT_CHECK_OK(MakeDirectories(idle, 0700));
  Bench cluster(idle);
  cluster.AddBase();
  cluster.Open(nullptr, "");
  Latencies starts = cluster.SubmitToStart(graft::testing::ByTier(100, 300, 1000));
  Report("submit_to_start_p50", starts.ms(0.5), "ms", "Slurm 22.05, 64 nodes", 470, 50, true);
  Report("submit_to_start_p99", starts.ms(0.99), "ms", "none", 0, 200, true);
  cluster.Close();

  const std::string burst = JoinPath(folder, "burst");
  GRAFT_CHECK_OK(MakeDirectories(burst, 0700));
  Bench many(burst);
  many.AddBase();
  many.Open(nullptr, "");
  const absl::Duration last_start = many.Burst(512, 1000);
  Report("burst_1000_on_512_nodes_last_start", absl::ToDoubleSeconds(last_start), "s",
         "Slurm 22.05, 512 nodes", 39.6, 5, true);
  many.Close();
  const std::string few_nodes = JoinPath(folder, "few");
  GRAFT_CHECK_OK(MakeDirectories(few_nodes, 0700));
  Bench few(few_nodes);
  few.AddBase();
  few.Open(nullptr, "");
  Report("burst_100_on_16_nodes_last_start", absl::ToDoubleMilliseconds(few.Burst(16, 100)), "ms",
         "none", 0, 0);
  few.Close();

  bench.Open(nullptr, "");
  const int stored = 100'000;
  if (bench.made() < stored) bench.CreateJobs(stored - bench.made());
  Latencies lists = bench.Lists(200, "");
  Report("list_100_of_100000", lists.ms(0.5), "ms", "NeMo Platform (quiet, best)", 1000.0 / 48, 5,
         true);
  Report("list_100_of_100000_p99", lists.ms(0.99), "ms", "none", 0, 0);
  Latencies filtered = bench.Lists(50, "status.state = QUEUED AND tuning = LORA");
  Report("list_100_of_100000_filtered", filtered.ms(0.5), "ms", "none", 0, 0);
  bench.Close(Bench::End::kKilled);
  const Started killed = StartProgram(program, data);
  Report("ready_100000_jobs_after_a_kill", absl::ToDoubleSeconds(killed.ready), "s", "none", 0, 2,
         true);
  const Started full = StartProgram(program, data);
  Report("ready_100000_jobs_cpu", absl::ToDoubleSeconds(full.cpu), "s", "none", 0, 0);
  Report("ready_100000_jobs", absl::ToDoubleSeconds(full.ready), "s", "none", 0, 2, true);
  Report("rss_100000_jobs", static_cast<double>(full.rss) / (1 << 20), "MiB", "none", 0, 500, true);

  absl::PrintF("\n%-36s %10.0f /s   p50 %7.2f ms   p99 %7.2f ms\n", "durable creates, 64 clients",
               creates.rate(), creates.ms(0.5), creates.ms(0.99));
  absl::PrintF("%-36s %10.0f /s   p50 %7.2f ms   p99 %7.2f ms\n", "get, plaintext, token",
               gets.rate(), gets.ms(0.5), gets.ms(0.99));
  absl::PrintF("%-36s %10.0f /s   p50 %7.2f ms   p99 %7.2f ms\n", "get, TLS, token", tls.rate(),
               tls.ms(0.5), tls.ms(0.99));
  absl::PrintF("%-36s %10s      p50 %7.2f ms   p99 %7.2f ms\n", "list 100 of 100,000", "",
               lists.ms(0.5), lists.ms(0.99));
  absl::PrintF("%-36s %10s      p50 %7.2f ms   p99 %7.2f ms\n", "submit to start", "",
               starts.ms(0.5), starts.ms(0.99));
  absl::PrintF(
      "ready: empty %.2f s, %.0f MiB; 100,000 jobs %.2f s, after a kill %.2f s, %.0f MiB\n",
      absl::ToDoubleSeconds(fresh.ready), static_cast<double>(fresh.rss) / (1 << 20),
      absl::ToDoubleSeconds(full.ready), absl::ToDoubleSeconds(killed.ready),
      static_cast<double>(full.rss) / (1 << 20));
  return all_ok ? 0 : 1;
}

}  // namespace
}  // namespace graft::scheduler

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s FOLDER GRAFT-SCHEDULER\n", argv[0]);
    return 2;
  }
  return graft::scheduler::Main(argv[1], argv[2]);
}
