// fileservice_slow_clients PROGRAM FOLDER [CLIENTS SECONDS]: as many slow readers as slow writers
// at a daemon with a small budget. Each has a connection of its own, which a proxy in this process
// lets through at 1 KB/s after its first bytes. Prints the most memory that the daemon held, which
// must stay within its budget and 256 MiB.
//
// The readers' messages wait in the daemon, which is what the budget is for; the writers' wait in
// the daemon's connections, half read.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/file.h"
#include "base/random.h"
#include "fileservice/transfer/client.h"
#include "fileservice/transfer/wire.h"
#include "graft/v1/data.pb.h"
#include "grpcpp/generic/generic_stub.h"
#include "grpcpp/grpcpp.h"
#include "tests/bench/fileservice/store_figures.h"
#include "tests/support/process.h"

namespace graft::fileservice {
namespace {

constexpr int64_t kBudgetBytes = 256 << 20;
constexpr int64_t kAllowedBytes = kBudgetBytes + (256 << 20);
constexpr size_t kFileBytes = 64 << 20;
constexpr size_t kMessageBytes = 4 << 20;
// What a connection may send at once, for its greetings and headers, and in each of ten ticks a
// second after.
constexpr size_t kFirstBytes = 16 << 10;
constexpr size_t kTickBytes = 100;
constexpr absl::Duration kTick = absl::Milliseconds(100);

int64_t MemoryOf(pid_t pid, absl::string_view field) {
  const std::string status = *ReadFile(absl::StrCat("/proc/", pid, "/status"));
  const size_t at = status.find(std::string(field) + ":");
  GRAFT_CHECK(at != std::string::npos);
  return std::atoll(status.c_str() + at + field.size() + 1) << 10;
}

sockaddr_in Loopback(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return address;
}

// Passes connections on, slowly.
class SlowProxy {
 public:
  explicit SlowProxy(int port) : port_(port) {
    listener_.reset(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    const int small = 16 << 10;  // inherited by what is accepted
    setsockopt(listener_.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
    sockaddr_in address = Loopback(0);
    GRAFT_CHECK(bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
    GRAFT_CHECK(listen(listener_.get(), 4096) == 0);
    socklen_t size = sizeof(address);
    getsockname(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size);
    own_port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { Run(); });
  }
  ~SlowProxy() {
    stopping_ = true;
    thread_.join();
  }
  int port() const { return own_port_; }
  int64_t passed() const { return passed_; }

 private:
  struct Pair {
    UniqueFd ends[2];  // the client's and the server's
    size_t left[2] = {kFirstBytes, kFirstBytes};
  };

  void Accept() {
    while (true) {
      UniqueFd client(accept4(listener_.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
      if (!client.valid()) return;
      UniqueFd server(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
      const int small = 16 << 10;
      setsockopt(server.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
      const sockaddr_in address = Loopback(port_);
      GRAFT_CHECK(
          connect(server.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
      fcntl(server.get(), F_SETFL, O_NONBLOCK);
      Pair pair;
      pair.ends[0] = std::move(client);
      pair.ends[1] = std::move(server);
      pairs_.push_back(std::move(pair));
    }
  }
  void Run() {
    std::vector<char> bytes(kFirstBytes);
    while (!stopping_) {
      Accept();
      for (Pair& pair : pairs_) {
        for (const int from : {0, 1}) Pass(pair, from, bytes);
      }
      absl::SleepFor(kTick);  // the pace is the workload
    }
  }
  void Pass(Pair& pair, int from, std::vector<char>& bytes) {
    pair.left[from] += kTickBytes;
    const ssize_t got =
        recv(pair.ends[from].get(), bytes.data(), std::min(bytes.size(), pair.left[from]), 0);
    if (got <= 0) return;
    const ssize_t sent =
        send(pair.ends[1 - from].get(), bytes.data(), static_cast<size_t>(got), MSG_NOSIGNAL);
    if (sent < 0) {  // an end that is gone takes the other with it
      for (UniqueFd& end : pair.ends) end.reset();
      return;
    }
    GRAFT_CHECK(sent == got);
    pair.left[from] -= static_cast<size_t>(got);
    passed_ += got;
  }

  const int port_;
  int own_port_ = 0;
  UniqueFd listener_;
  std::vector<Pair> pairs_;
  std::atomic<int64_t> passed_{0};
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

// A call that reads, or that writes one message; answers come to one queue.
class SlowCall {
 public:
  SlowCall(int port, const char* method, grpc::ByteBuffer request, grpc::CompletionQueue& queue)
      : request_(std::move(request)) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt("grpc.http2.bdp_probe", 0);  // the window stays at 64 KiB
    grpc::GenericStub stub(grpc::CreateCustomChannel(
        absl::StrCat("127.0.0.1:", port), grpc::InsecureChannelCredentials(), arguments));
    context_.AddMetadata("authorization", "Bearer local");
    call_ = stub.PrepareCall(&context_, method, &queue);
    call_->StartCall(this);
  }
  // What came before is done.
  void Next() {
    if (!sent_) {
      sent_ = true;
      call_->Write(request_, this);
    } else {
      call_->Read(&answer_, this);
    }
  }
  void Cancel() { context_.TryCancel(); }

 private:
  grpc::ByteBuffer request_;
  grpc::ByteBuffer answer_;
  grpc::ClientContext context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  bool sent_ = false;
};

grpc::ByteBuffer Message(const std::string& head, absl::string_view payload) {
  const grpc::Slice slices[2] = {
      grpc::Slice(head), grpc::Slice(payload.data(), payload.size(), grpc::Slice::STATIC_SLICE)};
  return grpc::ByteBuffer(slices, payload.empty() ? 1 : 2);
}

grpc::ByteBuffer ReadRequest(const std::string& version) {
  v1::DownloadRequest request;
  request.set_version(version);
  request.add_ranges()->set_path("file.bin");
  return Message(request.SerializeAsString(), "");
}

grpc::ByteBuffer WriteRequest(const std::string& session, const std::string& payload) {
  wire::Writer head;
  head.Bytes(v1::UploadRequest::kSessionFieldNumber, session);
  head.Varint(v1::UploadRequest::kSequenceFieldNumber, 1);
  head.PackedVarints(v1::UploadRequest::kChunkSizesFieldNumber,
                     {static_cast<uint32_t>(payload.size())});
  head.Bytes(v1::UploadRequest::kChunkIdsFieldNumber, std::string(32, 'x'));
  head.BytesHead(wire::kDataField, payload.size());
  return Message(head.Take(), payload);
}

bool Run(const std::string& program, const std::string& folder, int clients, int seconds) {
  const std::string port_file = folder + "/port";
  testing::Process daemon({program, "--data", folder + "/store", "--listen", "127.0.0.1:0",
                           "--insecure", "--no-auth", "--port-file", port_file,
                           absl::StrCat("--max-inflight-bytes=", kBudgetBytes)});
  GRAFT_CHECK(daemon.WaitForFile(port_file));
  const int port = std::atoi(ReadFile(port_file)->c_str());

  GRAFT_CHECK_OK(MakeDirectories(folder + "/in"));
  const std::string content = SeededRandom(5).Bytes(kFileBytes);
  GRAFT_CHECK_OK(WriteFileAtomically(folder + "/in/file.bin", content));
  Client::Options options;
  options.address = absl::StrCat("127.0.0.1:", port);
  options.insecure = true;
  auto client = Client::Connect(options);
  GRAFT_CHECK_OK(client.status());
  UploadOptions up;
  up.state_folder = folder + "/state";
  const auto published = (*client)->UploadFolder(folder + "/in", "workspaces/ws/filesets/file", up);
  GRAFT_CHECK_OK(published.status());
  const auto session = (*client)->CreateUploadSession("workspaces/ws/filesets/file", up);
  GRAFT_CHECK_OK(session.status());

  SlowProxy proxy(port);
  grpc::CompletionQueue queue;
  // Until each call has failed, which ends it: then none asks anything of the queue any more.
  std::thread answers([&queue, left = 2 * clients]() mutable {
    void* tag = nullptr;
    bool ok = false;
    while (left > 0 && queue.Next(&tag, &ok)) {
      if (ok) {
        static_cast<SlowCall*>(tag)->Next();
      } else {
        --left;
      }
    }
  });
  const std::string payload = content.substr(0, kMessageBytes);
  std::vector<std::unique_ptr<SlowCall>> calls;
  for (int i = 0; i < clients; ++i) {
    calls.push_back(std::make_unique<SlowCall>(proxy.port(), "/graft.v1.DataService/Download",
                                               ReadRequest(published->version), queue));
    calls.push_back(std::make_unique<SlowCall>(proxy.port(), "/graft.v1.DataService/Upload",
                                               WriteRequest(*session, payload), queue));
  }
  absl::SleepFor(absl::Seconds(seconds));  // as long as it is to be seen
  const int64_t peak = MemoryOf(daemon.pid(), "VmHWM");
  std::printf(
      "%d slow readers and %d slow writers for %d s: %.1f MiB passed, daemon now %lld MiB\n",
      clients, clients, seconds, static_cast<double>(proxy.passed()) / (1 << 20),
      static_cast<long long>(MemoryOf(daemon.pid(), "VmRSS") >> 20));
  const bool ok =
      PrintAtMost({"fileservice_slow_clients", "peak_rss", static_cast<double>(peak) / (1 << 20),
                   "MiB", static_cast<double>(kAllowedBytes) / (1 << 20)});
  daemon.Stop(SIGKILL);
  for (const auto& call : calls) call->Cancel();
  answers.join();
  queue.Shutdown();
  return ok;
}

}  // namespace
}  // namespace graft::fileservice

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: fileservice_slow_clients PROGRAM FOLDER [CLIENTS SECONDS]\n");
    return 2;
  }
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  const auto number = [&](int i, int otherwise) {
    return argc > i ? std::atoi(argv[i]) : otherwise;
  };
  return graft::fileservice::Run(argv[1], argv[2], number(3, 1000), number(4, 60)) ? 0 : 1;
}
