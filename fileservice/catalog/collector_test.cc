#include "fileservice/catalog/collector.h"

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/cas/faulty_files.h"
#include "gmock/gmock.h"
#include "rocksdb/env.h"
#include "tests/support/tier.h"

namespace graft::fileservice {
namespace {

class CollectorTest : public ::testing::Test {
 protected:
  CollectorTest() : files_(5), env_(rocksdb::NewMemEnv(rocksdb::Env::Default())) {
    db_ = *Database::Open("/db", {.env = env_.get()});
    ChunkStore::Options options;
    options.directory = "/packs";
    options.pack_bytes = 256 << 10;
    options.commit_interval = absl::Milliseconds(1);
    store_ = *ChunkStore::Open(*db_, files_, clock_, options);
    catalog_ = std::make_unique<Catalog>(*db_, *store_, clock_, random_, Catalog::Options());
    options_.grace = absl::ZeroDuration();
    options_.trash_time = absl::ZeroDuration();
    options_.max_share = 1;
  }
  void MakeFileset(const std::string& name) {
    FilesetRecord fileset;
    fileset.workspace = "ws";
    fileset.name = name;
    ASSERT_THAT(catalog_->CreateFileset(fileset, ""), IsOk());
  }
  absl::StatusOr<std::string> Session(const std::string& fileset) {
    SessionRecord session;
    session.workspace = "ws";
    session.fileset = fileset;
    const auto created = catalog_->CreateSession(session, "");
    if (!created.ok()) return created.status();
    return created->id;
  }
  // As a client does: ask, send what is missing, stage.
  absl::Status Stage(const std::string& session, const std::string& path,
                     const std::string& content) {
    const ChunkId id = Sha256::Of(content);
    const auto missing = store_->FindMissing("ws", session, {id});
    if (!missing.ok()) return missing.status();
    if (!missing->empty()) {
      const auto put = store_->Put({.id = id, .raw = content, .session = session});
      if (!put.ok()) return put.status();
      const absl::Status durable = store_->WaitDurable(put->ticket);
      if (!durable.ok()) return durable;
    }
    Entry entry;
    entry.size = static_cast<int64_t>(content.size());
    entry.sha256 = id;
    FilePage file;
    file.chunks = {{id, static_cast<uint32_t>(content.size())}};
    return catalog_->StageFile(session, path, entry, file);
  }
  absl::StatusOr<int64_t> Publish(const std::string& fileset,
                                  const std::map<std::string, std::string>& contents) {
    const auto session = Session(fileset);
    if (!session.ok()) return session.status();
    for (const auto& [path, content] : contents) {
      const absl::Status status = Stage(*session, path, content);
      if (!status.ok()) return status;
    }
    const auto version = catalog_->Publish({.session = *session});
    if (!version.ok()) return version.status();
    return version->version.number;
  }
  // Reads every file of every version whole.
  absl::Status ReadEverything(const std::string& fileset) {
    const auto record = catalog_->GetFileset({"ws", fileset});
    if (!record.ok()) return record.status();
    const auto versions = catalog_->ListVersions(*record, INT64_MAX, SIZE_MAX);
    absl::Status status = versions.status();
    for (size_t i = 0; status.ok() && i < versions->size(); ++i) {
      const ResolvedVersion version{*record, (*versions)[i]};
      status.Update(catalog_->VisitEntries(version, "", "", [&](absl::string_view, const Entry& e) {
        const auto file = catalog_->GetFile(e.sha256);
        status.Update(file.status());
        for (size_t c = 0; file.ok() && c < file->chunks.size(); ++c) {
          status.Update(store_->Verify(file->chunks[c].id));
        }
        return status.ok();
      }));
    }
    return status;
  }
  absl::StatusOr<Collector::Report> Collect() {
    return Collector(*catalog_, *store_, clock_, options_).Run();
  }

