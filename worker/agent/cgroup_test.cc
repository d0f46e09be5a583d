#include "worker/agent/cgroup.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/mutex.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "worker/agent/rank_process.h"

namespace graft::agent {
namespace {

using ::testing::HasSubstr;

// Where cgroup2 is mounted, or empty.
std::string MountPoint() {
  const auto mounts = ReadFile("/proc/self/mounts", 1 << 20);
  for (absl::string_view line : absl::StrSplit(mounts.value_or(""), '\n')) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ');
    if (words.size() > 2 && words[2] == "cgroup2") return words[1];
  }
  return "";
}

// A group that this test may do with as it likes; where the machine allows none, what depends on it
// is asked of a folder that is none, which must be refused.
class CgroupTest : public ::testing::Test {
 protected:
  CgroupTest() : folder_(JoinPath(MountPoint(), absl::StrCat("graft-test-", getpid()))) {
    allowed_ = !MountPoint().empty() && mkdir(folder_.c_str(), 0755) == 0;
  }
  ~CgroupTest() override {
    if (allowed_) rmdir(folder_.c_str());
  }

  std::string folder_;
  bool allowed_ = false;
};

TEST_F(CgroupTest, AFolderThatIsNoGroupIsRefused) {
  EXPECT_FALSE(CgroupTree::Take("/nowhere").ok());
  const std::string plain = JoinPath(::testing::TempDir(), absl::StrCat("plain-", getpid()));
  ASSERT_THAT(MakeDirectories(plain), IsOk());
  EXPECT_THAT(CgroupTree::Take(plain), StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(RemoveTree(plain), IsOk());
}

TEST_F(CgroupTest, WhatNobodyDelegatedIsNotTaken) {
  const auto own = CgroupTree::TakeOwn();
  ASSERT_FALSE(own.ok());
  EXPECT_THAT(std::string(own.status().message()), HasSubstr("cgroup"));
}

TEST_F(CgroupTest, ARanksEndIsTheEndOfAllThatItStarted) {
  if (!allowed_) {
    EXPECT_FALSE(CgroupTree::Take(folder_).ok());
    return;
  }
  GRAFT_ASSERT_OK_AND_ASSIGN(const CgroupTree tree, CgroupTree::Take(folder_));
  // A daemon of its own session, which the rank's process group no longer holds.
  RankCommand command{.program = "/bin/sh",
                      .arguments = {"-c",
                                    "setsid sh -c 'echo $$; exec >/dev/null 2>&1; sleep 1000' & "
                                    "read line; exit 3"},
                      .environment = {{"PATH", "/usr/bin:/bin"}},
                      .cgroups = &tree,
                      .group_memory_bytes = int64_t{1} << 30};
  Notification told, ended;
  std::string daemon;
  RankExit exit;
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto rank,
                             RankProcess::Start(command, {.on_event =
                                                              [&](std::string line) {
                                                                daemon = std::move(line);
                                                                told.Notify();
                                                              },
                                                          .on_log = [](const std::string&) {},
                                                          .on_exit =
                                                              [&](RankExit e) {
                                                                exit = e;
                                                                ended.Notify();
                                                              }}));
  told.Wait();
  const std::string group = ReadFile(absl::StrCat("/proc/", daemon, "/cgroup")).value_or("");
  EXPECT_THAT(group, HasSubstr(absl::StrCat("/graft-test-", getpid(), "/rank-")));
  ASSERT_THAT(rank->Send("go on"), IsOk());
  ended.Wait();
  EXPECT_EQ(exit.code, 3);
  EXPECT_EQ(exit.memory_exceeded_bytes, 0);
  // Gone, or waiting for init to take note.
  EXPECT_EQ(ReadFile(absl::StrCat("/proc/", daemon, "/cmdline")).value_or(""), "");
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto names, ListDirectory(folder_));
  for (const std::string& name : names) EXPECT_NE(name.substr(0, 5), "rank-") << name;
}

TEST_F(CgroupTest, WhatAnEarlierWorkerLeftIsEnded) {
  if (!allowed_) {
    EXPECT_FALSE(CgroupTree::Take(folder_).ok());
    return;
  }
  const std::string left = JoinPath(folder_, "rank-7");
  ASSERT_EQ(mkdir(left.c_str(), 0755), 0);
  const pid_t child = fork();
  if (child == 0) {
    const UniqueFd procs(open(JoinPath(left, "cgroup.procs").c_str(), O_WRONLY));
    if (write(procs.get(), "0", 1) != 1) _exit(1);
    pause();
    _exit(0);
  }
  // It is in its group before the group is taken.
  while (ReadFile(JoinPath(left, "cgroup.procs")).value_or("").empty()) {
  }
  std::thread reaper([child] { waitpid(child, nullptr, 0); });
  EXPECT_THAT(CgroupTree::Take(folder_), IsOk());
  EXPECT_FALSE(FileExists(left));
  reaper.join();
}

TEST(RankExitTest, ARankThatNeededTooMuchSaysSo) {
  const RankExit exit{.signal = SIGKILL, .memory_exceeded_bytes = int64_t{512} << 20};
  EXPECT_EQ(exit.Describe(),
            "ended because it needed more than its 512 MiB of this machine's memory");
}

}  // namespace
}  // namespace graft::agent
