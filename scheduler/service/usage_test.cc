// Sums of what attempts have used.
#include "absl/strings/str_cat.h"
#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "scheduler/service/usage_service.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;
using ::testing::ElementsAre;

const absl::Time kNoon = absl::FromUnixSeconds(1'700'049'600);  // 2023-11-15 12:00 UTC

UsageEntry Entry(const std::string& workspace, absl::Duration from, absl::Duration to,
                 int devices) {
  return {.workspace = workspace,
          .user = "users/ana",
          .queue = "queues/default",
          .job = absl::StrCat("workspaces/", workspace, "/jobs/j", devices),
          .devices = devices,
          .begin = kNoon + from,
          .end = kNoon + to,
          .queued_seconds = 60,
          .lost_seconds = 30,
          .tokens = 1000};
}

v1::QueryUsageResponse Sum(const std::vector<UsageEntry>& entries,
                           std::vector<v1::UsageDimension> by, const std::string& filter = "",
                           int page_size = 0, const std::string& token = "") {
  v1::QueryUsageRequest request;
  request.set_parent("workspaces/-");
  request.set_filter(filter);
  request.set_page_size(page_size);
  request.set_page_token(token);
  for (const v1::UsageDimension dimension : by) request.add_group_by(dimension);
  const rpc::PageTokenCodec tokens("key");
  const auto response =
      SumUsage(entries, request, kNoon - absl::Hours(24), kNoon + absl::Hours(24), tokens);
  EXPECT_THAT(response, IsOk());
  return response.ok() ? *response : v1::QueryUsageResponse();
}

TEST(UsageTest, DeviceSecondsAreDevicesTimesSecondsAndTheTotalIsTheSumOfRows) {
  const std::vector<UsageEntry> entries = {Entry("a", absl::ZeroDuration(), absl::Hours(1), 2),
                                           Entry("a", absl::Hours(1), absl::Hours(2), 4),
                                           Entry("b", absl::ZeroDuration(), absl::Minutes(30), 8)};
  const auto response = Sum(entries, {v1::USAGE_DIMENSION_WORKSPACE});
  ASSERT_EQ(response.rows_size(), 2);
  EXPECT_THAT(response.rows(0).keys(), ElementsAre("workspaces/a"));
  EXPECT_DOUBLE_EQ(response.rows(0).usage().gpu_seconds(), 3600 * 2 + 3600 * 4);
  EXPECT_DOUBLE_EQ(response.rows(0).usage().queued_seconds(), 120);
  EXPECT_DOUBLE_EQ(response.rows(0).usage().lost_seconds(), 60);
  EXPECT_EQ(response.rows(0).jobs(), 2);
  EXPECT_EQ(response.rows(1).tokens(), 1000);
  EXPECT_DOUBLE_EQ(response.total().usage().gpu_seconds(), 3600 * 6 + 1800 * 8);
}

TEST(UsageTest, AnEntryIsCutAtTheDaysEndsAndAtThePeriods) {
  const auto response = Sum({Entry("a", absl::Hours(-1), absl::Hours(13), 1),
                             Entry("a", absl::Hours(-25), absl::Hours(-23), 1)},
                            {v1::USAGE_DIMENSION_DAY});
  ASSERT_EQ(response.rows_size(), 3);
  EXPECT_THAT(response.rows(0).keys(), ElementsAre("2023-11-14"));
  EXPECT_DOUBLE_EQ(response.rows(0).usage().gpu_seconds(), 3600) << "an hour lies before";
  EXPECT_DOUBLE_EQ(response.rows(1).usage().gpu_seconds(), 13 * 3600);
  EXPECT_DOUBLE_EQ(response.rows(2).usage().gpu_seconds(), 3600);
}

TEST(UsageTest, PagesAndFiltersLeaveNothingOut) {
  std::vector<UsageEntry> entries;
  for (int i = 0; i < 5; ++i) {
    entries.push_back(Entry(absl::StrCat("w", i), absl::ZeroDuration(), absl::Hours(1), 1));
  }
  std::vector<std::string> seen;
  std::string token;
  do {
    const auto page = Sum(entries, {v1::USAGE_DIMENSION_WORKSPACE}, "", 2, token);
    for (const v1::UsageRow& row : page.rows()) seen.push_back(row.keys(0));
    token = page.next_page_token();
  } while (!token.empty());
  EXPECT_THAT(seen, ElementsAre("workspaces/w0", "workspaces/w1", "workspaces/w2", "workspaces/w3",
                                "workspaces/w4"));
  const auto one = Sum(entries, {v1::USAGE_DIMENSION_USER}, "workspace = \"workspaces/w3\"");
  ASSERT_EQ(one.rows_size(), 1);
  EXPECT_DOUBLE_EQ(one.total().usage().gpu_seconds(), 3600);
}

}  // namespace
}  // namespace graft::scheduler
