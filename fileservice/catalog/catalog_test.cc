#include "fileservice/catalog/catalog.h"

#include <thread>

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "fileservice/cas/faulty_files.h"
#include "gmock/gmock.h"
#include "rocksdb/env.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

class CatalogTest : public ::testing::Test {
 protected:
  CatalogTest() : files_(5), env_(rocksdb::NewMemEnv(rocksdb::Env::Default())) { Open(); }
  void Open() {
    catalog_.reset();
    store_.reset();
    db_.reset();
    GRAFT_ASSERT_OK_AND_ASSIGN(db_, Database::Open("/db", {.env = env_.get()}));
    ChunkStore::Options options;
    options.directory = "/packs";
    options.commit_interval = absl::Milliseconds(1);
    GRAFT_ASSERT_OK_AND_ASSIGN(store_, ChunkStore::Open(*db_, files_, clock_, options));
    Catalog::Options catalog_options;
    catalog_options.quota_bytes["small"] = 100;
    catalog_ = std::make_unique<Catalog>(*db_, *store_, clock_, random_, catalog_options);
    ASSERT_THAT(catalog_->Open(), IsOk());
  }
  void MakeFileset(const FilesetName& name) {
    FilesetRecord fileset;
    fileset.workspace = name.workspace;
    fileset.name = name.fileset;
    ASSERT_THAT(catalog_->CreateFileset(fileset, ""), IsOk());
  }
  std::string NewSession(const FilesetName& name, int64_t base = 0,
                         std::vector<std::string> removed = {}) {
    SessionRecord session;
    session.workspace = name.workspace;
    session.fileset = name.fileset;
    session.base_version = base;
    session.removed_paths = std::move(removed);
    return catalog_->CreateSession(session, "")->id;
  }
  absl::Status Stage(const std::string& session, const std::string& path,
                     const std::string& content) {
    const auto put = store_->Put({.id = Sha256::Of(content), .raw = content, .session = session});
    if (!put.ok()) return put.status();
    const absl::Status durable = store_->WaitDurable(put->ticket);
    if (!durable.ok()) return durable;
    Entry entry;
    entry.size = static_cast<int64_t>(content.size());
    entry.sha256 = Sha256::Of(content);
    FilePage file;
    file.chunks = {{entry.sha256, static_cast<uint32_t>(content.size())}};
    return catalog_->StageFile(session, path, entry, file);
  }
  absl::StatusOr<ResolvedVersion> PublishFiles(const FilesetName& name,
                                               const std::map<std::string, std::string>& contents) {
    const std::string session = NewSession(name);
    for (const auto& [path, content] : contents) {
      const absl::Status status = Stage(session, path, content);
      if (!status.ok()) return status;
    }
    return catalog_->Publish({.session = session, .actor = "users/me"});
  }
  std::vector<std::string> Paths(const ResolvedVersion& version) {
    std::vector<std::string> paths;
    EXPECT_THAT(catalog_->VisitEntries(version, "", "",
                                       [&](absl::string_view path, const Entry&) {
                                         paths.emplace_back(path);
                                         return true;
                                       }),
                IsOk());
    return paths;
  }

  const FilesetName data_{"ws", "data"};
  FakeClock clock_;
  SeededRandom random_{9};
  FaultyFiles files_;
  std::unique_ptr<rocksdb::Env> env_;
  std::unique_ptr<Database> db_;
  std::unique_ptr<ChunkStore> store_;
  std::unique_ptr<Catalog> catalog_;
};

