#include "scheduler/service/resources.h"

#include <algorithm>

#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "base/digest.h"
#include "google/protobuf/io/coded_stream.h"
#include "google/protobuf/io/zero_copy_stream_impl_lite.h"
#include "rpc/status.h"

namespace graft::scheduler {
namespace {

constexpr char kVersion = 1;
constexpr int kDefaultPage = 50;
constexpr int kMaxPage = 1000;
constexpr int kScanned = 2000;  // records looked at a time
constexpr absl::Duration kRequestIdTtl = absl::Hours(24);

// The same bytes for the same message, maps included.
std::string Deterministic(const google::protobuf::Message& message) {
  std::string bytes;
  google::protobuf::io::StringOutputStream stream(&bytes);
  google::protobuf::io::CodedOutputStream coded(&stream);
  coded.SetSerializationDeterministic(true);
  message.SerializeToCodedStream(&coded);
  coded.Trim();
  return bytes;
}

std::string RequestKey(absl::string_view principal, absl::string_view method,
                       absl::string_view request_id) {
  return absl::StrCat(principal, "\n", method, "\n", request_id);
}

}  // namespace

std::string EncodeResource(const google::protobuf::Message& message) {
  std::string bytes(1, kVersion);
  message.AppendToString(&bytes);
  return bytes;
}

absl::Status DecodeResource(absl::string_view key, absl::string_view bytes,
                            google::protobuf::Message& message) {
  if (!bytes.empty() && bytes[0] > kVersion) {
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

// Stored as: BE64 expiry in seconds, 64 hexadecimal digits of the request's hash, the response.
absl::StatusOr<bool> Replay(Turn& turn, absl::string_view principal, absl::string_view method,
                            absl::string_view request_id, const google::protobuf::Message& request,
                            google::protobuf::Message& response) {
  if (request_id.empty()) return false;
  const absl::StatusOr<Record> record =
      turn.Get(Family::kIdempotency, RequestKey(principal, method, request_id));
  if (!record.ok() || record->value.size() < 72) return false;
  if (static_cast<int64_t>(FromBigEndian(record->value)) < absl::ToUnixSeconds(turn.now())) {
    return false;
  }
  const absl::string_view value = record->value;
  if (value.substr(8, 64) != Sha256::HexOf(Deterministic(request))) {
    return rpc::ErrorBuilder(absl::StatusCode::kAlreadyExists,
                             absl::StrCat("the request id ", request_id,
                                          " was used with another request; draw a new one"))
        .Reason("REQUEST_ID_REUSED")
        .Build();
  }
  if (!response.ParseFromArray(value.data() + 72, static_cast<int>(value.size()) - 72)) {
    return absl::DataLossError("a remembered answer cannot be read");
  }
  return true;
}

void RememberRequest(Turn& turn, absl::string_view principal, absl::string_view method,
                     absl::string_view request_id, const google::protobuf::Message& request,
                     const google::protobuf::Message& response) {
  if (request_id.empty()) return;
  const int64_t until = absl::ToUnixSeconds(turn.now() + kRequestIdTtl);
  turn.Put(Family::kIdempotency, RequestKey(principal, method, request_id),
           absl::StrCat(BigEndian(static_cast<uint64_t>(until)),
                        Sha256::HexOf(Deterministic(request)), response.SerializeAsString()));
}

absl::StatusOr<Page> ReadPage(const Store& store, const PageRequest& request,
                              const std::function<bool(const Record&)>& keep) {
  if (request.page_size < 0) {
    return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument, "page_size is below 0")
        .Reason("FIELD_INVALID")
        .Field("page_size", "must be at least 0")
        .Build();
  }
  const size_t size = request.page_size == 0 ? kDefaultPage : std::min(request.page_size, kMaxPage);
  ListRequest list{.prefix = request.prefix, .limit = kScanned};
  Page page;
  if (!request.token.empty()) {
    std::string token;
    std::pair<std::string, std::string> parts;
    if (absl::WebSafeBase64Unescape(request.token, &token)) {
      parts = absl::StrSplit(token, absl::MaxSplits('\n', 1));
    }
    // A token belongs to the list that made it: its key lies under the list's prefix.
    if (!absl::SimpleAtoi(parts.first, &page.revision) ||
        parts.second.compare(0, request.prefix.size(), request.prefix) != 0) {
      return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                               "the page token is damaged or belongs to another list")
          .Reason("PAGE_TOKEN_INVALID")
          .Build();
    }
    list.after = parts.second;
  }
  for (;;) {
    GRAFT_ASSIGN_OR_RETURN(ListResult result, store.List(list));
    if (page.revision == 0) page.revision = result.revision;
    for (Record& record : result.records) {
      list.after = record.key;
      if (!keep(record)) continue;
      if (page.records.size() == size) {
        page.next_token =
            absl::WebSafeBase64Escape(absl::StrCat(page.revision, "\n", page.records.back().key));
        return page;
      }
      page.records.push_back(std::move(record));
    }
    if (!result.more) return page;
  }
}

absl::Status NoFilters(absl::string_view filter, absl::string_view order_by) {
  if (filter.empty() && order_by.empty()) return absl::OkStatus();
  return rpc::ErrorBuilder(absl::StatusCode::kUnimplemented,
                           "this build lists in one order and without filter")
      .Reason("FEATURE_UNAVAILABLE")
      .Metadata("feature", "list.filter")
      .Build();
}

}  // namespace graft::scheduler