  FakeClock clock_;
  SeededRandom random_{9};
  FaultyFiles files_;
  std::unique_ptr<rocksdb::Env> env_;
  std::unique_ptr<Database> db_;
  std::unique_ptr<ChunkStore> store_;
  std::unique_ptr<Catalog> catalog_;
  Collector::Options options_;
};

TEST_F(CollectorTest, WhatNobodyNamesGoesAndTheRestStays) {
  MakeFileset("data");
  const std::string shared = random_.Bytes(100'000);
  for (int i = 0; i < 8; ++i) {
    ASSERT_THAT(Publish("data", {{"own", random_.Bytes(100'000)}, {"shared", shared}}), IsOk());
  }
  for (int i = 1; i <= 7; ++i) ASSERT_THAT(catalog_->DeleteVersion({"ws", "data"}, i), IsOk());
  ASSERT_THAT(store_->SealOpenPack(), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const Collector::Report report, Collect());
  EXPECT_GE(report.trashed_bytes, 700'000);
  EXPECT_GT(report.removed_packs, 0);
  EXPECT_THAT(ReadEverything("data"), IsOk());
  int64_t stored = 0;
  for (const std::string& path : files_.paths()) {
    stored += static_cast<int64_t>(files_.content(path).size());
  }
  EXPECT_LT(stored, static_cast<int64_t>(200'000 / 0.6 + 300'000));
}

TEST_F(CollectorTest, ADryRunTakesNothing) {
  MakeFileset("data");
  const std::string content = random_.Bytes(50'000);
  ASSERT_THAT(Publish("data", {{"a", content}}), IsOk());
  ASSERT_THAT(Publish("data", {{"a", "x"}}), IsOk());
  ASSERT_THAT(catalog_->DeleteVersion({"ws", "data"}, 1), IsOk());
  ASSERT_THAT(store_->SealOpenPack(), IsOk());
  options_.dry_run = true;
  // The session of version 1 still holds its leases: a run that drops them comes first.
  options_.dry_run = false;
  options_.grace = absl::Hours(1);
  ASSERT_THAT(Collect(), IsOk());
  options_.grace = absl::ZeroDuration();
  options_.dry_run = true;
  GRAFT_ASSERT_OK_AND_ASSIGN(const Collector::Report report, Collect());
  EXPECT_GE(report.trashed_bytes, 50'000);
  EXPECT_THAT(store_->Verify(Sha256::Of(content)), IsOk());
}

TEST_F(CollectorTest, WhatASessionHoldsStaysUntilItEnds) {
  MakeFileset("data");
  const std::string content = random_.Bytes(50'000);
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::string session, Session("data"));
  ASSERT_THAT(Stage(session, "a", content), IsOk());
  ASSERT_THAT(store_->SealOpenPack(), IsOk());
  ASSERT_THAT(Collect(), IsOk());
  EXPECT_THAT(store_->Verify(Sha256::Of(content)), IsOk());
  ASSERT_THAT(catalog_->AbortSession(session), IsOk());
  ASSERT_THAT(Collect(), IsOk());
  EXPECT_THAT(store_->Find(Sha256::Of(content)), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(CollectorTest, ACollectionThatWouldTakeTooMuchStops) {
  MakeFileset("data");
  ASSERT_THAT(Publish("data", {{"a", random_.Bytes(50'000)}}), IsOk());
  ASSERT_THAT(catalog_->DeleteVersion({"ws", "data"}, 1), IsOk());
  ASSERT_THAT(store_->SealOpenPack(), IsOk());
  options_.max_share = 0.3;
  EXPECT_THAT(Collect(), StatusIs(absl::StatusCode::kFailedPrecondition));
}

// The most repeated fault of the systems that came before: a collection beside uploads that refer
// to what it is about to take.
TEST_F(CollectorTest, NothingIsMissingAfterCollectionsBesideUploadsAndDeletions) {
  constexpr int kClients = 8;
  const int rounds = testing::ByTier(40, 400, 4000);
  for (int i = 0; i < kClients; ++i) MakeFileset(absl::StrCat("data", i));
  std::vector<std::string> pool;
  for (int i = 0; i < 24; ++i) pool.push_back(random_.Bytes(8'000));
  std::atomic<bool> stop{false};
  std::thread collector([&] {
    while (!stop) {
      EXPECT_THAT(store_->SealOpenPack(), IsOk());
      EXPECT_THAT(Collect(), IsOk());
    }
  });
  std::vector<std::thread> clients;
  for (int client = 0; client < kClients; ++client) {
    clients.emplace_back([&, client] {
      SeededRandom random(static_cast<uint64_t>(client));
      const std::string fileset = absl::StrCat("data", client);
      for (int round = 0; round < rounds; ++round) {
        std::map<std::string, std::string> contents;
        for (int i = 0; i < 3; ++i) {
          contents[absl::StrCat("f", i)] = pool[random.Uniform(pool.size())];
        }
        const auto number = Publish(fileset, contents);
        ASSERT_THAT(number, IsOk());
        ASSERT_THAT(ReadEverything(fileset), IsOk());
        ASSERT_THAT(catalog_->DeleteVersion({"ws", fileset}, *number), IsOk());
      }
      ASSERT_THAT(Publish(fileset, {{"last", pool[static_cast<size_t>(client)]}}), IsOk());
    });
  }
  for (std::thread& thread : clients) thread.join();
  stop = true;
  collector.join();
  for (int i = 0; i < kClients; ++i) {
    EXPECT_THAT(ReadEverything(absl::StrCat("data", i)), IsOk());
  }
}

}  // namespace
}  // namespace graft::fileservice