TEST_F(CatalogTest, APublishedVersionIsFoundByNumberDigestRefAndLatest) {
  MakeFileset(data_);
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto first, PublishFiles(data_, {{"a", "1"}, {"b/c", "2"}}));
  EXPECT_EQ(first.name(), "workspaces/ws/filesets/data/versions/1");
  ASSERT_THAT(catalog_->SetRef(data_, "prod", 1, 0, "me"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto second, PublishFiles(data_, {{"a", "3"}}));
  const std::string digest = absl::StrCat("sha256:", ToHex(first.version.digest));
  EXPECT_EQ(catalog_->Resolve(data_, digest)->version.number, 1);
  EXPECT_EQ(catalog_->Resolve(data_, "prod")->version.number, 1);
  EXPECT_EQ(catalog_->Resolve(data_, "latest")->version.number, 2);
  EXPECT_EQ(catalog_->Resolve(data_, "2")->version.parent, first.name());
  EXPECT_THAT(catalog_->Resolve(data_, "3"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(Paths(first), ElementsAre("a", "b/c"));
  Open();
  EXPECT_THAT(Paths(*catalog_->Resolve(data_, "1")), ElementsAre("a", "b/c"));
}

TEST_F(CatalogTest, AVersionOnABaseKeepsItsFilesButThoseRemovedOrReplaced) {
  MakeFileset(data_);
  ASSERT_THAT(PublishFiles(data_, {{"a", "1"}, {"b", "2"}, {"c", "3"}}), IsOk());
  const std::string session = NewSession(data_, 1, {"b"});
  ASSERT_THAT(Stage(session, "c", "new"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto second, catalog_->Publish({.session = session}));
  EXPECT_THAT(Paths(second), ElementsAre("a", "c"));
  EXPECT_EQ(catalog_->GetEntry(second, "c")->sha256, Sha256::Of("new"));
}

TEST_F(CatalogTest, PublishingTwiceAnswersTheSameVersion) {
  MakeFileset(data_);
  const std::string session = NewSession(data_);
  ASSERT_THAT(Stage(session, "a", "1"), IsOk());
  ASSERT_THAT(catalog_->Publish({.session = session}), IsOk());
  EXPECT_EQ(catalog_->Publish({.session = session})->version.number, 1);
  EXPECT_EQ(catalog_->GetFileset(data_)->version_count, 1);
  EXPECT_THAT(Stage(session, "b", "2"),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("published")));
}

TEST_F(CatalogTest, AFileWhoseChunksTheSessionLacksCannotBeStaged) {
  MakeFileset(data_);
  ASSERT_THAT(PublishFiles(data_, {{"a", "1"}}), IsOk());
  Entry entry;
  entry.size = 1;
  entry.sha256 = Sha256::Of("1");
  FilePage file;
  file.chunks = {{entry.sha256, 1}};
  // The chunk is in the store, but this session neither sent it nor asked for it.
  const std::string session = NewSession(data_);
  const absl::Status status = catalog_->StageFile(session, "a", entry, file);
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kFailedPrecondition));
  EXPECT_EQ(rpc::ReadErrorDetails(status).reason, "CHUNKS_MISSING");
  ASSERT_THAT(store_->FindMissing("ws", session, {entry.sha256}), IsOk());
  EXPECT_THAT(catalog_->StageFile(session, "a", entry, file), IsOk());
}

