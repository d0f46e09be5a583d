// fileservice_fanout_bench FOLDER [WORKERS MIB MB_PER_S]: workers with a token bucket in each
// direction fetch a version together. The bound is size / rate: every worker receives every byte.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/random.h"
#include "fileservice/service/test_daemon.h"
#include "fileservice/transfer/allocator.h"
#include "fileservice/transfer/client.h"
#include "fileservice/transfer/swarm.h"

namespace graft::fileservice {
namespace {

constexpr const char* kFileset = "workspaces/bench/filesets/model";

std::unique_ptr<Client> Connect(const Daemon& daemon) {
  Client::Options options;
  options.address = absl::StrCat("127.0.0.1:", daemon.server->port());
  options.insecure = true;
  options.token = [] { return std::string("worker;bench:user"); };
  auto client = Client::Connect(options);
  GRAFT_CHECK_OK(client.status());
  return *std::move(client);
}

bool Report(const char* metric, double value, const char* unit, double bar) {
  const bool ok = value <= bar;
  std::printf("%s\n", Json::MakeObject()
                          .Set("bench", "fileservice_fanout")
                          .Set("metric", metric)
                          .Set("value", value)
                          .Set("unit", unit)
                          .Set("bar", bar)
                          .Set("ok", ok)
                          .Dump()
                          .c_str());
  return ok;
}

bool Run(const std::string& folder, int workers, int64_t mib, int64_t rate) {
  RealClock clock;
  Daemon daemon(folder + "/store", clock);
  GRAFT_CHECK_OK(MakeDirectories(folder + "/in"));
  GRAFT_CHECK_OK(WriteFileAtomically(folder + "/in/model.bin",
                                     SeededRandom(9).Bytes(static_cast<size_t>(mib) << 20)));
  UploadOptions up;
  up.state_folder = folder + "/state";
  GRAFT_CHECK_OK(Connect(daemon)->UploadFolder(folder + "/in", kFileset, up).status());

  std::vector<std::unique_ptr<Client>> clients(static_cast<size_t>(workers));
  std::vector<std::unique_ptr<SwarmMember>> members(clients.size());
  const absl::Time began = absl::Now();
  std::vector<std::thread> threads;
  for (size_t i = 0; i < clients.size(); ++i) {
    threads.emplace_back([&, i] {
      clients[i] = Connect(daemon);
      SwarmOptions options;
      options.bytes_per_second = rate;
      auto member = SwarmMember::Fetch(*clients[i], absl::StrCat(kFileset, "/versions/1"),
                                       absl::StrCat(folder, "/w", i), options);
      GRAFT_CHECK_OK(member.status());
      members[i] = *std::move(member);
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double seconds = absl::ToDoubleSeconds(absl::Now() - began);
  SwarmMember::Totals all;
  for (const auto& member : members) {
    all.from_origin += member->totals().from_origin;
    all.wasted += member->totals().wasted;
    all.bytes = member->totals().bytes;
  }
  const double bound = static_cast<double>(all.bytes) / static_cast<double>(rate);
  std::printf(
      "%d workers, %lld MiB, %lld bytes/s each: %.1f s, bound %.1f s, origin %.2f copies, "
      "wasted %.2f copies\n",
      workers, static_cast<long long>(mib), static_cast<long long>(rate), seconds, bound,
      static_cast<double>(all.from_origin) / static_cast<double>(all.bytes),
      static_cast<double>(all.wasted) / static_cast<double>(all.bytes));
  const bool time_ok = Report("time_over_bound", seconds / bound, "x", 1.3);
  return Report("origin_copies",
                static_cast<double>(all.from_origin) / static_cast<double>(all.bytes), "copies",
                1.5) &&
         time_ok;
}

}  // namespace
}  // namespace graft::fileservice

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: fileservice_fanout_bench FOLDER [WORKERS MIB MB_PER_S]\n");
    return 2;
  }
  graft::ConfigureLog(graft::LogLevel::kError, graft::LogFormat::kAuto, "fanout_bench");
  graft::fileservice::TuneAllocatorForTransfers();
  const auto number = [&](int i, int64_t otherwise) {
    return argc > i ? std::atoll(argv[i]) : otherwise;
  };
  return graft::fileservice::Run(argv[1], static_cast<int>(number(2, 8)), number(3, 400),
                                 number(4, 20) * 1'000'000)
             ? 0
             : 1;
}
