// The real program makes a backup while it serves, and another one is started from it.
#include <signal.h>
#include <sys/inotify.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "absl/cleanup/cleanup.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "graft/v1/workspace.grpc.pb.h"
#include "gtest/gtest.h"
#include "rpc/client.h"
#include "tests/support/program.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

// A running scheduler over `folder`.
class Running {
 public:
  Running(const std::string& folder, const std::string& backups) {
    const std::string port_file = folder + "/port";
    auto program = testing::Program::Start(
        {GRAFT_SCHEDULER_PROGRAM, "--data", folder, "--to", backups, "--insecure", "--no-auth",
         "--listen", "127.0.0.1:0", "--port-file", port_file},
        port_file);
    GRAFT_CHECK_OK(program.status());
    program_ = *std::move(program);
    auto connection = rpc::Connection::Dial(
        {.address = absl::StrCat("127.0.0.1:", program_->port()), .insecure = true});
    GRAFT_CHECK_OK(connection.status());
    connection_ = *std::move(connection);
    workspaces_ = v1::WorkspaceService::NewStub(connection_->channel());
  }
  absl::Status Create(const std::string& id) {
    v1::CreateWorkspaceRequest request;
    request.set_workspace_id(id);
    return connection_
        ->Call<v1::Workspace>(*workspaces_, &v1::WorkspaceService::Stub::CreateWorkspace, request)
        .status();
  }
  absl::Status Get(const std::string& id) {
    v1::GetWorkspaceRequest request;
    request.set_name(absl::StrCat("workspaces/", id));
    return connection_
        ->Call<v1::Workspace>(*workspaces_, &v1::WorkspaceService::Stub::GetWorkspace, request)
        .status();
  }
  void Signal(int signal) { kill(program_->pid(), signal); }

 private:
  std::unique_ptr<testing::Program> program_;
  std::unique_ptr<rpc::Connection> connection_;
  std::unique_ptr<v1::WorkspaceService::Stub> workspaces_;
};

// The first whole backup in `folder`.
std::string AwaitBackup(const std::string& folder, int news) {
  for (;;) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const std::string path = entry.path();
      if (!absl::EndsWith(path, ".part")) return path;
    }
    std::array<char, 4096> told;
    (void)!read(news, told.data(), told.size());
  }
}

TEST(BackupTest, ABackupOfARunningSchedulerIsWholeAndServes) {
  const std::string root = absl::StrCat(::testing::TempDir(), "/backup-", SecureRandom().Id(12));
  const absl::Cleanup gone = [&] { std::filesystem::remove_all(root); };
  const std::string backups = root + "/backups", data = root + "/data", other = root + "/other";
  for (const std::string& folder : {backups, data, other}) {
    ASSERT_THAT(MakeDirectories(folder, 0700), IsOk());
  }
  const int news = inotify_init1(IN_CLOEXEC);
  ASSERT_GE(inotify_add_watch(news, backups.c_str(), IN_MOVED_TO), 0);
  std::string backup;
  {
    Running first(data, backups);
    ASSERT_THAT(first.Create("before"), IsOk());
    first.Signal(SIGUSR1);
    backup = AwaitBackup(backups, news);
    EXPECT_THAT(first.Create("after"), IsOk()) << "it goes on";
  }
  close(news);
  const auto run = [&](const std::string& words) {
    return std::system(absl::StrCat(GRAFT_SCHEDULER_PROGRAM, " ", words, " >/dev/null").c_str());
  };
  ASSERT_EQ(run(absl::StrCat("restore --data ", other, " --from ", backup)), 0);
  EXPECT_EQ(run(absl::StrCat("check --data ", other)), 0);
  Running second(other, backups);
  EXPECT_THAT(second.Get("before"), IsOk());
  EXPECT_THAT(second.Get("after"), StatusIs(absl::StatusCode::kNotFound));
}

}  // namespace
}  // namespace graft::scheduler
