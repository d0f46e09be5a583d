// fileservice_wire_bench FOLDER MIB ROUNDS [NGINX]: what the streams of the data plane carry on
// loopback, beside raw TCP and nginx with sendfile. Rows are interleaved: each round runs every row
// once, and a row's figure is the median of the rounds. CPU seconds are those of both ends.
//
// `download` and `upload` are the streams alone, from memory and to nowhere, as raw TCP's row is:
// their ceiling is TCP's. `download_file` reads a file of the page cache, as nginx does, without
// CRC or chunk look-ups; its ceiling is pread and send one after the other. The rows below it read
// what is stored, each chunk's CRC32C checked.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "fileservice/transfer/allocator.h"
#include "fileservice/transfer/link.h"
#include "tests/bench/fileservice/wire_server.h"

extern char** environ;

namespace graft::fileservice {
namespace {

constexpr size_t kBlockBytes = 1 << 20;
constexpr double kGib = 1 << 30;

double Seconds(const timeval& t) {
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) * 1e-6;
}

double OwnCpu() {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return Seconds(usage.ru_utime) + Seconds(usage.ru_stime);
}

double CpuOf(pid_t pid) {
  const auto stat = ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  if (!stat.ok()) return 0;
  // Fields 14 and 15, counted behind the name in parentheses.
  const std::vector<std::string> fields = absl::StrSplit(stat->substr(stat->rfind(')') + 2), ' ');
  double ticks = 0;
  double value = 0;
  for (const size_t i : {11, 12}) {
    if (absl::SimpleAtod(fields[i], &value)) ticks += value;
  }
  return ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

struct Child {
  pid_t pid = 0;
  std::vector<std::string> told;  // the words of its port file
};

// Starts `args` and waits until it has written `port_file`.
Child Start(std::vector<std::string> args, const std::string& port_file) {
  std::vector<char*> argv;
  for (std::string& arg : args) argv.push_back(arg.data());
  argv.push_back(nullptr);
  Child child;
  GRAFT_CHECK(posix_spawn(&child.pid, args[0].c_str(), nullptr, nullptr, argv.data(), environ) ==
              0);
  for (int i = 0; i < 12000 && child.told.empty(); ++i) {
    absl::SleepFor(absl::Milliseconds(10));
    const auto text = ReadFile(port_file);
    if (text.ok()) child.told = absl::StrSplit(*text, absl::ByAnyChar(" \n"), absl::SkipEmpty());
  }
  GRAFT_CHECK(!child.told.empty()) << args[0] << " does not start";
  return child;
}

void Stop(const Child& child) {
  kill(child.pid, SIGTERM);
  waitpid(child.pid, nullptr, 0);
}

int ConnectTo(int port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  GRAFT_CHECK(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
  return fd;
}

int64_t Drain(int fd) {
  static std::vector<char>& buffer = *new std::vector<char>(kBlockBytes);
  int64_t total = 0;
  while (true) {
    const ssize_t got = recv(fd, buffer.data(), buffer.size(), 0);
    if (got <= 0) return total;
    total += got;
  }
}

struct Row {
  std::string name;
  std::string what;
  std::function<void()> run;  // moves all bytes once
  pid_t server = 0;
  std::vector<double> rates;  // GiB/s
  std::vector<double> cpu;    // seconds per GiB, both ends

  void Round(double bytes) {
    const double cpu_before = OwnCpu() + CpuOf(server);
    const absl::Time began = absl::Now();
    run();
    const double seconds = absl::ToDoubleSeconds(absl::Now() - began);
    rates.push_back(bytes / kGib / seconds);
    cpu.push_back((OwnCpu() + CpuOf(server) - cpu_before) / (bytes / kGib));
  }
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

struct Bar {
  std::string row;
  std::string peer;  // empty: the bar is absolute
  double bar;
  bool of_cpu = false;  // at most `bar` CPU s/GiB instead of at least `bar`
};

bool Report(const std::vector<Row>& rows, const std::vector<Bar>& bars) {
  std::printf("\n%-16s %8s %8s %8s  %s\n", "row", "median", "best", "cpu s/G", "");
  std::map<std::string, const Row*> by_name;
  for (const Row& row : rows) {
    by_name[row.name] = &row;
    std::printf("%-16s %8.2f %8.2f %8.2f  %s\n", row.name.c_str(), Median(row.rates),
                *std::max_element(row.rates.begin(), row.rates.end()), Median(row.cpu),
                row.what.c_str());
  }
  std::printf("(GiB/s; CPU seconds per GiB of both ends together; load before: %s)\n\n",
              ReadFile("/proc/loadavg")->substr(0, 14).c_str());
  bool all = true;
  for (const Bar& bar : bars) {
    const auto row = by_name.find(bar.row);
    const auto peer = by_name.find(bar.peer);
    if (row == by_name.end() || (!bar.peer.empty() && peer == by_name.end())) {
      std::printf("skipped: %s beside %s, which is not here\n", bar.row.c_str(), bar.peer.c_str());
      continue;
    }
    const double value = Median(bar.of_cpu ? row->second->cpu : row->second->rates);
    Json line = Json::MakeObject();
    line.Set("bench", "fileservice_wire")
        .Set("metric", absl::StrCat(bar.row, bar.of_cpu ? "_cpu" : ""))
        .Set("value", value)
        .Set("unit", bar.of_cpu ? "s/GiB" : "GiB/s");
    double judged = value;
    if (!bar.peer.empty()) {
      const double peer_value = Median(peer->second->rates);
      judged = value / peer_value;
      line.Set("peer", bar.peer).Set("peer_value", peer_value).Set("ratio", judged);
    }
    const bool ok = bar.of_cpu ? judged <= bar.bar : judged >= bar.bar;
    all = all && ok;
    std::printf("%s\n", line.Set("bar", bar.bar).Set("ok", ok).Dump().c_str());
  }
  return all;
}

std::unique_ptr<Link> DialTo(const std::string& port, const std::string& ca) {
  Client::Options options;
  options.address = absl::StrCat(ca.empty() ? "127.0.0.1:" : "localhost:", port);
  options.insecure = ca.empty();
  options.root_certificates = ca;
  options.token = [] { return std::string("bench"); };
  auto link = Link::Dial(options);
  GRAFT_CHECK_OK(link.status());
  return *std::move(link);
}

void DownloadOnce(Link& link, const std::string& version, int64_t bytes) {
  int64_t got = 0;
  GRAFT_CHECK_OK(link.Download(version, "file.bin", 0, bytes, [&](const Piece& piece) {
    got += static_cast<int64_t>(piece.bytes.size());
    return absl::OkStatus();
  }));
  GRAFT_CHECK(got == bytes);
}

// The same 4 MiB again and again: who sends has them in memory.
void UploadOnce(Link& link, int64_t bytes) {
  static const std::shared_ptr<const std::string>& content =
      *new std::shared_ptr<const std::string>(
          std::make_shared<std::string>(SeededRandom(1).Bytes(kMessageBytes)));
  const auto call = link.Upload("workspaces/bench/filesets/f/uploads/s");
  for (int64_t sent = 0; sent < bytes; sent += kMessageBytes) {
    GRAFT_CHECK_OK(call->Send({{Sha256Digest{}, *content, content}}));
  }
  GRAFT_CHECK_OK(call->Finish());
}

void SendTcp(int port_fd, int64_t bytes) {
  const std::string block = SeededRandom(2).Bytes(kBlockBytes);
  while (true) {
    const int fd = accept(port_fd, nullptr, nullptr);
    if (fd < 0) return;
    for (int64_t left = bytes; left > 0;) {
      const ssize_t sent =
          send(fd, block.data(), std::min<size_t>(block.size(), static_cast<size_t>(left)), 0);
      if (sent <= 0) break;
      left -= sent;
    }
    close(fd);
  }
}

// A process that sends `bytes` to whoever connects.
Child StartTcp(int64_t bytes) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  GRAFT_CHECK(bind(fd, reinterpret_cast<sockaddr*>(&address), length) == 0 && listen(fd, 1) == 0);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &length);
  Child child;
  child.pid = fork();
  if (child.pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    SendTcp(fd, bytes);
    _exit(0);
  }
  close(fd);
  child.told = {absl::StrCat(ntohs(address.sin_port))};
  return child;
}

int PortOf(const std::string& text) {
  int port = 0;
  GRAFT_CHECK(absl::SimpleAtoi(text, &port));
  return port;
}

// NGINX is "PORT:PID of the worker".
bool Run(const std::string& self, const std::string& folder, int64_t bytes, int rounds,
         const std::string& nginx) {
  const Child tcp = StartTcp(bytes);  // before any thread of gRPC's
  const Child plain = Start({self, "serve", folder, "plain"}, folder + "/plain");
  const Child tls = Start({self, "serve", folder, "tls"}, folder + "/tls");
  const std::string ca = *ReadFile(folder + "/ca.pem");
  const auto link = DialTo(plain.told[0], "");
  const auto bare = DialTo(plain.told[1], "");
  const auto secure = DialTo(tls.told[0], ca);

  const std::string versions = "workspaces/bench/filesets/";
  std::vector<Row> rows;
  rows.push_back({"tcp",
                  "send 1 MiB from memory, recv 1 MiB",
                  [&] {
                    const int fd = ConnectTo(PortOf(tcp.told[0]));
                    GRAFT_CHECK(Drain(fd) == bytes);
                    close(fd);
                  },
                  tcp.pid,
                  {},
                  {}});
  if (!nginx.empty()) {
    const std::vector<std::string> peer = absl::StrSplit(nginx, ':');
    rows.push_back({"nginx",
                    "HTTP/1.1, sendfile on, recv 1 MiB",
                    [bytes, port = PortOf(peer[0])] {
                      const int fd = ConnectTo(port);
                      const std::string get =
                          "GET /file.bin HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n";
                      GRAFT_CHECK(write(fd, get.data(), get.size()) > 0);
                      GRAFT_CHECK(Drain(fd) > bytes);
                      close(fd);
                    },
                    PortOf(peer[1]),
                    {},
                    {}});
  }
  rows.push_back({"download",
                  "the stream alone: messages of 4 MiB from memory",
                  [&] { DownloadOnce(*bare, versions + "any/versions/1", bytes); },
                  plain.pid,
                  {},
                  {}});
  rows.push_back({"upload",
                  "the stream alone: parsed and acknowledged, not stored",
                  [&] { UploadOnce(*bare, bytes); },
                  plain.pid,
                  {},
                  {}});
  rows.push_back({"download_file",
                  "Download of a file registered in place (no CRC)",
                  [&] { DownloadOnce(*link, versions + "in-place/versions/1", bytes); },
                  plain.pid,
                  {},
                  {}});
  rows.push_back({"download_tls",
                  "the same with TLS 1.3",
                  [&] { DownloadOnce(*secure, versions + "in-place/versions/1", bytes); },
                  tls.pid,
                  {},
                  {}});
  rows.push_back({"download_stored",
                  "Download of chunks of 4 MiB, CRC32C checked",
                  [&] { DownloadOnce(*link, versions + "stored/versions/1", bytes); },
                  plain.pid,
                  {},
                  {}});
  rows.push_back({"download_cdc",
                  "Download of chunks of 64 KiB, CRC32C checked",
                  [&] { DownloadOnce(*link, versions + "stored/versions/2", bytes); },
                  plain.pid,
                  {},
                  {}});
  for (Row& row : rows) row.run();  // connects, and warms the page cache
  for (int round = 0; round < rounds; ++round) {
    for (Row& row : rows) row.Round(static_cast<double>(bytes));
  }
  const bool ok = Report(rows, {{"download", "tcp", 0.85},
                                {"download_file", "nginx", 1.2},
                                {"upload", "tcp", 0.85},
                                {"download_tls", "", 0.7},
                                {"download", "", 0.6, true},
                                {"download_file", "", 0.6, true},
                                {"upload", "", 0.6, true}});
  for (const Child& child : {tcp, plain, tls}) Stop(child);
  return ok;
}

}  // namespace
}  // namespace graft::fileservice

int main(int argc, char** argv) {
  using namespace graft::fileservice;
  signal(SIGPIPE, SIG_IGN);
  TuneAllocatorForTransfers();
  const std::vector<std::string> args(argv, argv + argc);
  if (argc == 4 && args[1] == "serve") return ServeForBench(args[2], args[3] == "tls");
  if (argc < 4) {
    std::fprintf(stderr,
                 "usage: fileservice_wire_bench FOLDER MIB ROUNDS [NGINX_PORT:WORKER_PID]\n");
    return 2;
  }
  return Run(args[0], args[1], std::atoll(args[2].c_str()) << 20, std::atoi(args[3].c_str()),
             argc > 4 ? args[4] : "")
             ? 0
             : 1;
}
