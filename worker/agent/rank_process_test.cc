#include "worker/agent/rank_process.h"

#include <signal.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "worker/agent/isolation.h"

namespace graft::agent {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Recorder {
  Mutex mu;
  std::vector<std::string> events, log;
  RankExit exit;
  Notification exited;

  RankProcess::Callbacks callbacks() {
    return {.on_event =
                [this](std::string line) {
                  MutexLock lock(mu);
                  events.push_back(std::move(line));
                },
            .on_log =
                [this](std::string line) {
                  MutexLock lock(mu);
                  log.push_back(std::move(line));
                },
            .on_exit =
                [this](RankExit e) {
                  exit = e;
                  exited.Notify();
                }};
  }
};

RankCommand Shell(const std::string& script) {
  return {.program = "/bin/sh",
          .arguments = {"-c", script},
          .environment = {{"PATH", "/usr/bin:/bin"}, {"X", "1"}}};
}

TEST(RankProcessTest, WithoutNetworkThereIsNoRouteAndTheUserIsTheSame) {
  RankCommand command = Shell("grep -c : /proc/net/dev; grep -c . /proc/net/route; id -u");
  command.without_network = true;
  Recorder recorder;
  if (!TryIsolation().ok()) {  // then it does not run at all rather than with the network
    EXPECT_FALSE(RankProcess::Start(command, recorder.callbacks()).ok());
    return;
  }
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto rank, RankProcess::Start(command, recorder.callbacks()));
  recorder.exited.Wait();
  // The loopback device alone; no route but the table's header; the same user.
  ASSERT_EQ(recorder.events.size(), 3u) << recorder.exit.Describe();
  EXPECT_EQ(recorder.events[0], "1");
  EXPECT_LE(std::stoi(recorder.events[1]), 1);
  EXPECT_EQ(recorder.events[2], std::to_string(getuid()));
}

TEST(RankProcessTest, LinesArriveAndTheExitIsTold) {
  Recorder recorder;
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const auto rank, RankProcess::Start(Shell("echo one; echo two >&2; printf three; exit 7"),
                                          recorder.callbacks()));
  recorder.exited.Wait();
  EXPECT_THAT(recorder.events, ElementsAre("one", "three"));
  EXPECT_THAT(recorder.log, ElementsAre("two"));
  EXPECT_EQ(recorder.exit.code, 7);
  EXPECT_THAT(recorder.exit.Describe(), HasSubstr("exit status 7"));
}

TEST(RankProcessTest, TheEnvironmentIsWhatWasGivenAlone) {
  setenv("GRAFT_LEAK", "secret", 1);
  Recorder recorder;
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const auto rank, RankProcess::Start(Shell("echo \"$X-$GRAFT_LEAK\""), recorder.callbacks()));
  recorder.exited.Wait();
  EXPECT_THAT(recorder.events, ElementsAre("1-"));
}

TEST(RankProcessTest, InputReachesItAndASignalEndsTheWholeGroup) {
  Recorder recorder;
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const auto rank, RankProcess::Start(Shell("read line; echo got $line; sleep 1000 & wait"),
                                          recorder.callbacks()));
  EXPECT_THAT(rank->Send("checkpoint"), IsOk());
  while (true) {
    MutexLock lock(recorder.mu);
    if (!recorder.events.empty()) break;
  }
  rank->Signal(SIGTERM);
  // The sleeping child holds the pipe open: the exit is seen only when it has ended too.
  ASSERT_TRUE(recorder.exited.WaitFor(absl::Seconds(20)));
  EXPECT_THAT(recorder.events, ElementsAre("got checkpoint"));
  EXPECT_EQ(recorder.exit.signal, SIGTERM);
  EXPECT_THAT(rank->Send("x"), StatusIs(absl::StatusCode::kUnavailable));
}

TEST(RankProcessTest, AMissingProgramIsSaidAtTheStart) {
  Recorder recorder;
  EXPECT_THAT(RankProcess::Start({.program = "/no/such/program"}, recorder.callbacks()),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/program")));
}

TEST(RankProcessTest, AnEndlessLineIsCutNotKept) {
  Recorder recorder;
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const auto rank,
      RankProcess::Start(Shell("head -c 3000000 /dev/zero | tr '\\0' a; echo; echo next"),
                         recorder.callbacks()));
  recorder.exited.Wait();
  ASSERT_EQ(recorder.events.size(), 2u);
  EXPECT_EQ(recorder.events[0].size(), kMaxLineBytes);
  EXPECT_EQ(recorder.events[1], "next");
}

TEST(RankProcessTest, DestructionEndsIt) {
  Recorder recorder;
  {
    GRAFT_ASSERT_OK_AND_ASSIGN(const auto rank,
                               RankProcess::Start(Shell("sleep 1000"), recorder.callbacks()));
  }
  EXPECT_EQ(recorder.exit.signal, SIGKILL);
}

}  // namespace
}  // namespace graft::agent
