#include "rpc/status.h"

#include "base/status_matchers.h"
#include "grpcpp/support/status.h"
#include "gtest/gtest.h"

namespace graft::rpc {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

absl::Status Full() {
  return ErrorBuilder(absl::StatusCode::kResourceExhausted, "no quota left")
      .Reason("QUOTA_EXCEEDED")
      .Metadata("limit", "8")
      .Field("spec.resources.gpus", "16 is more than 8")
      .RetryAfter(absl::Milliseconds(1500))
      .RequestId("r-1")
      .Build();
}

TEST(StatusTest, DetailsSurviveTheWayOverGrpc) {
  const absl::Status status = FromGrpcStatus(ToGrpcStatus(Full()));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted, "no quota left"));
  const ErrorDetails details = ReadErrorDetails(status);
  EXPECT_EQ(details.reason, "QUOTA_EXCEEDED");
  EXPECT_EQ(details.metadata.at("limit"), "8");
  EXPECT_THAT(details.fields,
              ElementsAre(FieldViolation{"spec.resources.gpus", "16 is more than 8"}));
  EXPECT_EQ(details.retry_after, absl::Milliseconds(1500));
  EXPECT_EQ(details.request_id, "r-1");
}

TEST(StatusTest, EveryCodeKeepsItsMeaning) {
  for (int code = 1; code <= 16; ++code) {
    const absl::Status status(static_cast<absl::StatusCode>(code), "m");
    EXPECT_EQ(static_cast<int>(ToGrpcStatus(status).error_code()), code);
    EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
  }
  EXPECT_TRUE(ToGrpcStatus(absl::OkStatus()).ok());
  EXPECT_THAT(FromGrpcStatus(grpc::Status::OK), IsOk());
}

TEST(StatusTest, DamagedDetailsLeaveTheCodeAndTheMessage) {
  const absl::Status status =
      FromGrpcStatus(grpc::Status(grpc::StatusCode::ABORTED, "stale", "\xff\xff not a message"));
  EXPECT_THAT(status, StatusIs(absl::StatusCode::kAborted, "stale"));
  EXPECT_EQ(ReadErrorDetails(status).reason, "");
}

TEST(StatusTest, ABuilderAddsToWhatAStatusCarries) {
  const absl::Status status = ErrorBuilder(Full()).RequestId("r-2").Build();
  EXPECT_EQ(ReadErrorDetails(status).reason, "QUOTA_EXCEEDED");
  EXPECT_EQ(ReadErrorDetails(status).request_id, "r-2");
  EXPECT_THAT(DescribeError(status), HasSubstr("try again in 1.5s"));
}

}  // namespace
}  // namespace graft::rpc
