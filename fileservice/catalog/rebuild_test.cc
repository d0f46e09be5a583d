#include "fileservice/catalog/rebuild.h"

#include "absl/strings/str_cat.h"
#include "base/check.h"
#include "base/status_matchers.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/catalog/fsck.h"
#include "fileservice/catalog/test_store.h"
#include "gmock/gmock.h"
#include "rocksdb/env.h"

namespace graft::fileservice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class RebuildTest : public ::testing::Test {
 protected:
  RebuildTest() {
    GRAFT_CHECK_OK(test_.Open());
    GRAFT_CHECK_OK(test_.MakeFileset("data"));
  }
  std::string Bytes(size_t size) { return test_.random().Bytes(size); }
  // The index is gone; another one is made from the packs and opened.
  RebuildReport LoseTheIndex() {
    test_.Close();
    auto db = Database::Open("/db", {.env = NewMemory()});
    GRAFT_CHECK_OK(db.status());
    auto report = RebuildIndex(**db, test_.files(), "/packs", test_.clock());
    GRAFT_CHECK_OK(report.status());
    db->reset();
    test_.UseEnv(memories_.back().get());
    GRAFT_CHECK_OK(test_.Open());
    return *std::move(report);
  }
  FsckReport Check() {
    auto report = CheckStore(test_.db(), test_.files(), "/packs");
    GRAFT_CHECK_OK(report.status());
    return *std::move(report);
  }

  rocksdb::Env* NewMemory() {
    memories_.emplace_back(rocksdb::NewMemEnv(rocksdb::Env::Default()));
    return memories_.back().get();
  }

  std::vector<std::unique_ptr<rocksdb::Env>> memories_;
  TestStore test_{{.seed = 4}};
};

