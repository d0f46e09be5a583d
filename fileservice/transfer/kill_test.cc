// Transfers whose client or server is killed at random places and started again: what arrives is
// right, and little is sent twice.
#include <signal.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "fileservice/transfer/client.h"
#include "gmock/gmock.h"
#include "tests/support/tier.h"

extern char** environ;

namespace graft::fileservice {
namespace {

// What a kill may cost: one unit of the transfer.
constexpr int64_t kMaxSentAgain = 64 << 20;

// Shared with the child that transfers.
struct Shared {
  std::atomic<int64_t> moved{0};
  std::atomic<int64_t> saved{0};
};

class KillTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/graft-kill-XXXXXX";
    root_ = mkdtemp(folder);
    shared_ = new (mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
                        -1, 0)) Shared();
    const size_t mib = static_cast<size_t>(testing::ByTier(96, 2048, 2048));
    size_ = static_cast<int64_t>(mib << 20);
    ASSERT_THAT(MakeDirectories(root_ + "/in"), IsOk());
    SeededRandom random(11);
    std::string content;
    for (size_t i = 0; i < mib; ++i) content += random.Bytes(1 << 20);
    hash_ = Sha256::HexOf(content);
    ASSERT_THAT(WriteFileAtomically(root_ + "/in/file.bin", content), IsOk());
    StartServer("127.0.0.1:0");
  }
  void TearDown() override {
    StopServer();
    munmap(shared_, sizeof(Shared));
    ASSERT_THAT(RemoveTree(root_), IsOk());
  }

  void StartServer(const std::string& listen) {
    const std::string binary = JoinPath(std::getenv("GRAFT_BINARY_DIR"), "bin/graft-fileservice");
    const std::string port_file = root_ + "/port";
    unlink(port_file.c_str());
    std::vector<std::string> args = {binary,      "--data",      root_ + "/store",
                                     "--listen",  listen,        "--insecure",
                                     "--no-auth", "--port-file", port_file};
    std::vector<char*> argv;
    for (std::string& arg : args) argv.push_back(arg.data());
    argv.push_back(nullptr);
    ASSERT_EQ(posix_spawn(&server_, binary.c_str(), nullptr, nullptr, argv.data(), environ), 0);
    absl::StatusOr<std::string> port = absl::NotFoundError("");
    for (int i = 0; i < 6000 && !port.ok(); ++i) {
      absl::SleepFor(absl::Milliseconds(10));
      port = ReadFile(port_file);
    }
    ASSERT_THAT(port, IsOk());
    address_ = absl::StrCat("127.0.0.1:", std::atoi(port->c_str()));
  }
  void StopServer() {
    if (server_ == 0) return;
    kill(server_, SIGKILL);
    waitpid(server_, nullptr, 0);
    server_ = 0;
  }

  // Starts a process that uploads (or downloads) and ends with 0 when that is done.
  pid_t StartTransfer(bool upload) {
    shared_->moved = 0;
    shared_->saved = 0;
    const pid_t child = fork();
    if (child != 0) return child;
    Client::Options options;
    options.address = address_;
    options.insecure = true;
    options.progress_interval = absl::ZeroDuration();
    options.attempts = 60;  // as long as a server under a sanitizer takes to start
    auto client = Client::Connect(options);
    if (!client.ok()) _exit(2);
    const ProgressCallback tell = [this](const Progress& now) {
      shared_->moved = now.moved_bytes;
      shared_->saved = now.saved_bytes;
      return true;
    };
    UploadOptions up;
    up.state_folder = root_ + "/state";
    const absl::Status status =
        upload ? (*client)->UploadFolder(root_ + "/in", kFileset, up, tell).status()
               : (*client)->DownloadVersion(kVersion, root_ + "/out", {}, tell).status();
    if (!status.ok()) fprintf(stderr, "transfer: %s\n", status.ToString().c_str());
    _exit(status.ok() ? 0 : 1);
  }
  // Waits until the transfer has moved `bytes` or has ended; true: it goes on.
  bool WaitFor(pid_t child, int64_t bytes) {
    while (shared_->moved + shared_->saved < bytes) {
      int status = 0;
      if (waitpid(child, &status, WNOHANG) == child) {
        EXPECT_EQ(status, 0);
        return false;
      }
      absl::SleepFor(absl::Milliseconds(1));
    }
    return true;
  }
  void KillAt(pid_t child, int64_t bytes) {
    if (!WaitFor(child, bytes)) return;
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
  void ExpectEnded(pid_t child) {
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }

  void UploadOnce() { ExpectEnded(StartTransfer(/*upload=*/true)); }

  static constexpr const char* kFileset = "workspaces/ws/filesets/data";
  static constexpr const char* kVersion = "workspaces/ws/filesets/data/versions/1";
  const int kills_ = testing::ByTier(10, 100, 100);
  std::string root_;
  Shared* shared_ = nullptr;
  int64_t size_ = 0;
  std::string hash_;
  pid_t server_ = 0;
  std::string address_;
  SeededRandom random_{23};
};

