#include "fileservice/commands.h"

#include <cstdlib>

#include "base/check.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/random.h"
#include "base/status_matchers.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/catalog/catalog.h"
#include "gmock/gmock.h"

namespace graft::fileservice {
namespace {

using ::testing::HasSubstr;

class CommandsTest : public ::testing::Test {
 protected:
  CommandsTest() {
    char folder[] = "/tmp/graft-commands-XXXXXX";
    root_ = mkdtemp(folder);
    content_ = random_.Bytes(200'000);
    Fill(root_ + "/a");
  }
  ~CommandsTest() override { GRAFT_CHECK_OK(RemoveTree(root_)); }

  // A store with one version of one file.
  void Fill(const std::string& data) {
    GRAFT_CHECK_OK(MakeDirectories(data));
    auto db = Database::Open(data + "/index", {.watermark_dir = data + "/watermark"});
    GRAFT_CHECK_OK(db.status());
    ChunkStore::Options options;
    options.directory = data + "/packs";
    options.reserve_bytes = 0;
    auto store = ChunkStore::Open(**db, RealFiles(), clock_, options);
    GRAFT_CHECK_OK(store.status());
    Catalog catalog(**db, **store, clock_, random_, {});
    FilesetRecord fileset;
    fileset.workspace = "ws";
    fileset.name = "data";
    GRAFT_CHECK_OK(catalog.CreateFileset(fileset, "").status());
    SessionRecord session;
    session.workspace = "ws";
    session.fileset = "data";
    session.id = catalog.CreateSession(session, "")->id;
    const ChunkId id = Sha256::Of(content_);
    const auto put = (*store)->Put({.id = id, .raw = content_, .session = session.id});
    GRAFT_CHECK_OK((*store)->WaitDurable(put->ticket));
    Entry entry;
    entry.size = static_cast<int64_t>(content_.size());
    entry.sha256 = id;
    FilePage file;
    file.chunks = {{id, static_cast<uint32_t>(content_.size())}};
    GRAFT_CHECK_OK(catalog.StageFile(session.id, "weights.bin", entry, file));
    GRAFT_CHECK_OK(catalog.Publish({.session = session.id}).status());
  }
  // Runs a command with --json on a store and keeps what it printed.
  int Run(const std::string& name, const std::string& store, std::vector<std::string> args = {}) {
    args.insert(args.end(), {"--json", "--data", root_ + store});
    ::testing::internal::CaptureStdout();
    const int code = RunCommand(name, args);
    const auto json = Json::Parse(::testing::internal::GetCapturedStdout());
    printed_ = json.ok() ? *json : Json();
    return code;
  }
  // Writes over some of the first pack, behind its first record's header.
  void Spoil(const std::string& store) {
    const std::string pack = root_ + store + "/packs/00000001.pack";
    std::string bytes = *ReadFile(pack);
    bytes[bytes.find(content_.substr(0, 100)) + 50] ^= 1;
    GRAFT_CHECK_OK(WriteFileAtomically(pack, bytes));
  }

  RealClock clock_;
  SeededRandom random_{8};
  std::string root_;
  std::string content_;
  Json printed_;
};

TEST_F(CommandsTest, StatsCountAStore) {
  EXPECT_EQ(Run("stats", "/a"), kExitSound);
  EXPECT_EQ(printed_.GetInt("versions"), 1);
  EXPECT_EQ(printed_.GetInt("logical_bytes"), 200'000);
  const Json* workspace = printed_.Find("workspaces")->Find("ws");
  EXPECT_EQ(workspace->GetInt("physical_bytes"), 200'000);
}

TEST_F(CommandsTest, AScrubFindsDamageAndMendsItFromAnotherStore) {
  Fill(root_ + "/b");
  EXPECT_EQ(Run("scrub", "/a"), kExitSound);
  Spoil("/a");
  EXPECT_EQ(Run("scrub", "/a"), kExitDamage);
  EXPECT_EQ(printed_.GetInt("damaged"), 1);
  EXPECT_EQ(printed_.Find("files")->as_array().at(0).as_string(),
            "workspaces/ws/filesets/data/versions/1/weights.bin");
  EXPECT_EQ(Run("scrub", "/a", {"--repair", "--from", root_ + "/b"}), kExitSound);
  EXPECT_EQ(printed_.GetInt("repaired"), 1);
  EXPECT_EQ(Run("scrub", "/a"), kExitSound);
}

TEST_F(CommandsTest, ALostIndexIsMadeFromThePacks) {
  ASSERT_THAT(RemoveTree(root_ + "/a/index"), IsOk());
  EXPECT_EQ(Run("fsck", "/a"), kExitFailed);
  EXPECT_EQ(Run("fsck", "/a", {"--rebuild-index"}), kExitSound);
  EXPECT_EQ(printed_.GetInt("versions"), 1);
  EXPECT_EQ(Run("fsck", "/a"), kExitSound);
  EXPECT_EQ(printed_.GetInt("files"), 1);
  EXPECT_EQ(Run("gc", "/a", {"--dry-run"}), kExitSound);
  EXPECT_EQ(printed_.GetInt("trashed_bytes"), 0);
}

TEST_F(CommandsTest, AnIndexBehindItsWatermarkIsRefused) {
  ASSERT_THAT(RemoveTree(root_ + "/a/index"), IsOk());
  EXPECT_THAT(Database::Open(root_ + "/a/index", {.watermark_dir = root_ + "/a/watermark"}),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("--rebuild-index")));
}

TEST_F(CommandsTest, ACommandThatChangesTheStoreWaitsForNoDaemon) {
  const auto daemon = Database::Open(root_ + "/a/index", {.watermark_dir = root_ + "/a/watermark"});
  ASSERT_THAT(daemon, IsOk());
  EXPECT_EQ(Run("stats", "/a"), kExitSound);
  EXPECT_EQ(Run("gc", "/a"), kExitFailed);
  EXPECT_EQ(Run("fsck", "/a", {"--rebuild-index"}), kExitFailed);
  EXPECT_EQ(Run("scrub", "/a", {"--repair"}), kExitFailed);
}

TEST_F(CommandsTest, WrongUsageIsToldApart) {
  EXPECT_EQ(Run("stats", "/a", {"--repair"}), kExitUsage);
  EXPECT_EQ(Run("scrub", "/a", {"--rate", "fast"}), kExitUsage);
  EXPECT_EQ(Run("gc", "/none"), kExitUsage);
}

}  // namespace
}  // namespace graft::fileservice
