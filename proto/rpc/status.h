// absl::Status with google.rpc details, and its way to and from gRPC.
//
// Inside the programs a status is absl's and carries its details as payloads, one of each type.
// ToGrpcStatus and FromGrpcStatus are the only places where one becomes the other.
//
//   return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument, "the job cannot be created")
//       .Reason("FIELD_INVALID").Field("spec.batch.micro", "must be at least 1").Build();
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace grpc {
class Status;
}  // namespace grpc

namespace graft::rpc {

// google.rpc.ErrorInfo.domain of every reason.
inline constexpr absl::string_view kErrorDomain = "graft";

struct FieldViolation {
  std::string field;  // a path: "spec.batch.micro"
  std::string description;
  bool operator==(const FieldViolation& other) const {
    return field == other.field && description == other.description;
  }
};

// What a status says besides code and message. Empty parts were not given.
struct ErrorDetails {
  std::string reason;  // a published name such as "QUOTA_EXCEEDED"
  std::map<std::string, std::string> metadata;
  std::vector<FieldViolation> fields;
  std::optional<absl::Duration> retry_after;
  std::string request_id;
};

class ErrorBuilder {
 public:
  ErrorBuilder(absl::StatusCode code, absl::string_view message) : code_(code), message_(message) {}
  // Adds to what `status` already carries.
  explicit ErrorBuilder(const absl::Status& status);

  ErrorBuilder& Reason(absl::string_view reason);
  // Belongs to the reason: what was asked for, what was free, who holds it.
  ErrorBuilder& Metadata(absl::string_view key, absl::string_view value);
  ErrorBuilder& Field(absl::string_view path, absl::string_view description);
  ErrorBuilder& RetryAfter(absl::Duration delay);
  ErrorBuilder& RequestId(absl::string_view id);
  absl::Status Build() const;

 private:
  absl::StatusCode code_;
  std::string message_;
  ErrorDetails details_;
};

// UNIMPLEMENTED by name: what the contract has and this build or server has not.
absl::Status FeatureUnavailable(absl::string_view feature, absl::string_view message);

// OK and statuses without details give empty details; damaged ones are left out.
ErrorDetails ReadErrorDetails(const absl::Status& status);

// Code, message and details in the lines that a person reads on a terminal.
std::string DescribeError(const absl::Status& status);

grpc::Status ToGrpcStatus(const absl::Status& status);
absl::Status FromGrpcStatus(const grpc::Status& status);

}  // namespace graft::rpc
