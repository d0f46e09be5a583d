#include "rpc/status.h"

#include <utility>

#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpcpp/support/status.h"

namespace graft::rpc {
namespace {

constexpr absl::string_view kTypePrefix = "type.googleapis.com/";
// A peer's details larger than this are dropped; the code and the message remain.
constexpr size_t kMaxDetailsBytes = 64 << 10;

template <typename Detail>
std::string TypeUrl() {
  return absl::StrCat(kTypePrefix, Detail::descriptor()->full_name());
}

template <typename Detail>
void SetDetail(const Detail& detail, absl::Status& status) {
  status.SetPayload(TypeUrl<Detail>(), absl::Cord(detail.SerializeAsString()));
}

template <typename Detail>
std::optional<Detail> GetDetail(const absl::Status& status) {
  const auto payload = status.GetPayload(TypeUrl<Detail>());
  if (!payload) return std::nullopt;
  Detail detail;
  if (!detail.ParseFromString(std::string(*payload))) return std::nullopt;
  return detail;
}

}  // namespace

ErrorBuilder::ErrorBuilder(const absl::Status& status)
    : code_(status.code()), message_(status.message()), details_(ReadErrorDetails(status)) {}

ErrorBuilder& ErrorBuilder::Reason(absl::string_view reason) {
  details_.reason = std::string(reason);
  return *this;
}

ErrorBuilder& ErrorBuilder::Metadata(absl::string_view key, absl::string_view value) {
  details_.metadata[std::string(key)] = std::string(value);
  return *this;
}

ErrorBuilder& ErrorBuilder::Field(absl::string_view path, absl::string_view description) {
  details_.fields.push_back({std::string(path), std::string(description)});
  return *this;
}

ErrorBuilder& ErrorBuilder::RetryAfter(absl::Duration delay) {
  details_.retry_after = delay;
  return *this;
}

ErrorBuilder& ErrorBuilder::RequestId(absl::string_view id) {
  details_.request_id = std::string(id);
  return *this;
}

absl::Status ErrorBuilder::Build() const {
  absl::Status status(code_, message_);
  if (!details_.reason.empty() || !details_.metadata.empty()) {
    google::rpc::ErrorInfo info;
    info.set_reason(details_.reason);
    info.set_domain(std::string(kErrorDomain));
    for (const auto& [key, value] : details_.metadata) (*info.mutable_metadata())[key] = value;
    SetDetail(info, status);
  }
  if (!details_.fields.empty()) {
    google::rpc::BadRequest bad;
    for (const FieldViolation& violation : details_.fields) {
      auto* added = bad.add_field_violations();
      added->set_field(violation.field);
      added->set_description(violation.description);
    }
    SetDetail(bad, status);
  }
  if (details_.retry_after) {
    google::rpc::RetryInfo retry;
    const int64_t nanos = absl::ToInt64Nanoseconds(*details_.retry_after);
    retry.mutable_retry_delay()->set_seconds(nanos / 1'000'000'000);
    retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>(nanos % 1'000'000'000));
    SetDetail(retry, status);
  }
  if (!details_.request_id.empty()) {
    google::rpc::RequestInfo request;
    request.set_request_id(details_.request_id);
    SetDetail(request, status);
  }
  return status;
}

absl::Status FeatureUnavailable(absl::string_view feature, absl::string_view message) {
  return ErrorBuilder(absl::StatusCode::kUnimplemented, message)
      .Reason("FEATURE_UNAVAILABLE")
      .Metadata("feature", feature)
      .Build();
}

ErrorDetails ReadErrorDetails(const absl::Status& status) {
  ErrorDetails details;
  if (const auto info = GetDetail<google::rpc::ErrorInfo>(status)) {
    details.reason = info->reason();
    for (const auto& [key, value] : info->metadata()) details.metadata[key] = value;
  }
  if (const auto bad = GetDetail<google::rpc::BadRequest>(status)) {
    for (const auto& violation : bad->field_violations()) {
      details.fields.push_back({violation.field(), violation.description()});
    }
  }
  if (const auto retry = GetDetail<google::rpc::RetryInfo>(status)) {
    details.retry_after = absl::Seconds(retry->retry_delay().seconds()) +
                          absl::Nanoseconds(retry->retry_delay().nanos());
  }
  if (const auto request = GetDetail<google::rpc::RequestInfo>(status)) {
    details.request_id = request->request_id();
  }
  return details;
}

std::string DescribeError(const absl::Status& status) {
  const ErrorDetails details = ReadErrorDetails(status);
  std::string text = absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message());
  for (const FieldViolation& violation : details.fields) {
    absl::StrAppend(&text, "\n  ", violation.field, ": ", violation.description);
  }
  for (const auto& [key, value] : details.metadata)
    absl::StrAppend(&text, "\n  ", key, " = ", value);
  if (!details.reason.empty()) absl::StrAppend(&text, "\n  reason: ", details.reason);
  if (details.retry_after) {
    absl::StrAppend(&text, "\n  try again in ", absl::FormatDuration(*details.retry_after));
  }
  if (!details.request_id.empty()) absl::StrAppend(&text, "\n  request: ", details.request_id);
  return text;
}

// The codes of absl and gRPC are the same numbers by definition of both.
grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  google::rpc::Status wire;
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) {
    auto* any = wire.add_details();
    any->set_type_url(std::string(url));
    any->set_value(std::string(payload));
  });
  const auto code = static_cast<grpc::StatusCode>(status.code());
  if (wire.details().empty()) return grpc::Status(code, std::string(status.message()));
  wire.set_code(static_cast<int>(status.code()));
  wire.set_message(std::string(status.message()));
  return grpc::Status(code, std::string(status.message()), wire.SerializeAsString());
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
  const std::string& details = status.error_details();
  google::rpc::Status wire;
  if (details.empty() || details.size() > kMaxDetailsBytes || !wire.ParseFromString(details)) {
    return result;
  }
  for (const auto& any : wire.details()) result.SetPayload(any.type_url(), absl::Cord(any.value()));
  return result;
}

}  // namespace graft::rpc
