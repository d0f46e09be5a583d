#include "worker/agent/file_rules.h"

#include <unistd.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/mutex.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "worker/agent/rank_process.h"

namespace graft::agent {
namespace {

// A worker's folder with two attempts, a credential and a cached input each.
class FileRulesTest : public ::testing::Test {
 protected:
  FileRulesTest() : worker_(JoinPath(::testing::TempDir(), absl::StrCat("rules-", getpid()))) {
    for (const char* folder : {"attempts/1", "attempts/2", "cache/a", "cache/b"}) {
      EXPECT_THAT(MakeDirectories(Path(folder)), IsOk());
      EXPECT_THAT(WriteFileAtomically(JoinPath(Path(folder), "file"), folder), IsOk());
    }
    EXPECT_THAT(WriteFileAtomically(Path("credential"), "secret"), IsOk());
    EXPECT_THAT(WriteFileAtomically(absl::StrCat(worker_, ".beside"), "beside"), IsOk());
  }
  ~FileRulesTest() override {
    EXPECT_THAT(RemoveTree(worker_), IsOk());
    unlink(absl::StrCat(worker_, ".beside").c_str());
  }
  std::string Path(absl::string_view name) const { return JoinPath(worker_, name); }

  // The exit status of a shell command as the first attempt.
  absl::StatusOr<int> Run(const std::string& script) {
    const RankCommand command{
        .program = "/bin/sh",
        .arguments = {"-c", script},
        .environment = {{"PATH", "/usr/bin:/bin"}},
        .working_folder = Path("attempts/1"),
        .files = FileAccess{
            .hidden = {worker_}, .readable = {Path("cache/a")}, .writable = {Path("attempts/1")}}};
    RankExit exit;
    Notification ended;
    const auto rank = RankProcess::Start(command, {.on_event = [](const std::string&) {},
                                                   .on_log = [](const std::string&) {},
                                                   .on_exit =
                                                       [&](RankExit e) {
                                                         exit = e;
                                                         ended.Notify();
                                                       }});
    if (!rank.ok()) return rank.status();
    ended.Wait();
    return exit.code;
  }
  // Whether the command succeeds. A kernel without the rules must refuse to start it at all.
  bool Can(const std::string& script) {
    const absl::StatusOr<int> code = Run(script);
    EXPECT_EQ(code.ok(), TryFileRules().ok()) << code.status();
    return code.ok() && *code == 0;
  }

  const std::string worker_;
};

TEST_F(FileRulesTest, AnAttemptReadsItsInputsAndWritesItsOwnFolder) {
  const bool there = TryFileRules().ok();
  EXPECT_EQ(Can(absl::StrCat("cat ", Path("cache/a/file"))), there);
  EXPECT_EQ(Can("echo x >new && mkdir -p d && mv new d/ && rm -r d && ls ."), there);
  EXPECT_EQ(Can("cat /etc/passwd /proc/self/status && echo x >/dev/null"), there);
  EXPECT_EQ(Can(absl::StrCat("cat ", worker_, ".beside")), there);
}

TEST_F(FileRulesTest, ItSeesNothingElseOfTheWorkers) {
  EXPECT_FALSE(Can(absl::StrCat("cat ", Path("cache/b/file"))));
  EXPECT_FALSE(Can(absl::StrCat("cat ", Path("attempts/2/file"))));
  EXPECT_FALSE(Can(absl::StrCat("cat ", Path("credential"))));
  EXPECT_FALSE(Can(absl::StrCat("ls ", Path("cache"))));
  // Nor by a link that it makes itself.
  EXPECT_FALSE(Can("ln -s ../../credential here && cat here"));
}

TEST_F(FileRulesTest, ItWritesNowhereElse) {
  EXPECT_FALSE(Can(absl::StrCat("echo x >", Path("cache/a/file"))));
  EXPECT_FALSE(Can(absl::StrCat("echo x >", worker_, ".beside")));
  EXPECT_FALSE(Can(absl::StrCat("rm ", Path("cache/a/file"))));
  EXPECT_FALSE(Can("echo x >/tmp/graft-file-rules-test"));
  EXPECT_EQ(ReadFile(Path("cache/a/file")).value_or(""), "cache/a");
}

TEST_F(FileRulesTest, AFolderThatIsNotThereIsNamed) {
  if (const absl::Status there = TryFileRules(); !there.ok()) {
    EXPECT_EQ(FileRules::Make({}).status(), there);
    return;
  }
  EXPECT_THAT(FileRules::Make({.readable = {"/nowhere"}}),
              StatusIs(absl::StatusCode::kNotFound, ::testing::HasSubstr("/nowhere")));
}

}  // namespace
}  // namespace graft::agent
