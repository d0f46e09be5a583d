#include "base/json.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"

namespace graft {
namespace {

using ::testing::HasSubstr;

TEST(JsonTest, ReadsBackWhatItPrints) {
  const std::string text = R"({"a":[1,-2,3.5,1e-07],"b":{"c":null,"d":true},"e":"x\n\"\u0001é"})";
  GRAFT_ASSERT_OK_AND_ASSIGN(const Json value, Json::Parse(text));
  EXPECT_EQ(value.Dump(), text);
  GRAFT_ASSERT_OK_AND_ASSIGN(const Json again, Json::Parse(value.Dump(2)));
  EXPECT_EQ(again, value);
}

TEST(JsonTest, KeepsTheOrderOfKeysAndTheLastOfARepeatedOne) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const Json value, Json::Parse(R"({"z":1,"a":2,"z":3})"));
  EXPECT_EQ(value.Dump(), R"({"z":3,"a":2})");
}

TEST(JsonTest, DropsRepeatedKeysOfLargeObjectsToo) {
  std::string text = "{";
  for (int i = 0; i < 100; ++i)
    text += "\"k" + std::to_string(i % 50) + "\":" + std::to_string(i) + ",";
  text.back() = '}';
  GRAFT_ASSERT_OK_AND_ASSIGN(const Json value, Json::Parse(text));
  EXPECT_EQ(value.as_object().size(), 50u);
  EXPECT_EQ(value.GetInt("k0"), 50);
}

TEST(JsonTest, ErrorsNameLineAndColumn) {
  EXPECT_THAT(Json::Parse("{\n  \"a\": nul\n}"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("line 2, column 8")));
  EXPECT_THAT(Json::Parse("[1,2"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Json::Parse("[1] x"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Json::Parse("01"), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Json::Parse("\"\x01\""), StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Json::Parse(""), StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(JsonTest, RefusesDeepNestingInsteadOfOverflowingTheStack) {
  EXPECT_THAT(Json::Parse(std::string(1'000'000, '[')),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("deep")));
}

TEST(JsonTest, JoinsSurrogatesAndReplacesLoneOnes) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const Json pair, Json::Parse(R"("\ud83d\ude00")"));
  EXPECT_EQ(pair.as_string(), "\xf0\x9f\x98\x80");
  GRAFT_ASSERT_OK_AND_ASSIGN(const Json lone, Json::Parse(R"("\ud83dx")"));
  EXPECT_EQ(lone.as_string(), "\xef\xbf\xbdx");
}

TEST(JsonTest, FindsWhatEndsARunOfPlainBytesWhereverItStands) {
  for (size_t before = 0; before < 20; ++before) {
    for (size_t after = 0; after < 20; ++after) {
      const std::string head(before, '\x7f'), tail(after, '!');
      const std::string text = absl::StrCat("\"", head, "\\\"", tail, "\xc3\xa9\\n\"");
      const auto parsed = Json::Parse(text);
      ASSERT_TRUE(parsed.ok()) << parsed.status();
      EXPECT_EQ(parsed->as_string(), absl::StrCat(head, "\"", tail, "\xc3\xa9\n"));
      EXPECT_FALSE(Json::Parse(absl::StrCat("\"", head, "\x1f", tail, "\"")).ok());
      EXPECT_FALSE(Json::Parse(absl::StrCat("\"", head, tail)).ok());
    }
  }
}

TEST(JsonTest, IntegersBeyondInt64BecomeDoubles) {
  GRAFT_ASSERT_OK_AND_ASSIGN(const Json value, Json::Parse("18446744073709551616"));
  EXPECT_TRUE(value.is_double());
  EXPECT_EQ(value.as_double(), 18446744073709551616.0);
}

TEST(JsonTest, AnIntegralDoublePrintsAsADouble) { EXPECT_EQ(Json(2.0).Dump(), "2.0"); }

}  // namespace
}  // namespace graft
