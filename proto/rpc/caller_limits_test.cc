#include "rpc/caller_limits.h"

#include "base/status_matchers.h"
#include "gtest/gtest.h"
#include "rpc/status.h"

namespace graft::rpc {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(1000);

TEST(CallerLimitsTest, ABurstPassesAndThenTheRateHolds) {
  CallerLimits limits({.calls_per_second = 10});
  for (int i = 0; i < 10; ++i) EXPECT_THAT(limits.Admit("users/ana", kStart), IsOk()) << i;
  const absl::Status refused = limits.Admit("users/ana", kStart);
  EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
  const ErrorDetails details = ReadErrorDetails(refused);
  EXPECT_EQ(details.reason, "RATE_LIMITED");
  ASSERT_TRUE(details.retry_after.has_value());
  EXPECT_THAT(limits.Admit("users/ana", kStart + *details.retry_after), IsOk());
  EXPECT_FALSE(limits.Admit("users/ana", kStart + *details.retry_after).ok());
}

TEST(CallerLimitsTest, CallersDoNotShareABucket) {
  CallerLimits limits({.calls_per_second = 1});
  EXPECT_THAT(limits.Admit("users/ana", kStart), IsOk());
  EXPECT_FALSE(limits.Admit("users/ana", kStart).ok());
  EXPECT_THAT(limits.Admit("users/ben", kStart), IsOk());
}

TEST(CallerLimitsTest, AClockThatStandsStillOrGoesBackGivesNothing) {
  CallerLimits limits({.calls_per_second = 1});
  EXPECT_THAT(limits.Admit("users/ana", kStart), IsOk());
  EXPECT_FALSE(limits.Admit("users/ana", kStart - absl::Seconds(100)).ok());
  EXPECT_FALSE(limits.Admit("users/ana", kStart).ok());
}

TEST(CallerLimitsTest, AStreamThatEndsMakesRoomForAnother) {
  CallerLimits limits({.concurrent_streams = 2});
  EXPECT_THAT(limits.OpenStream("users/ana"), IsOk());
  EXPECT_THAT(limits.OpenStream("users/ana"), IsOk());
  EXPECT_EQ(limits.OpenStream("users/ana").code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(limits.OpenStream("users/ben"), IsOk());
  limits.CloseStream("users/ana");
  EXPECT_THAT(limits.OpenStream("users/ana"), IsOk());
}

TEST(CallerLimitsTest, ManyCallersDoNotGrowWithoutBound) {
  CallerLimits limits({.calls_per_second = 1, .concurrent_streams = 1});
  EXPECT_THAT(limits.OpenStream("a-holder"), IsOk());
  for (size_t i = 0; i < CallerLimits::kMaxCallers + 10; ++i) {
    EXPECT_THAT(limits.Admit("users/" + std::to_string(i), kStart), IsOk());
  }
  EXPECT_FALSE(limits.OpenStream("a-holder").ok());  // those with streams are not forgotten
}

}  // namespace
}  // namespace graft::rpc
