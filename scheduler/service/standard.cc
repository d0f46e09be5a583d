#include "scheduler/service/standard.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/json.h"
#include "google/api/field_behavior.pb.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/util/field_mask_util.h"
#include "google/protobuf/util/json_util.h"
#include "graft/v1/workspace.pb.h"
#include "rpc/status.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace pb = google::protobuf;
using google::protobuf::util::FieldMaskUtil;

constexpr size_t kMaxDescription = 4096;
constexpr int kMaxLabels = 64;
constexpr size_t kMaxLabel = 63;

bool HasBehavior(const pb::FieldDescriptor& field, google::api::FieldBehavior wanted) {
  const auto& options = field.options();
  for (int i = 0; i < options.ExtensionSize(google::api::field_behavior); ++i) {
    if (options.GetExtension(google::api::field_behavior, i) == wanted) return true;
  }
  return false;
}

bool MayBeUpdated(const pb::FieldDescriptor& field) {
  return !HasBehavior(field, google::api::OUTPUT_ONLY) &&
         !HasBehavior(field, google::api::IMMUTABLE) &&
         !HasBehavior(field, google::api::IDENTIFIER) && field.name() != "etag";
}

absl::Status BadPath(absl::string_view path, absl::string_view why) {
  return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                           absl::StrCat("update_mask names '", path, "', which ", why))
      .Reason("FIELD_MASK_INVALID")
      .Metadata("path", path)
      .Build();
}

const pb::FieldDescriptor* FindString(const pb::Message& message, const char* name) {
  const pb::FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
  const bool fits = field != nullptr && !field->is_repeated() &&
                    field->cpp_type() == pb::FieldDescriptor::CPPTYPE_STRING;
  return fits ? field : nullptr;
}

void SetString(pb::Message& message, const char* name, const std::string& value) {
  const pb::FieldDescriptor* field = FindString(message, name);
  if (field != nullptr) message.GetReflection()->SetString(&message, field, value);
}

void SetTime(pb::Message& message, const char* name, absl::Time time) {
  const pb::FieldDescriptor* field = message.GetDescriptor()->FindFieldByName(name);
  if (field == nullptr) return;
  static_cast<google::protobuf::Timestamp&>(
      *message.GetReflection()->MutableMessage(&message, field)) = ToTimestamp(time);
}

// The value at `path` as JSON; null where it is absent.
Json ValueAt(const pb::Message& message, const std::string& path) {
  pb::FieldMask mask;
  mask.add_paths(path);
  std::unique_ptr<pb::Message> only(message.New());
  FieldMaskUtil::MergeMessageTo(message, mask, FieldMaskUtil::MergeOptions(), only.get());
  std::string text;
  pb::util::JsonPrintOptions options;
  options.preserve_proto_field_names = true;
  if (!pb::util::MessageToJsonString(*only, &text, options).ok()) return Json();
  absl::StatusOr<Json> json = Json::Parse(text);
  if (!json.ok()) return Json();
  const Json* at = &*json;
  for (absl::string_view part : absl::StrSplit(path, '.')) {
    at = at == nullptr ? nullptr : at->Find(part);
  }
  return at == nullptr ? Json() : *at;
}

}  // namespace

void ClearOutputOnly(pb::Message& resource) {
  const pb::Descriptor& type = *resource.GetDescriptor();
  for (int i = 0; i < type.field_count(); ++i) {
    if (HasBehavior(*type.field(i), google::api::OUTPUT_ONLY)) {
      resource.GetReflection()->ClearField(&resource, type.field(i));
    }
  }
}

