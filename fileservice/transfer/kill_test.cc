// Transfers whose client or server is killed at random places and started again: what arrives is
// right, and little is sent twice.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "fileservice/transfer/client.h"
#include "gmock/gmock.h"
#include "tests/support/process.h"
#include "tests/support/tier.h"

namespace graft::fileservice {
namespace {

// What a kill may cost: one unit of the transfer.
constexpr int64_t kMaxSentAgain = 64 << 20;

// How far a transfer got; what its process writes to the pipe with each message of the transfer.
struct Moved {
  int64_t moved = 0;
  int64_t saved = 0;
};

class KillTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/graft-kill-XXXXXX";
    root_ = mkdtemp(folder);
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
    ASSERT_THAT(RemoveTree(root_), IsOk());
  }

  void StartServer(const std::string& listen) {
    const std::string binary = JoinPath(std::getenv("GRAFT_BINARY_DIR"), "bin/graft-fileservice");
    const std::string port_file = root_ + "/port";
    unlink(port_file.c_str());
    server_.emplace(std::vector<std::string>{binary, "--data", root_ + "/store", "--listen", listen,
                                             "--insecure", "--no-auth", "--port-file", port_file});
    ASSERT_TRUE(server_->WaitForFile(port_file));
    GRAFT_ASSERT_OK_AND_ASSIGN(const std::string port, ReadFile(port_file));
    address_ = absl::StrCat("127.0.0.1:", std::atoi(port.c_str()));
  }
  void StopServer() {
    if (server_.has_value()) server_->Stop(SIGKILL);
  }

  // Starts a process that uploads (or downloads) and ends with 0 when that is done.
  pid_t StartTransfer(bool upload) {
    told_ = Moved();
    int ends[2];
    EXPECT_EQ(pipe2(ends, O_CLOEXEC), 0);
    const pid_t child = fork();
    if (child != 0) {
      close(ends[1]);
      progress_.reset(ends[0]);
      return child;
    }
    close(ends[0]);
    Client::Options options;
    options.address = address_;
    options.insecure = true;
    options.progress_interval = absl::ZeroDuration();
    options.attempts = 60;  // as long as a server under a sanitizer takes to start
    auto client = Client::Connect(options);
    if (!client.ok()) _exit(2);
    const ProgressCallback tell = [pipe = ends[1]](const Progress& now) {
      const Moved moved{now.moved_bytes, now.saved_bytes};
      return write(pipe, &moved, sizeof(moved)) == sizeof(moved);
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
  bool WaitFor(int64_t bytes) {
    while (told_.moved + told_.saved < bytes) {
      if (read(progress_.get(), &told_, sizeof(told_)) != sizeof(told_)) return false;
    }
    return true;
  }
  void KillAt(pid_t child, int64_t bytes) {
    if (!WaitFor(bytes)) return ExpectEnded(child);
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
  }
  void ExpectEnded(pid_t child) {
    WaitFor(INT64_MAX);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }

  void UploadOnce() { ExpectEnded(StartTransfer(/*upload=*/true)); }

  static constexpr const char* kFileset = "workspaces/ws/filesets/data";
  static constexpr const char* kVersion = "workspaces/ws/filesets/data/versions/1";
  const int kills_ = testing::ByTier(3, 100, 100);
  std::string root_;
  int64_t size_ = 0;
  std::string hash_;
  std::optional<testing::Process> server_;
  std::string address_;
  UniqueFd progress_;  // of the transfer that was started last
  Moved told_;
  SeededRandom random_{23};
};

// A client that is killed is a new process each time; it goes on where the last one was.
TEST_F(KillTest, AnUploadGoesOnAfterItsClientWasKilled) {
  for (int i = 0; i < kills_; ++i) {
    const int64_t at =
        size_ * (i + 1) / (kills_ + 2) + static_cast<int64_t>(random_.Uniform(1 << 20));
    const int64_t before = told_.moved + told_.saved;
    const pid_t child = StartTransfer(/*upload=*/true);
    KillAt(child, at);
    EXPECT_GE(told_.saved, before - kMaxSentAgain) << "kill " << i;
  }
  const pid_t last = StartTransfer(/*upload=*/true);
  ExpectEnded(last);
  // What the last one sent is what the ones before had not sent, but for one unit.
  EXPECT_GT(told_.saved, 0);
  EXPECT_LE(told_.moved, size_ / (kills_ + 2) * 2 + kMaxSentAgain);
  ExpectEnded(StartTransfer(/*upload=*/false));
  EXPECT_EQ(Sha256::HexOf(*ReadFile(root_ + "/out/file.bin", int64_t{1} << 40)), hash_);
}

TEST_F(KillTest, AnUploadOutlivesItsServer) {
  const pid_t child = StartTransfer(/*upload=*/true);
  int64_t kills = 0;
  for (; kills < kills_; ++kills) {
    const int64_t at = size_ * (kills + 1) / (kills_ + 2);
    if (!WaitFor(at)) break;
    StopServer();
    StartServer(address_);
  }
  ExpectEnded(child);
  EXPECT_GT(kills, 0);
  // The meter counts the last attempt alone: what it sent plus what was there is the file.
  EXPECT_EQ(told_.moved + told_.saved, size_);
  EXPECT_LE(told_.moved, size_ / (kills_ + 2) * 2 + kMaxSentAgain);
}

TEST_F(KillTest, ADownloadGoesOnAfterItsClientWasKilled) {
  UploadOnce();
  told_ = Moved();
  for (int i = 0; i < kills_; ++i) {
    const int64_t before = told_.moved + told_.saved;
    const pid_t child = StartTransfer(/*upload=*/false);
    const int64_t at =
        size_ * (i + 1) / (kills_ + 2) + static_cast<int64_t>(random_.Uniform(1 << 20));
    KillAt(child, at);
    EXPECT_GE(told_.saved, before - kMaxSentAgain) << "kill " << i;
  }
  ExpectEnded(StartTransfer(/*upload=*/false));
  EXPECT_LE(told_.moved, size_ / (kills_ + 2) * 2 + kMaxSentAgain);
  EXPECT_EQ(Sha256::HexOf(*ReadFile(root_ + "/out/file.bin", int64_t{1} << 40)), hash_);
}

TEST_F(KillTest, ADownloadOutlivesItsServer) {
  UploadOnce();
  const pid_t child = StartTransfer(/*upload=*/false);
  int kills = 0;
  for (; kills < kills_; ++kills) {
    if (!WaitFor(size_ * (kills + 1) / (kills_ + 2))) break;
    StopServer();
    StartServer(address_);
  }
  ExpectEnded(child);
  EXPECT_GT(kills, 0);
  EXPECT_EQ(told_.moved, size_);  // nothing twice: it goes on at the byte that came last
  EXPECT_EQ(Sha256::HexOf(*ReadFile(root_ + "/out/file.bin", int64_t{1} << 40)), hash_);
}

}  // namespace
}  // namespace graft::fileservice
