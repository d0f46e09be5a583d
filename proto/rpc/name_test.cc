#include "rpc/name.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "rpc/nearest_name.h"
#include "rpc/status.h"

namespace graft::rpc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(NameTest, IdsStandInThePlacesOfThePattern) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto ids,
                             ParseName("workspaces/{w}/jobs/{j}", "workspaces/team-1/jobs/a.b_c"));
  EXPECT_THAT(ids, ElementsAre("team-1", "a.b_c"));
  GRAFT_ASSERT_OK_AND_ASSIGN(const auto version,
                             ParseName("filesets/{f}/versions/{v=*}", "filesets/ab/versions/3"));
  EXPECT_THAT(version, ElementsAre("ab", "3"));
  EXPECT_THAT(ParseName("workspaces/{w=-}", "workspaces/-"), IsOk());
}

TEST(NameTest, WhatIsNoNameIsRefusedWithItsField) {
  const std::string long_id(64, 'a');
  for (const std::string& text :
       {std::string(), std::string("workspaces/"), std::string("workspaces/a"),
        std::string("workspaces/Team"), std::string("workspaces/-x"), std::string("workspaces/a b"),
        std::string("workspaces/.."), std::string("workspaces/ab/"), std::string("jobs/ab"),
        std::string("workspaces/-"), "workspaces/" + long_id, std::string(5000, 'a'),
        std::string("workspaces/ab\0", 14)}) {
    const absl::Status status = ParseName("workspaces/{w}", text, "parent").status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument)) << text;
    EXPECT_EQ(ReadErrorDetails(status).reason, "NAME_INVALID");
    EXPECT_EQ(ReadErrorDetails(status).fields.at(0).field, "parent");
  }
  EXPECT_TRUE(IsValidId(std::string(63, 'a')));
}

TEST(NameTest, TheNearestNameIsWhatWasMeant) {
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3u);
  EXPECT_EQ(EditDistance("ab", "ba"), 1u);
  EXPECT_EQ(NearestName("learnig_rate", {"learning_rate", "weight_decay"}), "learning_rate");
  EXPECT_EQ(NearestName("x", {"learning_rate"}), "");
  EXPECT_THAT(DidYouMean("zzzz", {"one", "two"}), HasSubstr("known are one, two"));
}

}  // namespace
}  // namespace graft::rpc
