#include "scheduler/service/resources.h"

#include "absl/strings/str_split.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "google/protobuf/util/message_differencer.h"
#include "rpc/status.h"

namespace graft::scheduler {
namespace {

constexpr char kBodyVersion = 1;
constexpr int kChangesAtATime = 1000;
constexpr absl::Duration kRequestIdTtl = absl::Hours(24);

std::string RequestKey(absl::string_view principal, absl::string_view method,
                       absl::string_view request_id) {
  return absl::StrCat(principal, "\n", method, "\n", request_id);
}

constexpr char kRememberedVersion = 1;
constexpr size_t kRememberedHead = 17;

struct RememberedRequest {
  absl::Time expires;
  absl::string_view request;
  absl::string_view response;
};
absl::optional<RememberedRequest> ParseRemembered(absl::string_view value) {
  if (value.size() < kRememberedHead || value[0] != kRememberedVersion) return absl::nullopt;
  const uint64_t size = FromBigEndian(value.substr(9));
  if (size > value.size() - kRememberedHead) return absl::nullopt;
  return RememberedRequest{
      absl::FromUnixSeconds(static_cast<int64_t>(FromBigEndian(value.substr(1)))),
      value.substr(kRememberedHead, size), value.substr(kRememberedHead + size)};
}

// The path of the first field in which the two differ.
std::string FirstDifference(absl::string_view before, const google::protobuf::Message& now) {
  const std::unique_ptr<google::protobuf::Message> old(now.New());
  if (!old->ParseFromArray(before.data(), static_cast<int>(before.size()))) return "?";
  google::protobuf::util::MessageDifferencer differencer;
  std::string report;
  differencer.ReportDifferencesToString(&report);
  differencer.Compare(*old, now);
  // "modified: job.spec.optimizer.learning_rate: 1 -> 2"
  const std::vector<std::string> words =
      absl::StrSplit(report, absl::ByAnyChar(" :"), absl::SkipEmpty());
  return words.size() > 1 ? words[1] : "?";
}

}  // namespace

std::string DeterministicBytes(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

std::string EncodeResource(const google::protobuf::Message& message) {
  std::string bytes(1, kBodyVersion);
  message.AppendToString(&bytes);
  return bytes;
}

absl::Status DecodeResource(absl::string_view key, absl::string_view bytes,
                            google::protobuf::Message& message) {
  if (!bytes.empty() && bytes[0] > kBodyVersion) {
    return absl::FailedPreconditionError(absl::StrCat(
        key, " was written by a newer program (version ", static_cast<int>(bytes[0]), ")"));
  }
  if (bytes.empty() ||
      !message.ParseFromArray(bytes.data() + 1, static_cast<int>(bytes.size()) - 1)) {
    return absl::DataLossError(absl::StrCat("the stored record ", key, " cannot be read"));
  }
  return absl::OkStatus();
}

google::protobuf::Timestamp ToTimestamp(absl::Time time) {
  google::protobuf::Timestamp timestamp;
  const int64_t micros = absl::ToUnixMicros(time);
  timestamp.set_seconds(micros / 1'000'000);
  timestamp.set_nanos(static_cast<int32_t>(micros % 1'000'000) * 1000);
  return timestamp;
}

absl::Time FromTimestamp(const google::protobuf::Timestamp& time) {
  return absl::FromUnixSeconds(time.seconds()) + absl::Nanoseconds(time.nanos());
}

absl::Status NoSuchResource(absl::string_view name) {
  return rpc::ErrorBuilder(absl::StatusCode::kNotFound, absl::StrCat("there is no ", name))
      .Reason("RESOURCE_NOT_FOUND")
      .Metadata("resource", name)
      .Build();
}

absl::Status InvalidField(absl::string_view field, absl::string_view why) {
  return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument, absl::StrCat(field, " ", why))
      .Reason("FIELD_INVALID")
      .Field(field, why)
      .Build();
}

absl::Status ResourceExists(absl::string_view name) {
  return rpc::ErrorBuilder(absl::StatusCode::kAlreadyExists,
                           absl::StrCat(name, " exists already; choose another id"))
      .Reason("RESOURCE_EXISTS")
      .Metadata("resource", name)
      .Build();
}

absl::Status CheckEtag(absl::string_view name, absl::string_view sent, absl::string_view current) {
  if (sent.empty() || sent == current) return absl::OkStatus();
  return rpc::ErrorBuilder(absl::StatusCode::kAborted,
                           absl::StrCat(name, " has changed since it was read; read it again"))
      .Reason("ETAG_MISMATCH")
      .Metadata("resource", name)
      .Metadata("etag", current)
      .Build();
}

// Stored as: version, BE64 expiry in seconds, BE64 length of the request, the request, the
// response.
absl::StatusOr<bool> Replay(Turn& turn, absl::string_view principal, absl::string_view method,
                            absl::string_view request_id, const google::protobuf::Message& request,
                            google::protobuf::Message& response) {
  if (request_id.empty()) return false;
  const absl::StatusOr<Record> record =
      turn.Get(Family::kIdempotency, RequestKey(principal, method, request_id));
  if (!record.ok()) return false;
  const absl::optional<RememberedRequest> known = ParseRemembered(record->value);
  if (!known.has_value() || known->expires < turn.now()) return false;
  if (known->request != DeterministicBytes(request)) {
    const std::string field = FirstDifference(known->request, request);
    return rpc::ErrorBuilder(absl::StatusCode::kAlreadyExists,
                             absl::StrCat("the request id ", request_id,
                                          " was used with another request (they differ in ", field,
                                          "); draw a new one"))
        .Reason("REQUEST_ID_REUSED")
        .Metadata("field", field)
        .Build();
  }
  if (!response.ParseFromArray(known->response.data(), static_cast<int>(known->response.size()))) {
    return absl::DataLossError("a remembered answer cannot be read");
  }
  return true;
}

void RememberRequest(Turn& turn, absl::string_view principal, absl::string_view method,
                     absl::string_view request_id, const google::protobuf::Message& request,
                     const google::protobuf::Message& response) {
  if (request_id.empty()) return;
  const int64_t until = absl::ToUnixSeconds(turn.now() + kRequestIdTtl);
  const std::string sent = DeterministicBytes(request);
  turn.Put(Family::kIdempotency, RequestKey(principal, method, request_id),
           absl::StrCat(std::string(1, kRememberedVersion), BigEndian(static_cast<uint64_t>(until)),
                        BigEndian(sent.size()), sent, response.SerializeAsString()));
}

bool IsForgotten(absl::string_view remembered, absl::Time now) {
  const absl::optional<RememberedRequest> known = ParseRemembered(remembered);
  return !known.has_value() || known->expires < now;
}

absl::StatusOr<std::vector<Change>> ReadChanges(const Store& store, int64_t revision) {
  absl::StatusOr<std::vector<Change>> changes = store.Changes(revision, kChangesAtATime);
  if (changes.ok()) return changes;
  return rpc::ErrorBuilder(changes.status())
      .Reason("REVISION_COMPACTED")
      .Metadata("revision", absl::StrCat(store.compacted()))
      .Build();
}

}  // namespace graft::scheduler
