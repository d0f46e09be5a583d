// API resources as records: one serialised message under "kind/workspace/id", with a leading
// version byte. The etag is the quoted revision of the commit that wrote it last.
//
//   GRAFT_ASSIGN_OR_RETURN(v1::Model model, ReadResource<v1::Model>(store, ModelKey(ids)));
//   PutResource(turn, key, model);   // sets the etag that it will have
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/status_macros.h"
#include "google/protobuf/message.h"
#include "google/protobuf/timestamp.pb.h"
#include "scheduler/service/turn.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

// The same bytes for the same message, maps included.
std::string DeterministicBytes(const google::protobuf::Message& message);
std::string EncodeResource(const google::protobuf::Message& message);
absl::Status DecodeResource(absl::string_view key, absl::string_view bytes,
                            google::protobuf::Message& message);
inline std::string EtagOf(int64_t revision) { return absl::StrCat("\"", revision, "\""); }
google::protobuf::Timestamp ToTimestamp(absl::Time time);
absl::Time FromTimestamp(const google::protobuf::Timestamp& time);

// NOT_FOUND (RESOURCE_NOT_FOUND) by the resource's name.
absl::Status NoSuchResource(absl::string_view name);
absl::Status ResourceExists(absl::string_view name);
// INVALID_ARGUMENT with the field's path; `why` is read behind it.
absl::Status InvalidField(absl::string_view field, absl::string_view why);
// ABORTED (ETAG_MISMATCH) unless `sent` is empty or `current`.
absl::Status CheckEtag(absl::string_view name, absl::string_view sent, absl::string_view current);

template <typename T>
absl::StatusOr<T> ToResource(const Record& record) {
  T resource;
  GRAFT_RETURN_IF_ERROR(DecodeResource(record.key, record.value, resource));
  resource.set_etag(EtagOf(record.revision));
  return resource;
}

// From a store or a turn. `name` is for the message.
template <typename T, typename Source>
absl::StatusOr<T> ReadResource(Source& source, absl::string_view key, absl::string_view name) {
  absl::StatusOr<Record> record = source.Get(Family::kRecords, key);
  if (absl::IsNotFound(record.status())) return NoSuchResource(name);
  if (!record.ok()) return record.status();
  return ToResource<T>(*record);
}

template <typename T>
void PutResource(Turn& turn, absl::string_view key, T& resource) {
  resource.clear_etag();
  turn.Put(Family::kRecords, key, EncodeResource(resource));
  resource.set_etag(EtagOf(turn.revision()));
}

inline bool Exists(Turn& turn, absl::string_view key) {
  return turn.Get(Family::kRecords, key).ok();
}

// A repeated create: whether `request_id` was used before by this principal for this method. Then
// `response` is what was answered; ALREADY_EXISTS when the request was another. An empty id is new.
absl::StatusOr<bool> Replay(Turn& turn, absl::string_view principal, absl::string_view method,
                            absl::string_view request_id, const google::protobuf::Message& request,
                            google::protobuf::Message& response);
void RememberRequest(Turn& turn, absl::string_view principal, absl::string_view method,
                     absl::string_view request_id, const google::protobuf::Message& request,
                     const google::protobuf::Message& response);

// Whether a remembered request may be swept away.
bool IsForgotten(absl::string_view remembered, absl::Time now);

// A watch's next changes. OUT_OF_RANGE (REVISION_COMPACTED) when they are forgotten.
absl::StatusOr<std::vector<Change>> ReadChanges(const Store& store, int64_t revision);

}  // namespace graft::scheduler
