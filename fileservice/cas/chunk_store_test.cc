#include "fileservice/cas/chunk_store.h"

#include <cstdlib>
#include <set>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/cas/faulty_files.h"
#include "gmock/gmock.h"
#include "rocksdb/env.h"
#include "tests/support/tier.h"

namespace graft::fileservice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr absl::string_view kSession = "0123456789abcdef";

class ChunkStoreTest : public ::testing::Test {
 protected:
  ChunkStoreTest() : files_(11), env_(rocksdb::NewMemEnv(rocksdb::Env::Default())) {
    options_.directory = "/packs";
    options_.pack_bytes = 1 << 20;
    options_.commit_interval = absl::Milliseconds(1);
    Open();
  }
  void Open() {
    store_.reset();
    db_.reset();
    GRAFT_ASSERT_OK_AND_ASSIGN(db_, Database::Open("/db", {.env = env_.get()}));
    GRAFT_ASSERT_OK_AND_ASSIGN(store_, ChunkStore::Open(*db_, files_, clock_, options_));
  }
  // The power goes while the store is at work.
  void CrashAndOpen() {
    files_.StopAfter(0);
    store_.reset();
    files_.Crash();
    Open();
  }
  absl::StatusOr<ChunkStore::PutResult> Put(const std::string& raw, bool compressible = false) {
    return store_->Put({.id = Sha256::Of(raw),
                        .raw = raw,
                        .compressible = compressible,
                        .session = std::string(kSession)});
  }
  absl::Status PutDurably(const std::string& raw) {
    const auto put = Put(raw);
    if (!put.ok()) return put.status();
    return store_->WaitDurable(put->ticket);
  }
  std::string Bytes(size_t size) { return random_.Bytes(size); }

  SeededRandom random_{3};
  FakeClock clock_;
  FaultyFiles files_;
  std::unique_ptr<rocksdb::Env> env_;
  ChunkStore::Options options_;
  std::unique_ptr<Database> db_;
  std::unique_ptr<ChunkStore> store_;
};

TEST_F(ChunkStoreTest, WhatWasPutIsReadAgain) {
  for (const size_t size : {0, 1, 4095, 4096, 70'000, 300'000, 4 << 20}) {
    const std::string raw = Bytes(size);
    ASSERT_THAT(PutDurably(raw), IsOk());
    EXPECT_EQ(*store_->Read(Sha256::Of(raw)), raw) << size;
  }
}

