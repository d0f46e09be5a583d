#include "client/cli/hub_client.h"

#include <cstdlib>

#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::cli {
namespace {

using ::testing::HasSubstr;

TEST(HubAddressTest, HasAModelAndARevision) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const HubAddress plain, ParseHubAddress("hf://org/name"));
  EXPECT_EQ(plain.model, "org/name");
  EXPECT_EQ(plain.revision, "main");
  GRAFT_ASSERT_OK_AND_ASSIGN(const HubAddress tagged, ParseHubAddress("hf://org/name@v1.0"));
  EXPECT_EQ(tagged.model, "org/name");
  EXPECT_EQ(tagged.revision, "v1.0");
}

TEST(HubAddressTest, WhatCouldLeaveThePathIsRefused) {
  for (const char* bad :
       {"hf://name", "hf://a/b/c", "hf://../name", "hf://org/..", "hf://org/", "hf://org/name@",
        "hf://org/name@../x", "hf://org/na?me", "hf://org/n%2e"}) {
    EXPECT_THAT(ParseHubAddress(bad), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(bad)));
  }
}

TEST(HubClientTest, TheEnvironmentNamesTheHub) {
  setenv("GRAFT_HUB", "http://127.0.0.1:1/", 1);
  EXPECT_EQ(HubClient::FromEnvironment().endpoint, "http://127.0.0.1:1");
  unsetenv("GRAFT_HUB");
}

TEST(HubClientTest, AHubThatIsNotThereIsUnavailable) {
  const HubClient hub({.endpoint = "http://127.0.0.1:1", .token = ""});
  EXPECT_THAT(hub.Describe({.model = "org/name"}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("127.0.0.1:1")));
}

}  // namespace
}  // namespace graft::cli
