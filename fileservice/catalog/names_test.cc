#include "fileservice/catalog/names.h"

#include "base/status_matchers.h"
#include "gmock/gmock.h"

namespace graft::fileservice {
namespace {

using ::testing::HasSubstr;

TEST(NamesTest, PathsThatWouldLeaveOrDisturbATargetAreRefused) {
  const std::string refused[] = {
      "",
      "/etc/passwd",
      "..",
      "../a",
      "a/../b",
      "a/..",
      "./a",
      "a/.",
      "a//b",
      "a/",
      "a\\b",
      "..\\a",
      "C:/a",
      "c:a",
      std::string("a\0b", 3),
      "a\nb",
      "a\x7f",
      "a\xc2\x85",
      std::string(256, 'x'),
      std::string(600, 'x') + "/" + std::string(600, 'x'),
      "a.",
      "a ",
      "a /b",
      ".git/config",
      "sub/.GIT/hooks",
      "CON",
      "nul.txt",
      "a/com1",
      "Lpt9.x",
      "\xc0\xaf",          // "/" in two bytes
      "\xe0\x80\xaf",      // "/" in three
      "\xed\xa0\x80",      // half of a surrogate pair
      "\xf5\x80\x80\x80",  // beyond Unicode
      "a\xff",             // no UTF-8
      "a\xe2\x82",         // cut off
      "cafe\xcc\x81",      // NFD of "café"
      "x\xe2\x80\xae"
      "gpj",  // right-to-left override
      "a\xe2\x80\x8b"
      "b",              // zero-width space
      "a\xef\xbb\xbf",  // byte order mark
      "a\xe2\x80\xa8",  // line separator
  };
  for (const std::string& path : refused) {
    EXPECT_THAT(CheckPath(path), StatusIs(absl::StatusCode::kInvalidArgument)) << path;
  }
}

TEST(NamesTest, OtherPathsAreStoredAsTheyAre) {
  for (const char* path :
       {"a", "config.json", "a/b/c.safetensors", "n/\xc3\xa9\xe6\x97\xa5\xe6\x9c\xac.txt",
        "%2e%2e%2f", "%252e", "..a", "a..b", ".cache/x", "console", "a b", "-rf", "~", "$HOME", "*",
        "\xf0\x9f\xa6\x99"}) {
    EXPECT_THAT(CheckPath(path), IsOk()) << path;
  }
}

TEST(NamesTest, ARefusalSaysWhichPathAndWhy) {
  EXPECT_THAT(CheckPath("a/../b"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("\"a/../b\"")));
}

TEST(NamesTest, CaseIsFoldedBeyondAscii) {
  EXPECT_EQ(FoldCase("ReadMe.MD"), "readme.md");
  EXPECT_EQ(FoldCase("\xc3\x89t\xc3\xa9"), "\xc3\xa9t\xc3\xa9");  // É
  EXPECT_EQ(FoldCase("\xd0\x96"), "\xd0\xb6");                    // Ж
  EXPECT_EQ(FoldCase("\xce\xa9"), "\xcf\x89");                    // Ω
}

TEST(NamesTest, ResourceNamesAreParsedWhole) {
  EXPECT_EQ(ParseFilesetName("workspaces/ab/filesets/cd")->ToString(), "workspaces/ab/filesets/cd");
  for (const char* name : {"workspaces/ab/filesets/", "workspaces/ab/filesets/cd/x", "ab/cd",
                           "workspaces/AB/filesets/cd", "workspaces/../filesets/cd", ""}) {
    EXPECT_THAT(ParseFilesetName(name), StatusIs(absl::StatusCode::kInvalidArgument)) << name;
  }
  EXPECT_EQ(ParseChildName("workspaces/ab/filesets/cd/versions/3", "versions")->id, "3");
  EXPECT_THAT(CheckRef("12"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(CheckRef("latest"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(CheckRef("prod"), IsOk());
}

}  // namespace
}  // namespace graft::fileservice