TEST_F(RebuildTest, FilesetsVersionsRefsAndBytesComeBackFromThePacksAlone) {
  const Contents first = {{"a/config.json", "{}"}, {"empty", ""}, {"weights.bin", Bytes(400'000)}};
  const Contents second = {{"weights.bin", Bytes(300'000)}, {"rows.jsonl", Bytes(70'000)}};
  ASSERT_THAT(test_.Publish("data", first, "prod"), IsOk());
  ASSERT_THAT(test_.Publish("data", second), IsOk());
  ASSERT_THAT(test_.MakeFileset("other"), IsOk());
  ASSERT_THAT(test_.catalog().SetRef({"ws", "data"}, "next", 2, 0, "users/me"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const FilesetRecord before,
                             test_.catalog().GetFileset({"ws", "data"}));
  GRAFT_ASSERT_OK_AND_ASSIGN(const UsageRecord usage, test_.catalog().Usage("ws"));

  const RebuildReport report = LoseTheIndex();
  EXPECT_THAT(report.losses, IsEmpty());
  EXPECT_EQ(report.versions, 2);
  EXPECT_EQ(report.refs, 2);
  EXPECT_EQ(*test_.Read("data", "prod"), first);
  EXPECT_EQ(*test_.Read("data", "next"), second);
  GRAFT_ASSERT_OK_AND_ASSIGN(const FilesetRecord after, test_.catalog().GetFileset({"ws", "data"}));
  EXPECT_EQ(after.Encode(), before.Encode());
  EXPECT_EQ(test_.catalog().Usage("ws")->logical_bytes, usage.logical_bytes);
  EXPECT_THAT(test_.catalog().GetFileset({"ws", "other"}), IsOk());
  EXPECT_EQ(Check().problem_count, 0);
  // Life goes on: the same content is known, and a collection takes nothing that is needed.
  ASSERT_THAT(test_.Publish("data", first), IsOk());
  ASSERT_THAT(test_.Collect(), IsOk());
  EXPECT_THAT(test_.ReadEverything("data"), IsOk());
  EXPECT_THAT(LoseTheIndex().losses, IsEmpty());
  EXPECT_EQ(*test_.Read("data", "latest"), first);
}

TEST_F(RebuildTest, WhatWasDeletedRenamedOrMovedStaysSo) {
  for (int i = 0; i < 3; ++i) ASSERT_THAT(test_.Publish("data", {{"f", Bytes(5'000)}}), IsOk());
  ASSERT_THAT(test_.catalog().SetRef({"ws", "data"}, "prod", 1, 0, ""), IsOk());
  ASSERT_THAT(test_.catalog().SetRef({"ws", "data"}, "prod", 3, 1, ""), IsOk());
  ASSERT_THAT(test_.catalog().DeleteVersion({"ws", "data"}, 2), IsOk());
  ASSERT_THAT(test_.catalog().RenameFileset({"ws", "data"}, "renamed", ""), IsOk());
  ASSERT_THAT(test_.MakeFileset("gone"), IsOk());
  ASSERT_THAT(test_.Publish("gone", {{"f", "x"}}), IsOk());
  ASSERT_THAT(test_.catalog().DeleteFileset({"ws", "gone"}, "", false), IsOk());
  ASSERT_THAT(test_.MakeFileset("gone"), IsOk());  // another one

  EXPECT_THAT(LoseTheIndex().losses, IsEmpty());
  EXPECT_THAT(test_.Read("renamed", "1"), IsOk());
  EXPECT_THAT(test_.Read("renamed", "2"), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(test_.catalog().GetRef({"ws", "renamed"}, "prod")->version, 3);
  EXPECT_THAT(test_.catalog().GetFileset({"ws", "data"}), StatusIs(absl::StatusCode::kNotFound));
  EXPECT_EQ(test_.catalog().GetFileset({"ws", "gone"})->version_count, 0);
}

TEST_F(RebuildTest, ADamagedRecordCostsItselfAloneAndIsNamed) {
  const std::string spoiled = Bytes(100'000);
  ASSERT_THAT(test_.Publish("data", {{"spoiled.bin", spoiled}, {"sound.bin", Bytes(100'000)}}),
              IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const Contents before, test_.Read("data", "1"));
  GRAFT_ASSERT_OK_AND_ASSIGN(const FilePage file, test_.catalog().GetFile(Sha256::Of(spoiled)));
  GRAFT_ASSERT_OK_AND_ASSIGN(const ChunkRow row, test_.store().Find(file.chunks[0].id));
  test_.files().FlipBit("/packs/" + PackFileName(row.pack), row.offset * 8 + 5);
  const RebuildReport report = LoseTheIndex();
  ASSERT_THAT(report.losses, SizeIs(2));
  EXPECT_THAT(report.losses[0], HasSubstr(ToHex(file.chunks[0].id)));
  EXPECT_THAT(report.losses[1], HasSubstr("ws/filesets/data/versions/1/spoiled.bin"));
  // Whoever has the file heals it.
  ASSERT_THAT(test_.Publish("data", before), IsOk());
  EXPECT_EQ(*test_.Read("data", "1"), before);
}

TEST_F(RebuildTest, AnEmptyIndexBesidePacksIsRefused) {
  for (int i = 0; i < 4; ++i) {
    ASSERT_THAT(test_.Publish("data", {{"f.bin", Bytes(300'000)}}), IsOk());
  }
  test_.UseEnv(NewMemory());
  EXPECT_THAT(test_.Open(), StatusIs(absl::StatusCode::kDataLoss, HasSubstr("--rebuild-index")));
}

TEST_F(RebuildTest, FsckNamesWhatLacks) {
  ASSERT_THAT(test_.Publish("data", {{"f.bin", Bytes(50'000)}, {"g.txt", "text"}}), IsOk());
  EXPECT_THAT(Check().problems, IsEmpty());
  Database::Batch batch(test_.db());
  batch.Delete(Column::kChunk, BytesOf(Sha256::Of("text")));
  ASSERT_THAT(test_.db().Commit(batch), IsOk());
  EXPECT_THAT(Check().problems,
              ElementsAre(HasSubstr("filesets/data/versions/1/g.txt: it lacks chunks")));
}

TEST_F(RebuildTest, FsckSeesASpoiledHeaderAndAShortPack) {
  ASSERT_THAT(test_.Publish("data", {{"f.bin", Bytes(3'000)}}), IsOk());
  test_.files().FlipBit("/packs/" + PackFileName(1), kPackHeaderBytes * 8 + 100);
  EXPECT_THAT(Check().problems, ElementsAre(HasSubstr("there is no record's header")));
  ASSERT_THAT(test_.files().Truncate("/packs/" + PackFileName(1), kPackHeaderBytes), IsOk());
  EXPECT_THAT(Check().problems[0], HasSubstr("has 4096 of its"));
}

}  // namespace
}  // namespace graft::fileservice
