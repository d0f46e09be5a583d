// What all resources of the contract have in common when they are made, changed and deleted:
// request ids, field masks, etags, stamps, limits of texts and labels, the audit line. Which fields
// a caller may set is read from the contract's field_behavior.
//
//   Mutate<v1::Project>(control, std::move(responder), [=](Turn& turn) {
//     return CreateIn(turn, *call, request, key, project, {.uid = uid});
//   });
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "google/protobuf/field_mask.pb.h"
#include "google/protobuf/message.h"
#include "scheduler/service/mutate.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {

// Takes out what a caller may send back but not set.
void ClearOutputOnly(google::protobuf::Message& resource);

// Description at most 4 KiB, at most 64 labels of at most 63 characters. INVALID_ARGUMENT by field.
absl::Status CheckCommon(const google::protobuf::Message& resource);

// Sets create_time, update_time, creator and uid as far as the type has them.
void StampNew(google::protobuf::Message& resource, absl::Time now, const std::string& creator,
              const std::string& uid);
void StampUpdate(google::protobuf::Message& resource, absl::Time now);

// Copies the fields of the mask (an empty one: every field that is present and may be set) and
// answers their paths. INVALID_ARGUMENT (FIELD_MASK_INVALID) for a path that the type lacks or that
// may not be set; `also_settable` are paths below fields that otherwise may not.
absl::StatusOr<std::vector<std::string>> ApplyUpdate(
    const google::protobuf::Message& sent, const google::protobuf::FieldMask& mask,
    google::protobuf::Message& to, const std::vector<std::string>& also_settable = {});

// {"path": [before, after]}, values of INPUT_ONLY fields left out.
std::string ChangeJson(const google::protobuf::Message& before,
                       const google::protobuf::Message& after,
                       const std::vector<std::string>& paths);

void AuditChange(Turn& turn, const rpc::Call& call, absl::string_view resource,
                 std::string change_json);

struct CreateExtras {
  std::string uid;
  bool validate_only = false;
  // Runs when the resource is made now, and not answered again.
  std::function<void(Turn&)> on_new = nullptr;
};

// Makes `resource`, whose name is set already, unless its key is taken. `request` is what is
// remembered under its request id.
template <typename T, typename Request>
absl::StatusOr<T> CreateIn(Turn& turn, const rpc::Call& call, const Request& request,
                           const std::string& key, T resource, const CreateExtras& extras) {
  T replay;
  GRAFT_ASSIGN_OR_RETURN(const bool replayed, Replay(turn, call.identity->subject, call.method,
                                                     request.request_id(), request, replay));
  if (replayed) return replay;
  if (Exists(turn, key)) return ResourceExists(resource.name());
  GRAFT_RETURN_IF_ERROR(CheckCommon(resource));
  StampNew(resource, turn.now(), call.identity->subject, extras.uid);
  if (extras.validate_only) return resource;
  PutResource(turn, key, resource);
  if (extras.on_new) extras.on_new(turn);
  RememberRequest(turn, call.identity->subject, call.method, request.request_id(), request,
                  resource);
  AuditCall(turn, call, resource.name());
  return resource;
}

// Changes what stands under `key`. `check` sees the new value before it is kept and may refuse it.
template <typename T>
absl::StatusOr<T> UpdateIn(Turn& turn, const rpc::Call& call, const std::string& key, const T& sent,
                           const google::protobuf::FieldMask& mask,
                           const std::function<absl::Status(T&)>& check = nullptr,
                           bool validate_only = false) {
  GRAFT_ASSIGN_OR_RETURN(const T before, ReadResource<T>(turn, key, sent.name()));
  GRAFT_RETURN_IF_ERROR(CheckEtag(sent.name(), sent.etag(), before.etag()));
  T now = before;
  GRAFT_ASSIGN_OR_RETURN(const std::vector<std::string> paths, ApplyUpdate(sent, mask, now));
  GRAFT_RETURN_IF_ERROR(CheckCommon(now));
  if (check) GRAFT_RETURN_IF_ERROR(check(now));
  StampUpdate(now, turn.now());
  if (validate_only) return now;
  PutResource(turn, key, now);
  AuditChange(turn, call, sent.name(), ChangeJson(before, now, paths));
  return now;
}

// Removes what stands under `key`; answers what it was.
template <typename T>
absl::StatusOr<T> DeleteIn(Turn& turn, const rpc::Call& call, const std::string& key,
                           const std::string& name, const std::string& etag) {
  GRAFT_ASSIGN_OR_RETURN(T resource, ReadResource<T>(turn, key, name));
  GRAFT_RETURN_IF_ERROR(CheckEtag(name, etag, resource.etag()));
  turn.Remove(Family::kRecords, key);
  AuditCall(turn, call, name);
  return resource;
}

// NOT_FOUND unless the workspace is there and takes new things.
absl::Status CheckWorkspaceOpen(Turn& turn, absl::string_view workspace);

}  // namespace graft::scheduler