absl::Status CheckCommon(const pb::Message& resource) {
  const auto& reflection = *resource.GetReflection();
  const pb::FieldDescriptor* text = FindString(resource, "description");
  if (text != nullptr && reflection.GetString(resource, text).size() > kMaxDescription) {
    return InvalidField("description", absl::StrCat("is longer than ", kMaxDescription, " bytes"));
  }
  const pb::FieldDescriptor* labels = resource.GetDescriptor()->FindFieldByName("labels");
  if (labels == nullptr || !labels->is_map()) return absl::OkStatus();
  if (reflection.FieldSize(resource, labels) > kMaxLabels) {
    return InvalidField("labels", absl::StrCat("are more than ", kMaxLabels));
  }
  for (int i = 0; i < reflection.FieldSize(resource, labels); ++i) {
    const pb::Message& entry = reflection.GetRepeatedMessage(resource, labels, i);
    const auto part = [&](const pb::FieldDescriptor* field) {
      return entry.GetReflection()->GetString(entry, field);
    };
    const std::string key = part(entry.GetDescriptor()->map_key());
    if (key.empty() || key.size() > kMaxLabel ||
        part(entry.GetDescriptor()->map_value()).size() > kMaxLabel) {
      return InvalidField("labels", absl::StrCat("'", key.substr(0, kMaxLabel),
                                                 "' has a key or value of 0 or more than ",
                                                 kMaxLabel, " characters"));
    }
  }
  return absl::OkStatus();
}

void StampNew(pb::Message& resource, absl::Time now, const std::string& creator,
              const std::string& uid) {
  SetTime(resource, "create_time", now);
  SetTime(resource, "update_time", now);
  SetString(resource, "creator", creator);
  SetString(resource, "uid", uid);
}

void StampUpdate(pb::Message& resource, absl::Time now) { SetTime(resource, "update_time", now); }

absl::StatusOr<std::vector<std::string>> ApplyUpdate(
    const pb::Message& sent, const pb::FieldMask& mask, pb::Message& to,
    const std::vector<std::string>& also_settable) {
  const pb::Descriptor& type = *sent.GetDescriptor();
  pb::FieldMask paths;
  for (const std::string& path : mask.paths()) {
    std::vector<const pb::FieldDescriptor*> fields;
    if (!FieldMaskUtil::GetFieldDescriptors(&type, path, &fields)) {
      return BadPath(path, absl::StrCat(type.name(), " does not have"));
    }
    const bool also =
        std::find(also_settable.begin(), also_settable.end(), path) != also_settable.end();
    if (!also && !MayBeUpdated(*fields[0])) return BadPath(path, "cannot be set");
    paths.add_paths(path);
  }
  if (mask.paths().empty()) {
    std::vector<const pb::FieldDescriptor*> present;
    sent.GetReflection()->ListFields(sent, &present);
    for (const pb::FieldDescriptor* field : present) {
      if (MayBeUpdated(*field)) paths.add_paths(field->name());
    }
  }
  FieldMaskUtil::MergeOptions options;
  options.set_replace_message_fields(true);
  options.set_replace_repeated_fields(true);
  FieldMaskUtil::MergeMessageTo(sent, paths, options, &to);
  return std::vector<std::string>(paths.paths().begin(), paths.paths().end());
}

std::string ChangeJson(const pb::Message& before, const pb::Message& after,
                       const std::vector<std::string>& paths) {
  Json json = Json::MakeObject();
  for (const std::string& path : paths) {
    std::vector<const pb::FieldDescriptor*> fields;
    FieldMaskUtil::GetFieldDescriptors(before.GetDescriptor(), path, &fields);
    if (HasBehavior(*fields.back(), google::api::INPUT_ONLY)) continue;
    Json change = Json::MakeArray();
    change.Append(ValueAt(before, path));
    change.Append(ValueAt(after, path));
    json.Set(path, std::move(change));
  }
  return json.Dump();
}

void AuditChange(Turn& turn, const rpc::Call& call, absl::string_view resource,
                 std::string change_json) {
  turn.Audit({.principal = call.identity->subject,
              .method = call.method,
              .resource = std::string(resource),
              .change_json = std::move(change_json),
              .request_id = call.request_id});
  TellOfCall(turn, call, resource);
}

absl::Status CheckWorkspaceOpen(Turn& turn, absl::string_view workspace) {
  const std::string name = absl::StrCat("workspaces/", workspace);
  GRAFT_ASSIGN_OR_RETURN(const auto body, ReadResource<graft::v1::Workspace>(
                                              turn, absl::StrCat("workspace/", workspace), name));
  if (body.state() != graft::v1::Workspace::STATE_DELETING) return absl::OkStatus();
  return rpc::ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                           absl::StrCat(name, " is being deleted and takes nothing new"))
      .Reason("STATE_CONFLICT")
      .Metadata("resource", name)
      .Metadata("state", "DELETING")
      .Build();
}

}  // namespace graft::scheduler
