#include "fileservice/service/settings.h"

#include "base/file.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"

namespace graft::fileservice {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class SettingsTest : public ::testing::Test {
 protected:
  std::string Written(const std::string& json) {
    const std::string path = ::testing::TempDir() + "/fileservice_settings_test.json";
    EXPECT_THAT(WriteFileAtomically(path, json), IsOk());
    return path;
  }
  absl::Status Read(const std::vector<std::string>& arguments) {
    return ReadSettings(arguments, settings_).status();
  }
  Settings settings_;
};

TEST_F(SettingsTest, OptionsStandAboveTheFileAndTheFileAboveTheDefaults) {
  const std::string file = Written(R"({"data": "/d", "pack_bytes": 7, "quota_bytes": {"w": 9}})");
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const std::vector<std::string> words,
      ReadSettings({"--config", file, "--pack-bytes", "8", "word"}, settings_));
  EXPECT_THAT(words, ElementsAre("word"));
  EXPECT_EQ(settings_.data(), "/d");
  EXPECT_EQ(settings_.pack_bytes(), 8);
  EXPECT_EQ(settings_.quota_bytes().at("w"), 9);
  EXPECT_EQ(settings_.stall_timeout_s(), 30);
  EXPECT_TRUE(settings_.fan_out());
  EXPECT_EQ(PackFolder(settings_), "/d/packs");
  EXPECT_EQ(WatermarkFolder(settings_), "/d/watermark");
}

TEST_F(SettingsTest, AnUnknownKeyIsRefusedWithItsLineAndTheNearest) {
  EXPECT_THAT(Read({"--config", Written("{\n  \"reserve_byte\": 1\n}")}),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr(":2: reserve_byte"), HasSubstr("'reserve_bytes'"))));
  EXPECT_THAT(Read({"--data", "/d", "--reserve-byte", "1"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--reserve-bytes")));
}

TEST_F(SettingsTest, ANumberBelowZeroIsRefusedByName) {
  EXPECT_THAT(Read({"--data", "/d", "--gc-interval-s", "-1"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("gc_interval_s")));
  EXPECT_THAT(Read({"--config", Written(R"({"data": "/d", "quota_bytes": {"ws": -1}})")}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("quota_bytes of ws")));
}

TEST_F(SettingsTest, WhereTheStoreLiesMustBeSaid) {
  EXPECT_THAT(Read({"--insecure"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--data")));
}

}  // namespace
}  // namespace graft::fileservice
