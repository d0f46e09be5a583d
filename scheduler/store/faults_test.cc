// What damage to the disk does to a store: acknowledged writes are there, or the store does not
// open.
#include <sys/mount.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <fstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "scheduler/store/rocks_store.h"
#include "tests/support/tier.h"

namespace graft::scheduler {
namespace {

namespace fs = std::filesystem;
constexpr int kAcked = 200;

std::string KeyOf(int i) { return absl::StrCat("job/w/", i); }

// A fresh folder that goes with the test.
class Folder {
 public:
  Folder() : path_(absl::StrCat(::testing::TempDir(), "/faults-", SecureRandom().Id(12))) {
    fs::create_directories(path_);
  }
  ~Folder() { fs::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  const std::string path_;
};

// Commits kAcked records; the process that did so is gone without closing the store: a copy of the
// folder is what the disk has.
void WriteAcked(const std::string& folder, const std::string& copy) {
  auto store = RocksStore::Open({.folder = folder});
  ASSERT_THAT(store, IsOk());
  for (int i = 0; i < kAcked; ++i) {
    ASSERT_THAT((*store)->Commit({.writes = {{Family::kRecords, KeyOf(i), std::string(100, 'x')}}}),
                IsOk());
  }
  fs::copy(folder, copy, fs::copy_options::recursive);
}

// The largest file of the write-ahead log.
fs::path WalOf(const std::string& folder) {
  fs::path found;
  for (const auto& entry : fs::directory_iterator(folder + "/db")) {
    if (entry.path().extension() != ".log") continue;
    if (found.empty() || entry.file_size() > fs::file_size(found)) found = entry.path();
  }
  return found;
}

// Whether the store opened with acknowledged writes missing: what must never be.
bool ServesWithLoss(const std::string& folder, std::string* how) {
  auto store = RocksStore::Open({.folder = folder});
  if (!store.ok()) {
    *how = std::string(absl::StatusCodeToString(store.status().code()));
    return false;
  }
  int there = 0;
  for (int i = 0; i < kAcked; ++i) there += (*store)->Get(Family::kRecords, KeyOf(i)).ok() ? 1 : 0;
  *how = absl::StrCat(there, " of ", kAcked);
  return there < kAcked;
}

TEST(StoreFaultsTest, AFlippedBitAnywhereInTheLogIsNeverServed) {
  const Folder work;
  const std::string whole = work.path() + "/copy";
  ASSERT_NO_FATAL_FAILURE(WriteAcked(work.path() + "/live", whole));
  SeededRandom random(11);
  const auto size = fs::file_size(WalOf(whole));
  ASSERT_GT(size, kAcked * 100);
  for (int i = 0; i < graft::testing::ByTier(40, 1000, 10000); ++i) {
    const std::string hurt = work.path() + "/hurt";
    fs::remove_all(hurt);
    fs::copy(whole, hurt, fs::copy_options::recursive);
    const uint64_t at = random.Uniform(size);
    const int bit = static_cast<int>(random.Uniform(8));
    std::fstream file(WalOf(hurt), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(file.get() ^ (1 << bit));
    file.seekp(static_cast<std::streamoff>(at));
    file.put(byte);
    file.close();
    std::string how;
    EXPECT_FALSE(ServesWithLoss(hurt, &how)) << "byte " << at << " bit " << bit << ": " << how;
  }
}

TEST(StoreFaultsTest, ACutLogIsNeverServedAsIfWhole) {
  const Folder work;
  const std::string whole = work.path() + "/copy";
  ASSERT_NO_FATAL_FAILURE(WriteAcked(work.path() + "/live", whole));
  SeededRandom random(12);
  const auto size = fs::file_size(WalOf(whole));
  for (int i = 0; i < graft::testing::ByTier(20, 300, 3000); ++i) {
    const std::string hurt = work.path() + "/hurt";
    fs::remove_all(hurt);
    fs::copy(whole, hurt, fs::copy_options::recursive);
    const uint64_t left = random.Uniform(size);
    fs::resize_file(WalOf(hurt), left);
    std::string how;
    EXPECT_FALSE(ServesWithLoss(hurt, &how)) << left << " of " << size << " bytes left: " << how;
  }
}

TEST(StoreFaultsTest, AMissingLogIsNeverServed) {
  const Folder work;
  const std::string hurt = work.path() + "/copy";
  ASSERT_NO_FATAL_FAILURE(WriteAcked(work.path() + "/live", hurt));
  fs::remove(WalOf(hurt));
  std::string how;
  EXPECT_FALSE(ServesWithLoss(hurt, &how)) << how;
}

TEST(StoreFaultsTest, AFlippedTableIsNeverServed) {
  const Folder work;
  const std::string whole = work.path() + "/copy";
  ASSERT_NO_FATAL_FAILURE(WriteAcked(work.path() + "/live", work.path() + "/first"));
  {
    // Opening once more turns the log into tables.
    auto store = RocksStore::Open({.folder = work.path() + "/first"});
    ASSERT_THAT(store, IsOk());
  }
  fs::copy(work.path() + "/first", whole, fs::copy_options::recursive);
  std::vector<fs::path> tables;
  for (const auto& entry : fs::directory_iterator(whole + "/db")) {
    if (entry.path().extension() == ".sst") tables.push_back(entry.path().filename());
  }
  if (tables.empty()) GTEST_SKIP() << "the log was not turned into tables";
  SeededRandom random(13);
  for (int i = 0; i < graft::testing::ByTier(20, 300, 3000); ++i) {
    const std::string hurt = work.path() + "/hurt";
    fs::remove_all(hurt);
    fs::copy(whole, hurt, fs::copy_options::recursive);
    const fs::path table = fs::path(hurt) / "db" / tables[random.Uniform(tables.size())];
    const uint64_t at = random.Uniform(fs::file_size(table));
    std::fstream file(table, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char byte = static_cast<char>(file.get() ^ 0x10);
    file.seekp(static_cast<std::streamoff>(at));
    file.put(byte);
    file.close();
    // A read that meets the damage says so; it never answers that a record is absent.
    auto store = RocksStore::Open({.folder = hurt});
    if (!store.ok()) continue;
    for (int key = 0; key < kAcked; ++key) {
      const auto record = (*store)->Get(Family::kRecords, KeyOf(key));
      EXPECT_FALSE(absl::IsNotFound(record.status())) << table << " byte " << at;
    }
  }
}

// On a small file system of memory, which needs the right to mount.
TEST(StoreFaultsTest, AFullDiskLosesNothingAndIsLeftWhenThereIsRoomAgain) {
  const Folder work;
  const std::string disk = work.path() + "/disk";
  fs::create_directories(disk);
  if (mount("tmpfs", disk.c_str(), "tmpfs", 0, "size=160m") != 0) {
    GTEST_SKIP() << "mounting a tmpfs is not allowed here";
  }
  struct Unmount {
    std::string path;
    ~Unmount() { umount2(path.c_str(), MNT_DETACH); }
  } unmount{disk};
  auto opened = RocksStore::Open({.folder = disk + "/data", .block_cache_bytes = 1 << 20});
  ASSERT_THAT(opened, IsOk());
  RocksStore& store = **opened;
  // As large as what opening again writes: the log is turned into tables then.
  const std::string filler = disk + "/filler";
  ASSERT_THAT(WriteFileAtomically(filler, std::string(80 << 20, 'f'), {}), IsOk());
  int acked = 0;
  absl::Status refused;
  for (; refused.ok(); ++acked) {
    ASSERT_LT(acked, 100'000) << "the disk never became full";
    refused = store
                  .Commit({.writes = {{Family::kRecords, KeyOf(acked),
                                       SeededRandom(static_cast<uint64_t>(acked)).Bytes(20'000)}}})
                  .status();
  }
  --acked;  // the last one was refused
  EXPECT_THAT(refused, StatusIs(absl::StatusCode::kResourceExhausted));
  fs::remove(filler);
  ASSERT_THAT(store.Recover(), IsOk()) << "there is room again";
  ASSERT_THAT(store.Commit({.writes = {{Family::kRecords, "after", "x"}}}), IsOk());
  for (int i = 0; i < acked; ++i) {
    EXPECT_THAT(store.Get(Family::kRecords, KeyOf(i)), IsOk()) << i << " of " << acked;
  }
}

}  // namespace
}  // namespace graft::scheduler
