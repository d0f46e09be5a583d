#include "base/file.h"

#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using ::testing::ElementsAre;

class FileTest : public ::testing::Test {
 protected:
  FileTest() : dir_(absl::StrCat(::testing::TempDir(), "/graft_file_test.", getpid())) {
    GRAFT_EXPECT_OK(MakeDirectories(dir_));
  }
  ~FileTest() override { GRAFT_EXPECT_OK(RemoveTree(dir_)); }
  static void GRAFT_EXPECT_OK(const absl::Status& status) { EXPECT_THAT(status, IsOk()); }
  const std::string dir_;
};

TEST_F(FileTest, ReplacesAFileAndLeavesNothingBeside) {
  const std::string path = JoinPath(dir_, "a");
  EXPECT_THAT(WriteFileAtomically(path, "one"), IsOk());
  EXPECT_THAT(WriteFileAtomically(path, "two"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::string content, ReadFile(path));
  EXPECT_EQ(content, "two");
  GRAFT_ASSERT_OK_AND_ASSIGN(const std::vector<std::string> names, ListDirectory(dir_));
  EXPECT_THAT(names, ElementsAre("a"));
}

TEST_F(FileTest, AMissingFolderIsNotFound) {
  EXPECT_THAT(WriteFileAtomically(JoinPath(dir_, "no/a"), "x"),
              StatusIs(absl::StatusCode::kNotFound));
  EXPECT_THAT(ReadFile(JoinPath(dir_, "no")), StatusIs(absl::StatusCode::kNotFound));
}

TEST_F(FileTest, AFileBeyondTheLimitIsRefused) {
  const std::string path = JoinPath(dir_, "a");
  EXPECT_THAT(WriteFileAtomically(path, "12345"), IsOk());
  EXPECT_THAT(ReadFile(path, 4), StatusIs(absl::StatusCode::kResourceExhausted));
}

TEST_F(FileTest, RemovingATreeDoesNotFollowLinks) {
  EXPECT_THAT(MakeDirectories(JoinPath(dir_, "tree/sub")), IsOk());
  EXPECT_THAT(WriteFileAtomically(JoinPath(dir_, "kept"), "x"), IsOk());
  ASSERT_EQ(symlink(dir_.c_str(), JoinPath(dir_, "tree/sub/link").c_str()), 0);
  EXPECT_THAT(RemoveTree(JoinPath(dir_, "tree")), IsOk());
  EXPECT_TRUE(FileExists(JoinPath(dir_, "kept")));
}

TEST_F(FileTest, AMapShowsTheBytes) {
  const std::string path = JoinPath(dir_, "a");
  EXPECT_THAT(WriteFileAtomically(path, "mapped"), IsOk());
  GRAFT_ASSERT_OK_AND_ASSIGN(const MappedFile file, MappedFile::Open(path));
  EXPECT_EQ(file.bytes(), "mapped");
}

}  // namespace
}  // namespace graft
