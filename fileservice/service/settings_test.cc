#include "fileservice/service/settings.h"

#include <cstdlib>

#include "base/file.h"
#include "base/status_matchers.h"
#include "gmock/gmock.h"

namespace graft::fileservice {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

TEST(SettingsTest, TheSampleConfigurationIsRead) {
  GRAFT_ASSERT_OK_AND_ASSIGN(
      const Settings settings,
      ReadSettings(JoinPath(std::getenv("GRAFT_SOURCE_DIR"), "deploy/configs/fileservice.json")));
  EXPECT_EQ(settings.data_dir, "/var/lib/graft/fileservice");
  EXPECT_EQ(settings.quota_bytes.at("interns"), int64_t{1} << 40);
  EXPECT_FALSE(settings.insecure);
}

TEST(SettingsTest, AnUnknownKeyIsRefusedWithTheNearest) {
  EXPECT_THAT(ParseSettings(R"({"data_dri": "/x"})", "f.json"),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("f.json"), HasSubstr("data_dri"), HasSubstr("data_dir"))));
}

TEST(SettingsTest, AValueOfAnotherTypeIsRefusedByName) {
  for (const char* json :
       {R"({"reserve_bytes": "1"})", R"({"reserve_bytes": -1})", R"({"insecure": 1})",
        R"({"in_place_roots": "/x"})", R"({"quota_bytes": {"ws": "1"}})", "[]", "{"}) {
    EXPECT_THAT(ParseSettings(json, "f.json"), StatusIs(absl::StatusCode::kInvalidArgument))
        << json;
  }
}

}  // namespace
}  // namespace graft::fileservice
