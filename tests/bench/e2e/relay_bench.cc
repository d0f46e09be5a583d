// What 8 ranks report, on its real way: the agent's spool on disk, a gRPC stream, the scheduler's
// RocksDB. Once at the rate that must be carried, once as fast as it goes. Every event is counted
// in the store afterwards.
//
// Ceiling: an event is one append to the spool (one write call, about 2 us), one record of 60 bytes
// in a batch of 256 KiB, and one unsynced WAL append (about 3 us): some 150,000 a second of one
// core.
#include <unistd.h>

#include <atomic>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "graft/agent/v1/agent.pb.h"
#include "graft/v1/node.grpc.pb.h"
#include "rpc/client.h"
#include "scheduler/service/events_stream.h"
#include "scheduler/service/scheduler_server.h"
#include "scheduler/store/rocks_store.h"
#include "worker/agent/event_relay.h"
#include "worker/agent/grpc_links.h"
#include "worker/agent/trainer_lines.h"

namespace graft {
namespace {

namespace agent = graft::agent;
namespace v1 = graft::agent::v1;

constexpr int kRanks = 8;
constexpr double kBar = 10'000;  // events a second
constexpr int kSeconds = 5;

// A scheduler over RocksDB and a worker's link to it.
class Way {
 public:
  explicit Way(const std::string& folder) : folder_(folder) {
    store_ = *scheduler::RocksStore::Open({.folder = JoinPath(folder, "store")});
    signer_ = std::make_unique<rpc::TokenSigner>(*rpc::TokenSigner::FromSeed(std::string(32, 's')));
    files_ = scheduler::NoFileservice();
    scheduler::SchedulerOptions options{
        .no_auth = true, .attempt_secret = std::string(32, 'a'), .data_key = std::string(32, 'd')};
    options.server.insecure = true;
    server_ = *scheduler::SchedulerServer::Start(std::move(options), *store_, clock_, random_,
                                                 *files_, *signer_);
    const std::string address = absl::StrCat("127.0.0.1:", server_->port());
    link_ = *agent::GrpcSchedulerLink::Connect({.address = address, .insecure = true});
    Register(address);
  }

  agent::SchedulerLink& link() { return *link_; }
  const std::string& node() const { return node_; }
  int64_t epoch() const { return epoch_; }
  int64_t Stored(const std::string& job) const {
    const std::string prefix = scheduler::SeriesPrefix(job);
    const auto entries = store_->Scan(scheduler::Series::kMetrics, prefix,
                                      scheduler::AfterPrefix(prefix), 100'000'000);
    GRAFT_CHECK_OK(entries.status());
    return static_cast<int64_t>(entries->size());
  }

 private:
  void Register(const std::string& address) {
    const auto connection = *rpc::Connection::Dial({.address = address, .insecure = true});
    const auto nodes = graft::v1::NodeService::NewStub(connection->channel());
    const auto token = connection->Call<graft::v1::CreateJoinTokenResponse>(
        *nodes, &graft::v1::NodeService::Stub::CreateJoinToken,
        graft::v1::CreateJoinTokenRequest());
    GRAFT_CHECK_OK(token.status());
    v1::RegisterRequest request;
    request.add_protocol_versions(1);
    request.set_node_id("n0");
    request.set_join_token(token->token());
    const auto registered = link_->Register(request, absl::Seconds(10));
    GRAFT_CHECK_OK(registered.status());
    link_->SetAccessToken(registered->access_token());
    node_ = registered->node();
    epoch_ = registered->epoch();
  }

  const std::string folder_;
  RealClock clock_;
  SecureRandom random_;
  std::unique_ptr<scheduler::RocksStore> store_;
  std::unique_ptr<rpc::TokenSigner> signer_;
  std::unique_ptr<scheduler::FileserviceLink> files_;
  std::unique_ptr<scheduler::SchedulerServer> server_;
  std::unique_ptr<agent::GrpcSchedulerLink> link_;
  std::string node_;
  int64_t epoch_ = 0;
};

v1::AgentEvent Event(int64_t step) {
  v1::AgentEvent event;
  v1::MetricRow& row = *event.mutable_metrics();
  row.set_step(step);
  row.set_time_ms(absl::ToUnixMillis(absl::Now()));
  for (uint32_t metric = 0; metric < 4; ++metric) {
    row.add_names(metric);
    row.add_values(0.5 * static_cast<double>(step));
  }
  return event;
}

// Sends `events` from each rank, `rate` a second from all of them together (0: as fast as it goes),
// and returns the rate at which they were acknowledged.
double Run(Way& way, agent::EventRelay& relay, const std::string& job, int64_t events,
           double rate) {
  const std::string attempt = absl::StrCat("workspaces/w/jobs/", job, "/attempts/1");
  const absl::Time begun = absl::Now();
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < kRanks; ++rank) {
    ranks.emplace_back([&, rank] {
      for (int64_t i = 0; i < events; ++i) {
        if (rate > 0) {
          absl::SleepFor(begun + absl::Seconds(static_cast<double>(i) * kRanks / rate) -
                         absl::Now());
        }
        relay.Append({attempt, rank}, Event(i + 1));
      }
    });
  }
  for (std::thread& rank : ranks) rank.join();
  while (!relay.Drained(attempt)) absl::SleepFor(absl::Milliseconds(1));
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begun);
  const int64_t stored = way.Stored(absl::StrCat("w/", job));
  GRAFT_CHECK(stored == events * kRanks) << stored << " of " << events * kRanks << " are there";
  return static_cast<double>(stored) / seconds;
}

void Print(const char* metric, double value, bool ok) {
  Json line = Json::MakeObject();
  line.Set("bench", "e2e.relay").Set("metric", metric).Set("value", value).Set("unit", "1/s");
  line.Set("peer", "").Set("peer_value", 0).Set("ratio", value / kBar);
  line.Set("bar", kBar).Set("ok", ok);
  std::cout << line.Dump() << "\n";
}

int Main() {
  const std::string folder = absl::StrCat("/tmp/relay_bench.", getpid());
  GRAFT_CHECK_OK(MakeDirectories(folder));
  bool reached = false;
  {
    Way way(folder);
    const auto relay = *agent::EventRelay::Open(JoinPath(folder, "spool"), way.link());
    relay->SetLease(way.node(), way.epoch());
    const auto paced = static_cast<int64_t>(kBar * kSeconds / kRanks);
    const double carried = Run(way, *relay, "paced", paced, kBar);
    const double most = Run(way, *relay, "most", paced, 0);
    reached = carried >= 0.99 * kBar && most >= kBar;
    Print("carried_of_10000", carried, carried >= 0.99 * kBar);
    Print("most", most, most >= kBar);
    std::cout << absl::StrFormat("offered %8.0f/s  carried %8.0f/s  lost 0\n", kBar, carried)
              << absl::StrFormat("offered      all  carried %8.0f/s  lost 0\n", most);
  }
  GRAFT_CHECK_OK(RemoveTree(folder));
  return reached ? 0 : 1;
}

}  // namespace
}  // namespace graft

int main() { return graft::Main(); }