TEST_F(ChunkStoreTest, BytesThatAreNotTheirNameAreRefused) {
  const std::string raw = Bytes(100);
  EXPECT_THAT(store_->Put({.id = Sha256::Of("other"), .raw = raw}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("another SHA-256")));
  EXPECT_THAT(store_->Read(Sha256::Of(raw)), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(ChunkStoreTest, AChunkIsStoredOnceHoweverManyPutIt) {
  const std::string raw = Bytes(100'000);
  int64_t stored = 0;
  Mutex mu;
  std::vector<std::thread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&] {
      const auto put = Put(raw);
      ASSERT_THAT(put, IsOk());
      ASSERT_THAT(store_->WaitDurable(put->ticket), IsOk());
      MutexLock lock(mu);
      stored += put->stored_bytes;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(stored, 100'000);
}

TEST_F(ChunkStoreTest, ABatchIsWrittenWhileTheOneBeforeIsSyncedAndFallsWithIt) {
  options_.pack_bytes = 64 << 20;
  Open();
  files_.HoldSyncs();
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto first, Put(Bytes(100)));
  store_->Hurry(first.ticket);
  files_.AwaitHeldSync();
  const int64_t writes = files_.operations(FaultyFiles::Fault::kNoSpace);
  const std::string behind = Bytes(4 << 20);
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto second, Put(behind));
  EXPECT_GT(second.ticket, first.ticket);
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (files_.operations(FaultyFiles::Fault::kNoSpace) == writes && absl::Now() < deadline) {
    std::this_thread::yield();
  }
  EXPECT_GT(files_.operations(FaultyFiles::Fault::kNoSpace), writes);

  files_.FailNth(FaultyFiles::Fault::kSyncFails, 0);
  files_.ReleaseSyncs();
  EXPECT_THAT(store_->WaitDurable(first.ticket), Not(IsOk()));
  EXPECT_THAT(store_->WaitDurable(second.ticket), Not(IsOk()));
  EXPECT_THAT(store_->Read(Sha256::Of(behind)), StatusIs(absl::StatusCode::kNotFound));
  ASSERT_THAT(PutDurably(behind), IsOk());
  EXPECT_EQ(*store_->Read(Sha256::Of(behind)), behind);
}

TEST_F(ChunkStoreTest, TextIsStoredCompressed) {
  std::string text;
  for (int i = 0; i < 3000; ++i) absl::StrAppend(&text, "{\"line\": ", i, "}\n");
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto put, Put(text, true));
  EXPECT_LT(put.stored_bytes, static_cast<int64_t>(text.size() / 2));
  ASSERT_THAT(store_->WaitDurable(put.ticket), IsOk());
  EXPECT_EQ(*store_->Read(Sha256::Of(text)), text);
  const std::string noise = Bytes(50'000);
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto raw, Put(noise, true));
  EXPECT_EQ(raw.stored_bytes, 50'000);
}

TEST_F(ChunkStoreTest, ManyAreReadInTheOrderAskedWhereverTheyLie) {
  std::vector<std::string> all;
  for (const size_t size : {70'000, 20'000, 300'000, 1 << 20, 4 << 20, 5'000, 600'000}) {
    all.push_back(Bytes(size));
    ASSERT_THAT(PutDurably(all.back()), IsOk());
  }
  all.push_back(std::string(50'000, 'x'));
  ASSERT_THAT(Put(all.back(), /*compressible=*/true), IsOk());
  const std::string absent = Bytes(10);
  const std::vector<size_t> order = {0, 1, 2, 3, 4, 5, 6, 7, 6, 0, 2, 2, 1};
  std::vector<ChunkId> ids;
  for (const size_t i : order) {
    ids.push_back(Sha256::Of(all[i]));
    ids.push_back(Sha256::Of(absent));
  }
  ASSERT_THAT(store_->WaitDurable(Put(Bytes(1))->ticket), IsOk());
  ReadPool pool;
  GRAFT_ASSERT_OK_AND_ASSIGN(ChunkRuns runs, store_->ReadHeld(ids, kSession, pool));
  for (const size_t i : order) {
    EXPECT_EQ(*runs.Next(), all[i]) << i;
    EXPECT_THAT(runs.Next(), StatusIs(absl::StatusCode::kNotFound));
  }
  GRAFT_ASSERT_OK_AND_ASSIGN(ChunkRuns others, store_->ReadHeld(ids, "fedcba9876543210", pool));
  EXPECT_THAT(others.Next(), StatusIs(absl::StatusCode::kNotFound));
}

TEST(RealFilesTest, AReadPastThePageCacheGivesTheSameBytes) {
  char folder[] = "/tmp/graft-files-XXXXXX";
  const std::string path = JoinPath(mkdtemp(folder), "file");
  const std::string content = SeededRandom(5).Bytes((1 << 20) + 17);  // ends inside of a block
  ASSERT_THAT(WriteFileAtomically(path, content), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto file, RealFiles().OpenForRead(path));
  const std::unique_ptr<char, decltype(&std::free)> buffer(
      static_cast<char*>(std::aligned_alloc(kBlockBytes, 2 << 20)), &std::free);
  const auto size = static_cast<int64_t>(content.size());
  for (const int64_t begin : {int64_t{0}, int64_t{1}, int64_t{4096}, int64_t{70'001}, size - 5}) {
    for (const int64_t bytes : {int64_t{1}, int64_t{4096}, size - begin}) {
      if (begin + bytes > size) continue;
      const auto got = file->ReadOnce(begin, static_cast<size_t>(bytes), buffer.get());
      ASSERT_THAT(got, IsOk());
      EXPECT_EQ(*got, absl::string_view(content).substr(static_cast<size_t>(begin),
                                                        static_cast<size_t>(bytes)));
    }
  }
  EXPECT_THAT(file->ReadOnce(size - 5, 6, buffer.get()), StatusIs(absl::StatusCode::kDataLoss));
  ASSERT_THAT(RemoveTree(folder), IsOk());
}

TEST_F(ChunkStoreTest, OpenedAgainItHasEverything) {
  std::vector<std::string> all;
  for (int i = 0; i < 40; ++i) {
    all.push_back(Bytes(100'000));
    ASSERT_THAT(PutDurably(all.back()), IsOk());
  }
  Open();
  for (const std::string& raw : all) EXPECT_EQ(*store_->Read(Sha256::Of(raw)), raw);
  EXPECT_GT(files_.paths().size(), 3u);
}

TEST_F(ChunkStoreTest, WhatWasAcknowledgedSurvivesThePowerAtAnyPoint) {
  const int rounds = testing::ByTier(150, 1000, 5000);
  std::set<std::string> acknowledged;
  for (int round = 0; round < rounds; ++round) {
    files_.StopAfter(static_cast<int>(random_.Uniform(12)));
    for (int i = 0; i < 6; ++i) {
      const std::string raw = Bytes(1 + random_.Uniform(60'000));
      if (PutDurably(raw).ok()) acknowledged.insert(raw);
    }
    CrashAndOpen();
    if (HasFatalFailure()) return;
  }
  ASSERT_GT(acknowledged.size(), 100u);
  for (const std::string& raw : acknowledged) {
    ASSERT_THAT(store_->Verify(Sha256::Of(raw)), IsOk());
  }
}

TEST_F(ChunkStoreTest, WhateverTheIndexNamesIsSoundAfterAPowerCut) {
  for (int round = 0; round < testing::ByTier(50, 500, 1000); ++round) {
    files_.StopAfter(static_cast<int>(random_.Uniform(6)));
    for (int i = 0; i < 4; ++i) Put(Bytes(random_.Uniform(200'000))).status().IgnoreError();
    CrashAndOpen();
    absl::Status damage;
    ASSERT_THAT(db_->Scan(Column::kChunk, "",
                          [&](absl::string_view key, absl::string_view) {
                            damage.Update(store_->Verify(DigestFromBytes(key)));
                            return true;
                          }),
                IsOk());
    ASSERT_THAT(damage, IsOk());
  }
}

TEST_F(ChunkStoreTest, AFailedWriteOrSyncFailsThePutAndNothingElse) {
  using Fault = FaultyFiles::Fault;
  for (const Fault fault : {Fault::kNoSpace, Fault::kIo, Fault::kShortWrite, Fault::kSyncFails}) {
    for (int nth = 0; nth < 4; ++nth) {
      const std::string before = Bytes(50'000);
      ASSERT_THAT(PutDurably(before), IsOk());
      files_.FailNth(fault, nth);
      std::vector<std::string> all;
      for (int i = 0; i < 8; ++i) {
        const std::string raw = Bytes(90'000);
        if (PutDurably(raw).ok()) {
          all.push_back(raw);
        } else {
          EXPECT_THAT(store_->Find(Sha256::Of(raw)), StatusIs(absl::StatusCode::kNotFound));
          ASSERT_THAT(PutDurably(raw), IsOk());  // the client tries again
        }
      }
      EXPECT_EQ(*store_->Read(Sha256::Of(before)), before);
      for (const std::string& raw : all) EXPECT_EQ(*store_->Read(Sha256::Of(raw)), raw);
    }
  }
}

TEST_F(ChunkStoreTest, AFlippedBitIsNeverServed) {
  const std::string raw = Bytes(100'000);
  ASSERT_THAT(PutDurably(raw), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const ChunkRow row, store_->Find(Sha256::Of(raw)));
  const std::string path = "/packs/" + PackFileName(row.pack);
  for (int i = 0; i < testing::ByTier(200, 1000, 1000); ++i) {
    const int64_t bit = (row.offset * 8) + static_cast<int64_t>(random_.Uniform(800'000));
    files_.FlipBit(path, bit);
    EXPECT_THAT(store_->Read(Sha256::Of(raw)), StatusIs(absl::StatusCode::kDataLoss));
    files_.FlipBit(path, bit);
  }
  EXPECT_EQ(*store_->Read(Sha256::Of(raw)), raw);
}

TEST_F(ChunkStoreTest, AFullDiskRefusesNewBytesAndServesTheOld) {
  const std::string old = Bytes(1000);
  files_.set_available_bytes(options_.reserve_bytes - 1);
  ASSERT_THAT(PutDurably(old), IsOk());  // found out after the first batch
  EXPECT_THAT(PutDurably(Bytes(1000)),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("reserve")));
  EXPECT_THAT(PutDurably(old), IsOk());  // nothing new
  EXPECT_EQ(*store_->Read(Sha256::Of(old)), old);
  files_.set_available_bytes(options_.reserve_bytes + 1);
  EXPECT_THAT(PutDurably(Bytes(1000)), IsOk());
}

TEST_F(ChunkStoreTest, FindMissingTellsNothingAboutOtherWorkspaces) {
  const std::string raw = Bytes(1000);
  ASSERT_THAT(PutDurably(raw), IsOk());
  const std::vector<ChunkId> ids = {Sha256::Of(raw), Sha256::Of("never")};
  EXPECT_THAT(*store_->FindMissing("mine", "another session.", ids), ElementsAre(0, 1));
  EXPECT_THAT(*store_->FindMissing("mine", kSession, ids), ElementsAre(1));  // it sent it itself
  Database::Batch batch(*db_);
  batch.Put(Column::kReach, ReachKey("mine", ids[0]), "");
  ASSERT_THAT(db_->Commit(batch), IsOk());
  EXPECT_THAT(*store_->FindMissing("mine", "another session.", ids), ElementsAre(1));
  EXPECT_THAT(*store_->FindMissing("yours", "a third session.", ids), ElementsAre(0, 1));
  EXPECT_TRUE(*db_->Contains(Column::kLease, LeaseKey(ids[0], "another session.")));
}

TEST_F(ChunkStoreTest, APackOfALaterReleaseIsRefusedByName) {
  std::string header = EncodePackHeader(9);
  header[8] = 2;  // the version
  std::string fixed =
      header.substr(0, 16) + Encoder().Fixed32(Crc32c(0, header.substr(0, 16))).Take();
  EXPECT_THAT(CheckPackHeader(fixed, 9),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("later release")));
}

}  // namespace
}  // namespace graft::fileservice
