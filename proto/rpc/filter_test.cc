#include "rpc/filter.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "rpc/status.h"

namespace graft::rpc {
namespace {

using ::testing::HasSubstr;

const FilterSchema& Schema() {
  static const auto& schema =
      *new FilterSchema{{"state", FilterType::kString},     {"name", FilterType::kString},
                        {"priority", FilterType::kInt},     {"loss", FilterType::kDouble},
                        {"preemptible", FilterType::kBool}, {"create_time", FilterType::kTime},
                        {"labels.*", FilterType::kString},  {"tags", FilterType::kString}};
  return schema;
}

std::vector<FilterValue> Job(absl::string_view field) {
  if (field == "state") return {std::string("RUNNING")};
  if (field == "name") return {std::string("workspaces/w/jobs/tickets-1")};
  if (field == "priority") return {int64_t{5}};
  if (field == "loss") return {1.5};
  if (field == "preemptible") return {true};
  if (field == "create_time")
    return {absl::FromCivil(absl::CivilDay(2026, 3, 1), absl::UTCTimeZone())};
  if (field == "labels.team") return {std::string("search")};
  if (field == "tags") return {std::string("a"), std::string("b")};
  return {};
}

bool Matches(absl::string_view text) {
  const absl::StatusOr<Filter> filter = Filter::Parse(text, Schema());
  EXPECT_THAT(filter, IsOk()) << text;
  return filter.ok() && filter->Matches(Job);
}

TEST(FilterTest, ComparisonsOfEachType) {
  for (const char* text :
       {"", "state = RUNNING", "state=\"RUNNING\"", "state != FAILED", "priority >= 5",
        "priority > 4", "priority < 6", "loss <= 1.5", "preemptible = true",
        "create_time > 2026-01-01T00:00:00Z", "create_time < \"2026-03-01T00:00:00.5Z\"",
        "labels.team = search", "labels.none != x", "name = \"workspaces/w/*\"",
        "name = workspaces/w/*", "name : tickets", "tags = b", "tags : a", "state = 'RUNNING'"}) {
    EXPECT_TRUE(Matches(text)) << text;
  }
  for (const char* text : {"state = QUEUED", "priority > 5", "labels.none = x", "name = \"x*\"",
                           "name != \"workspaces/*\"", "preemptible = false", "tags = c",
                           "create_time < 2026-01-01T00:00:00Z", "name : TICKETS"}) {
    EXPECT_FALSE(Matches(text)) << text;
  }
}

TEST(FilterTest, OrBindsTighterThanAnd) {
  EXPECT_FALSE(Matches("state = X AND state = RUNNING OR priority = 5"));
  EXPECT_TRUE(Matches("(state = X AND state = RUNNING) OR priority = 5"));
  EXPECT_TRUE(Matches("state = RUNNING OR state = X AND priority = 5"));
  EXPECT_TRUE(Matches("NOT state = X AND NOT (priority = 4 OR priority = 6)"));
}

TEST(FilterTest, ErrorsNameTheColumn) {
  const struct {
    const char* text;
    const char* says;
  } cases[] = {{"stat = X", "column 1: there is no field 'stat'; did you mean 'state'?"},
               {"state = X AND", "column 14: expected a field"},
               {"state X", "column 7: expected ="},
               {"(state = X", "column 11: expected ')'"},
               {"state = X state = Y", "column 11: expected AND or OR"},
               {"priority = high", "column 12: 'high' is no integer"},
               {"create_time > today", "column 15: 'today' is no time"},
               {"state = \"X", "column 9: the text in quotes is not closed"},
               {"state = ;", "column 9: unexpected character ';'"},
               {"labels.* = x", "column 1: there is no field"},
               {"state = )", "column 9: expected a value"}};
  for (const auto& [text, says] : cases) {
    const absl::Status status = Filter::Parse(text, Schema()).status();
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(says)));
    EXPECT_EQ(ReadErrorDetails(status).reason, "FILTER_INVALID");
  }
}

TEST(FilterTest, SizeDepthAndTermsAreLimited) {
  EXPECT_FALSE(Filter::Parse(std::string(5000, ' '), Schema()).ok());
  EXPECT_FALSE(Filter::Parse(std::string(1000, '('), Schema()).ok());
  std::string many = "priority = 1", nots = "priority = 1";
  for (int i = 0; i < 70; ++i) many += " OR priority = 1";
  for (int i = 0; i < 70; ++i) nots = "NOT " + nots;
  EXPECT_FALSE(Filter::Parse(many, Schema()).ok());
  EXPECT_FALSE(Filter::Parse(nots, Schema()).ok());
}

}  // namespace
}  // namespace graft::rpc
