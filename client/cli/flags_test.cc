#include "client/cli/flags.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FlagSetTest : public ::testing::Test {
 protected:
  FlagSetTest() : flags_("graft x") {
    flags_.String("name", &name_, "NAME", "a name");
    flags_.Short('n');
    flags_.Int("rank", &rank_, "N", "a rank");
    flags_.Bool("watch", &watch_, "follow");
  }
  FlagSet flags_;
  std::string name_;
  int64_t rank_ = 16;
  bool watch_ = true;
};

TEST_F(FlagSetTest, ReadsEveryForm) {
  EXPECT_THAT(flags_.Parse({"word", "--name=a", "--rank", "8", "--no-watch", "--", "--rank"}),
              IsOk());
  EXPECT_EQ(name_, "a");
  EXPECT_EQ(rank_, 8);
  EXPECT_FALSE(watch_);
  EXPECT_TRUE(flags_.Given("rank"));
  EXPECT_THAT(flags_.words(), ElementsAre("word", "--rank"));
}

TEST_F(FlagSetTest, AShortFormTakesAValue) {
  EXPECT_THAT(flags_.Parse({"-n", "b"}), IsOk());
  EXPECT_EQ(name_, "b");
}

TEST_F(FlagSetTest, AnUnknownFlagNamesTheNearest) {
  EXPECT_THAT(flags_.Parse({"--rnak=8"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("did you mean --rank?")));
  EXPECT_THAT(flags_.Parse({"--no-name"}), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(FlagSetTest, AnIllTypedOrMissingValueIsSaid) {
  EXPECT_THAT(flags_.Parse({"--rank=many"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("--rank=many")));
  EXPECT_THAT(flags_.Parse({"--name"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("needs a value")));
}

}  // namespace
}  // namespace graft::cli
