#include "fileservice/transfer/cache.h"

#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mutex.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"

namespace graft::fileservice {
namespace {

using ::testing::HasSubstr;

class FolderCacheTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/graft-cache-XXXXXX";
    root_ = mkdtemp(folder);
    cache_ = Open();
  }
  void TearDown() override { ASSERT_THAT(RemoveTree(root_), IsOk()); }

  std::unique_ptr<FolderCache> Open() {
    return *FolderCache::Open({.folder = root_ + "/cache", .max_bytes = 1000, .max_files = 10});
  }
  // An entry with one file of `bytes`.
  absl::StatusOr<FolderCache::Pin> Get(const std::string& key, int64_t bytes) {
    return cache_->Get(key, {bytes, 1}, [&](const std::string& path) {
      ++fills_;
      return WriteFileAtomically(path + "/file", std::string(static_cast<size_t>(bytes), 'x'));
    });
  }
  bool Has(const std::string& key) { return FileExists(root_ + "/cache/" + key + "/file"); }

  std::string root_;
  std::unique_ptr<FolderCache> cache_;
  std::atomic<int> fills_{0};
};

TEST_F(FolderCacheTest, AnEntryIsFilledOnceAndFoundByEveryProcess) {
  ASSERT_THAT(Get("a", 100), IsOk());
  cache_ = Open();
  GRAFT_ASSERT_OK_AND_ASSIGN(const FolderCache::Pin pin, Get("a", 100));
  EXPECT_EQ(fills_, 1);
  EXPECT_EQ(ReadFile(pin.path() + "/file")->size(), 100u);
  EXPECT_EQ(cache_->Used()->bytes, 100);
}

TEST_F(FolderCacheTest, TheLeastRecentlyUsedGoesBeforeTheLimitIsPassed) {
  ASSERT_THAT(Get("a", 400), IsOk());
  ASSERT_THAT(Get("b", 400), IsOk());
  ASSERT_THAT(Get("a", 400), IsOk());
  ASSERT_THAT(Get("c", 400), IsOk());
  EXPECT_TRUE(Has("a"));
  EXPECT_FALSE(Has("b"));
  EXPECT_TRUE(Has("c"));
  EXPECT_LE(cache_->Used()->bytes, 1000);
}

TEST_F(FolderCacheTest, FilesAreBoundedToo) {
  for (int i = 0; i < 12; ++i) ASSERT_THAT(Get(absl::StrCat("k", i), 1), IsOk());
  EXPECT_EQ(cache_->Used()->files, 10);
  EXPECT_FALSE(Has("k1"));
  EXPECT_TRUE(Has("k2"));
}

TEST_F(FolderCacheTest, WhatIsPinnedStaysAndTheLimitHolds) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const FolderCache::Pin a, Get("a", 600));
  EXPECT_THAT(Get("b", 600), StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("1000")));
  EXPECT_TRUE(Has("a"));
  EXPECT_THAT(Get("c", 300), IsOk());
}

TEST_F(FolderCacheTest, APinEndsWithItsProcess) {
  ASSERT_THAT(Get("a", 600), IsOk());
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto pin = Open()->Get(
        "a", {600, 1}, [](const std::string&) { return absl::InternalError("it was there"); });
    const char done = pin.ok() ? 'y' : 'n';
    if (write(ready[1], &done, 1) != 1) _exit(1);
    pause();
    _exit(0);
  }
  char pinned = 0;
  ASSERT_EQ(read(ready[0], &pinned, 1), 1);
  ASSERT_EQ(pinned, 'y');
  EXPECT_THAT(Get("b", 600), StatusIs(absl::StatusCode::kResourceExhausted));
  ASSERT_EQ(kill(child, SIGKILL), 0);
  waitpid(child, nullptr, 0);
  EXPECT_THAT(Get("b", 600), IsOk());
  EXPECT_FALSE(Has("a"));
}

TEST_F(FolderCacheTest, OneFillsAndTheOthersWait) {
  std::atomic<int> running{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      const auto pin = Open()->Get("a", {100, 1}, [&](const std::string& path) {
        EXPECT_EQ(running++, 0);
        ++fills_;
        const absl::Status status = WriteFileAtomically(path + "/file", std::string(100, 'x'));
        --running;
        return status;
      });
      EXPECT_THAT(pin, IsOk());
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(fills_, 1);
}

TEST_F(FolderCacheTest, AFillingThatWasCutShortIsTakenUp) {
  const auto cut = cache_->Get("a", {100, 2}, [](const std::string& path) {
    EXPECT_THAT(WriteFileAtomically(path + "/half", "x"), IsOk());
    return absl::UnavailableError("cut");
  });
  EXPECT_THAT(cut, StatusIs(absl::StatusCode::kUnavailable));
  EXPECT_EQ(cache_->Used()->bytes, 100);  // as reserved
  const auto again = cache_->Get("a", {100, 2}, [](const std::string& path) {
    EXPECT_TRUE(FileExists(path + "/half"));
    return absl::OkStatus();
  });
  EXPECT_THAT(again, IsOk());
  EXPECT_EQ(cache_->Used()->bytes, 1);
}

TEST_F(FolderCacheTest, WaitingCanBeCancelledAndKeysAreCleaned) {
  Notification filling;
  Notification end;
  std::thread other([&] {
    EXPECT_THAT(Open()->Get("a", {1, 1},
                            [&](const std::string&) {
                              filling.Notify();
                              end.Wait();
                              return absl::OkStatus();
                            }),
                IsOk());
  });
  filling.Wait();
  EXPECT_THAT(cache_->Get("a", {1, 1}, nullptr, [] { return true; }),
              StatusIs(absl::StatusCode::kCancelled));
  end.Notify();
  other.join();
  for (const char* key : {"", "..", "a/b", ".lock", "a b"}) {
    EXPECT_THAT(Get(key, 1), StatusIs(absl::StatusCode::kInvalidArgument)) << key;
  }
}

}  // namespace
}  // namespace graft::fileservice
