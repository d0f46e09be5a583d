// Workers fetch a version together. The bound is size / rate: every worker receives every byte.
//   fileservice_fanout_bench FOLDER [WORKERS MIB MB_PER_S]
//     all in this process, each with a token bucket in each direction
// and, for fanout_netns.sh, whose kernel limits the rates:
//   fileservice_fanout_bench serve FOLDER HOST MIB
//     an origin with the version, over TLS; writes FOLDER/port and FOLDER/ca.pem, serves until
//     SIGTERM
//   fileservice_fanout_bench fetch FOLDER HOST:PORT OWN_HOST NAME
//     one worker; writes FOLDER/NAME.json when it has everything, serves the others until SIGTERM
#include <signal.h>

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
#include "rpc/tls_material.h"

namespace graft::fileservice {
namespace {

constexpr const char* kFileset = "workspaces/bench/filesets/model";
constexpr const char* kVersion = "workspaces/bench/filesets/model/versions/1";

// Without `ca` in plain text, which is for loopback alone.
std::unique_ptr<Client> Connect(const std::string& address, const std::string& ca) {
  Client::Options options;
  options.address = address;
  options.insecure = ca.empty();
  options.root_certificates = ca;
  options.token = [] { return std::string("worker;bench:user"); };
  auto client = Client::Connect(options);
  GRAFT_CHECK_OK(client.status());
  return *std::move(client);
}

void Publish(Client& client, const std::string& folder, int64_t mib) {
  GRAFT_CHECK_OK(MakeDirectories(folder + "/in"));
  GRAFT_CHECK_OK(WriteFileAtomically(folder + "/in/model.bin",
                                     SeededRandom(9).Bytes(static_cast<size_t>(mib) << 20)));
  UploadOptions up;
  up.state_folder = folder + "/state";
  GRAFT_CHECK_OK(client.UploadFolder(folder + "/in", kFileset, up).status());
}

std::unique_ptr<SwarmMember> Fetch(Client& client, const std::string& folder,
                                   const SwarmOptions& options) {
  auto member = SwarmMember::Fetch(client, kVersion, folder, options);
  GRAFT_CHECK_OK(member.status());
  return *std::move(member);
}

void WaitForTerm() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  int signal = 0;
  sigwait(&signals, &signal);
}

void Serve(const std::string& folder, const std::string& host, int64_t mib) {
  rpc::CertificateRequest request;
  request.common_name = "origin";
  request.names = {host};
  request.not_before = absl::Now() - absl::Hours(1);
  const auto authority = rpc::MakeAuthority(request);
  GRAFT_CHECK_OK(authority.status());
  const auto certificate = rpc::MakeCertificate(*authority, request);
  GRAFT_CHECK_OK(certificate.status());
  RealClock clock;
  rpc::ServerOptions options;
  options.address = host + ":0";
  options.tls = {certificate->certificate, certificate->private_key};
  Daemon daemon(folder + "/store", clock, options);
  const std::string address = absl::StrCat(host, ":", daemon.server->port());
  Publish(*Connect(address, authority->certificate), folder, mib);
  GRAFT_CHECK_OK(WriteFileAtomically(folder + "/ca.pem", authority->certificate));
  GRAFT_CHECK_OK(WriteFileAtomically(folder + "/port", absl::StrCat(daemon.server->port(), "\n")));
  WaitForTerm();
}

void FetchOne(const std::string& folder, const std::string& address, const std::string& own_host,
              const std::string& name) {
  const auto client = Connect(address, *ReadFile(folder + "/ca.pem"));
  SwarmOptions options;
  options.listen = own_host + ":0";
  options.allow_remote = true;
  const absl::Time began = absl::Now();
  const auto member = Fetch(*client, absl::StrCat(folder, "/", name), options);
  const SwarmMember::Totals totals = member->totals();
  GRAFT_CHECK_OK(WriteFileAtomically(absl::StrCat(folder, "/", name, ".json"),
                                     Json::MakeObject()
                                         .Set("seconds", absl::ToDoubleSeconds(absl::Now() - began))
                                         .Set("bytes", totals.bytes)
                                         .Set("from_origin", totals.from_origin)
                                         .Set("wasted", totals.wasted)
                                         .Dump()));
  WaitForTerm();
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

bool RunHere(const std::string& folder, int workers, int64_t mib, int64_t rate) {
  RealClock clock;
  Daemon daemon(folder + "/store", clock);
  const std::string address = absl::StrCat("127.0.0.1:", daemon.server->port());
  Publish(*Connect(address, ""), folder, mib);

  std::vector<std::unique_ptr<Client>> clients(static_cast<size_t>(workers));
  std::vector<std::unique_ptr<SwarmMember>> members(clients.size());
  const absl::Time began = absl::Now();
  std::vector<std::thread> threads;
  for (size_t i = 0; i < clients.size(); ++i) {
    threads.emplace_back([&, i] {
      clients[i] = Connect(address, "");
      SwarmOptions options;
      options.bytes_per_second = rate;
      members[i] = Fetch(*clients[i], absl::StrCat(folder, "/w", i), options);
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
  const double bytes = static_cast<double>(all.bytes);
  const double bound = bytes / static_cast<double>(rate);
  std::printf(
      "%d workers, %lld MiB, %lld bytes/s each: %.1f s, bound %.1f s, origin %.2f copies, "
      "wasted %.2f copies\n",
      workers, static_cast<long long>(mib), static_cast<long long>(rate), seconds, bound,
      static_cast<double>(all.from_origin) / bytes, static_cast<double>(all.wasted) / bytes);
  const bool time_ok = Report("time_over_bound", seconds / bound, "x", 1.3);
  return Report("origin_copies", static_cast<double>(all.from_origin) / bytes, "copies", 1.5) &&
         time_ok;
}

}  // namespace
}  // namespace graft::fileservice

int main(int argc, char** argv) {
  using namespace graft::fileservice;
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  graft::ConfigureLog(graft::LogLevel::kError, graft::LogFormat::kAuto, "fanout_bench");
  TuneAllocatorForTransfers();
  const std::vector<std::string> args(argv + 1, argv + argc);
  const auto number = [&](size_t i, int64_t otherwise) {
    return args.size() > i ? std::atoll(args[i].c_str()) : otherwise;
  };
  if (args.empty()) {
    std::fprintf(stderr, "usage: see the head of its source\n");
    return 2;
  }
  if (args[0] != "serve" && args[0] != "fetch") {
    const auto workers = static_cast<int>(number(1, 8));
    return RunHere(args[0], workers, number(2, 400), number(3, 20) * 1'000'000) ? 0 : 1;
  }
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread is made
  if (args[0] == "serve" && args.size() == 4) {
    Serve(args[1], args[2], number(3, 0));
  } else if (args[0] == "fetch" && args.size() == 5) {
    FetchOne(args[1], args[2], args[3], args[4]);
  }
  return 0;
}