// A client that is killed is a new process each time; it goes on where the last one was.
TEST_F(KillTest, AnUploadGoesOnAfterItsClientWasKilled) {
  for (int i = 0; i < kills_; ++i) {
    const int64_t at =
        size_ * (i + 1) / (kills_ + 2) + static_cast<int64_t>(random_.Uniform(1 << 20));
    const pid_t child = StartTransfer(/*upload=*/true);
    KillAt(child, at);
  }
  const pid_t last = StartTransfer(/*upload=*/true);
  ExpectEnded(last);
  // What the last one sent is what the ones before had not sent, but for one unit.
  EXPECT_GT(shared_->saved, 0);
  EXPECT_LE(shared_->moved, size_ / (kills_ + 2) * 2 + kMaxSentAgain);
  ExpectEnded(StartTransfer(/*upload=*/false));
  EXPECT_EQ(Sha256::HexOf(*ReadFile(root_ + "/out/file.bin", int64_t{1} << 40)), hash_);
}

TEST_F(KillTest, AnUploadOutlivesItsServer) {
  const pid_t child = StartTransfer(/*upload=*/true);
  int64_t kills = 0;
  for (; kills < kills_; ++kills) {
    const int64_t at = size_ * (kills + 1) / (kills_ + 2);
    if (!WaitFor(child, at)) break;
    StopServer();
    StartServer(address_);
  }
  if (kills == kills_) ExpectEnded(child);
  EXPECT_GT(kills, 0);
  // The meter counts the last attempt alone: what it sent plus what was there is the file.
  EXPECT_EQ(shared_->moved + shared_->saved, size_);
  EXPECT_LE(shared_->moved, size_ / (kills_ + 2) * 2 + kMaxSentAgain);
}

TEST_F(KillTest, ADownloadGoesOnAfterItsClientWasKilled) {
  UploadOnce();
  for (int i = 0; i < kills_; ++i) {
    const pid_t child = StartTransfer(/*upload=*/false);
    const int64_t at =
        size_ * (i + 1) / (kills_ + 2) + static_cast<int64_t>(random_.Uniform(1 << 20));
    KillAt(child, at);
  }
  ExpectEnded(StartTransfer(/*upload=*/false));
  EXPECT_LE(shared_->moved, size_ / (kills_ + 2) * 2 + kMaxSentAgain);
  EXPECT_EQ(Sha256::HexOf(*ReadFile(root_ + "/out/file.bin", int64_t{1} << 40)), hash_);
}

TEST_F(KillTest, ADownloadOutlivesItsServer) {
  UploadOnce();
  const pid_t child = StartTransfer(/*upload=*/false);
  int kills = 0;
  for (; kills < kills_; ++kills) {
    if (!WaitFor(child, size_ * (kills + 1) / (kills_ + 2))) break;
    StopServer();
    StartServer(address_);
  }
  if (kills == kills_) ExpectEnded(child);
  EXPECT_GT(kills, 0);
  EXPECT_EQ(shared_->moved, size_);  // nothing twice: it goes on at the byte that came last
  EXPECT_EQ(Sha256::HexOf(*ReadFile(root_ + "/out/file.bin", int64_t{1} << 40)), hash_);
}

}  // namespace
}  // namespace graft::fileservice