TEST_F(CatalogTest, CollidingPathsAreRefusedWhenPublished) {
  MakeFileset(data_);
  EXPECT_THAT(PublishFiles(data_, {{"a", "1"}, {"a/b", "2"}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("folder")));
  EXPECT_THAT(PublishFiles(data_, {{"Readme", "1"}, {"README", "2"}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("case")));
  EXPECT_THAT(PublishFiles(data_, {{"A", "1"}, {"a/b", "2"}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("folder")));
  EXPECT_EQ(catalog_->GetFileset(data_)->latest_version, 0);
}

TEST_F(CatalogTest, OneOfManyWritersMovesARef) {
  MakeFileset(data_);
  for (int i = 0; i < 3; ++i) ASSERT_THAT(PublishFiles(data_, {{"a", absl::StrCat(i)}}), IsOk());
  for (int64_t round = 0; round < 2; ++round) {
    std::atomic<int> winners{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 100; ++i) {
      threads.emplace_back([&] {
        const absl::Status status =
            catalog_->SetRef(data_, "prod", round + 1, round, "me").status();
        if (status.ok()) {
          ++winners;
        } else {
          EXPECT_THAT(status, StatusIs(absl::StatusCode::kAborted));
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_EQ(winners, 1);
  }
}

TEST_F(CatalogTest, WhatIsPinnedOrReferredToStays) {
  MakeFileset(data_);
  ASSERT_THAT(PublishFiles(data_, {{"a", "1"}}), IsOk());
  ASSERT_THAT(PublishFiles(data_, {{"a", "2"}}), IsOk());
  ASSERT_THAT(catalog_->PutPin(data_, 1, "workspaces/ws/jobs/j1"), IsOk());
  ASSERT_THAT(catalog_->PutPin(data_, 1, "workspaces/ws/jobs/j1"), IsOk());
  EXPECT_THAT(catalog_->DeleteVersion(data_, 1),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("workspaces/ws/jobs/j1")));
  EXPECT_THAT(catalog_->DeleteFileset(data_, "", false),
              StatusIs(absl::StatusCode::kFailedPrecondition));
  ASSERT_THAT(catalog_->DeletePin(data_, 1, "workspaces/ws/jobs/j1"), IsOk());
  ASSERT_THAT(catalog_->SetRef(data_, "prod", 1, 0, "me"), IsOk());
  EXPECT_THAT(catalog_->DeleteVersion(data_, 1),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("prod")));
  ASSERT_THAT(catalog_->DeleteRef(data_, "prod", 1), IsOk());
  EXPECT_THAT(catalog_->DeleteVersion(data_, 1), IsOk());
  EXPECT_THAT(catalog_->Resolve(data_, "1"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(catalog_->DeleteFileset(data_, "", false), IsOk());
  EXPECT_EQ(catalog_->Usage("ws")->logical_bytes, 0);
}

TEST_F(CatalogTest, AQuotaIsNeverPassedHoweverManyRaceForIt) {
  const FilesetName small{"small", "data"};
  MakeFileset(small);
  std::vector<std::thread> threads;
  std::atomic<int> published{0};
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&, i] {
      const auto version =
          PublishFiles(small, {{"a", std::string(30, static_cast<char>('a' + i))}});
      if (version.ok()) {
        ++published;
      } else {
        EXPECT_THAT(version, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("quota")));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(published, 3);
  EXPECT_EQ(catalog_->Usage("small")->logical_bytes, 90);
}

TEST_F(CatalogTest, AReservationCountsUntilItsSessionEnds) {
  const FilesetName small{"small", "data"};
  MakeFileset(small);
  SessionRecord session;
  session.workspace = "small";
  session.fileset = "data";
  session.expected_bytes = 80;
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto first, catalog_->CreateSession(session, ""));
  EXPECT_THAT(catalog_->CreateSession(session, ""), StatusIs(absl::StatusCode::kResourceExhausted));
  ASSERT_THAT(catalog_->AbortSession(first.id), IsOk());
  EXPECT_THAT(catalog_->CreateSession(session, ""), IsOk());
}

TEST_F(CatalogTest, ASessionThatNobodyUsesExpires) {
  MakeFileset(data_);
  const std::string session = NewSession(data_);
  clock_.Advance(absl::Hours(23));
  EXPECT_THAT(catalog_->UseSession(session), IsOk());
  clock_.Advance(absl::Hours(23));
  EXPECT_THAT(catalog_->UseSession(session), IsOk());
  clock_.Advance(absl::Hours(25));
  EXPECT_THAT(catalog_->UseSession(session), StatusIs(absl::StatusCode::kFailedPrecondition));
}

TEST_F(CatalogTest, ARequestIdAnswersTheSameAgain) {
  FilesetRecord fileset;
  fileset.workspace = "ws";
  fileset.name = "data";
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto first, catalog_->CreateFileset(fileset, "id-1"));
  EXPECT_EQ(catalog_->CreateFileset(fileset, "id-1")->uid, first.uid);
  EXPECT_THAT(catalog_->CreateFileset(fileset, "id-2"), StatusIs(absl::StatusCode::kAlreadyExists));
  fileset.name = "other";
  EXPECT_THAT(catalog_->CreateFileset(fileset, "id-1"),
              StatusIs(absl::StatusCode::kAlreadyExists, HasSubstr("request_id")));
}

TEST_F(CatalogTest, ACopyAndARenameMoveNoBytes) {
  MakeFileset(data_);
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto source, PublishFiles(data_, {{"a", "1"}, {"b", "2"}}));
  const FilesetName target{"other", "copy"};
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto copy,
                             catalog_->CopyVersion(source, target, std::nullopt, "", "me", ""));
  EXPECT_EQ(copy.version.digest, source.version.digest);
  EXPECT_THAT(*store_->FindMissing("other", "0123456789abcdef", {Sha256::Of("1")}), IsEmpty());
  ASSERT_THAT(catalog_->RenameFileset(target, "moved", ""), IsOk());
  EXPECT_THAT(Paths(*catalog_->Resolve({"other", "moved"}, "1")), ElementsAre("a", "b"));
  EXPECT_THAT(catalog_->GetFileset(target), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(CatalogTest, RetentionKeepsTheLatestTheReferredToAndThePinned) {
  MakeFileset(data_);
  ASSERT_THAT(catalog_->UpdateFileset(data_, "",
                                      [](FilesetRecord& fileset) {
                                        fileset.keep_last = 2;
                                        return absl::OkStatus();
                                      }),
              IsOk());
  for (int i = 0; i < 6; ++i) ASSERT_THAT(PublishFiles(data_, {{"a", absl::StrCat(i)}}), IsOk());
  ASSERT_THAT(catalog_->SetRef(data_, "prod", 2, 0, "me"), IsOk());
  ASSERT_THAT(catalog_->PutPin(data_, 3, "workspaces/ws/jobs/j"), IsOk());
  EXPECT_EQ(*catalog_->ApplyRetention(), 2);
  std::vector<int64_t> left;
  const FilesetRecord fileset = *catalog_->GetFileset(data_);
  const auto versions = catalog_->ListVersions(fileset, INT64_MAX, 100);
  for (const VersionRecord& version : *versions) {
    left.push_back(version.number);
  }
  EXPECT_THAT(left, ElementsAre(6, 5, 3, 2));
}

TEST_F(CatalogTest, AStaleEtagIsAborted) {
  MakeFileset(data_);
  const auto describe = [](FilesetRecord& fileset) {
    fileset.description = "new";
    return absl::OkStatus();
  };
  EXPECT_THAT(catalog_->UpdateFileset(data_, "\"1\"", describe), IsOk());
  EXPECT_THAT(catalog_->UpdateFileset(data_, "\"1\"", describe),
              StatusIs(absl::StatusCode::kAborted));
}

}  // namespace
}  // namespace graft::fileservice
