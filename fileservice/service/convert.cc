#include "fileservice/service/convert.h"

#include "absl/strings/str_cat.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/service/access.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

constexpr size_t kMaxDescriptionBytes = 4096;
constexpr int kMaxLabels = 64;
constexpr size_t kMaxLabelBytes = 63;

google::protobuf::Timestamp TimeFromMs(int64_t ms) {
  google::protobuf::Timestamp time;
  time.set_seconds(ms / 1000);
  time.set_nanos(static_cast<int32_t>(ms % 1000) * 1'000'000);
  return time;
}

}  // namespace

v1::FileSet ToMessage(const FilesetRecord& record) {
  v1::FileSet message;
  message.set_name(FilesetName{record.workspace, record.name}.ToString());
  message.set_uid(record.uid);
  message.set_etag(absl::StrCat("\"", record.revision, "\""));
  *message.mutable_create_time() = TimeFromMs(record.create_time_ms);
  *message.mutable_update_time() = TimeFromMs(record.update_time_ms);
  message.set_creator(record.creator);
  message.set_description(record.description);
  for (const auto& [key, value] : record.labels) (*message.mutable_labels())[key] = value;
  message.set_purpose(static_cast<v1::FileSetPurpose>(record.purpose));
  message.set_project(record.project);
  if (record.keep_last >= 0) message.mutable_retention()->set_keep_last(record.keep_last);
  if (record.keep_for_s >= 0) {
    message.mutable_retention()->mutable_keep_for()->set_seconds(record.keep_for_s);
  }
  message.set_latest_version(record.latest_version);
  message.set_version_count(record.version_count);
  message.set_logical_bytes(record.logical_bytes);
  return message;
}

v1::FileSetVersion ToMessage(const FilesetName& fileset, const VersionRecord& record,
                             const std::vector<Ref>& refs, const std::vector<Pin>& pins) {
  v1::FileSetVersion message;
  message.set_name(VersionName(fileset, record.number));
  message.set_number(record.number);
  message.set_digest(absl::StrCat("sha256:", ToHex(record.digest)));
  message.set_parent(record.parent);
  *message.mutable_create_time() = TimeFromMs(record.create_time_ms);
  message.set_creator(record.creator);
  message.set_message(record.message);
  for (const auto& [key, value] : record.labels) (*message.mutable_labels())[key] = value;
  message.set_file_count(record.file_count);
  message.set_size_bytes(record.size_bytes);
  message.set_stored_bytes(record.stored_bytes);
  message.set_in_place(!record.in_place_root.empty());
  for (const Ref& ref : refs) {
    if (ref.version == record.number) message.add_refs(ref.name);
  }
  for (const Pin& pin : pins) {
    if (pin.version == record.number) message.set_pinned(true);
  }
  return message;
}

v1::FileEntry ToMessage(absl::string_view path, const Entry& entry) {
  v1::FileEntry message;
  message.set_path(std::string(path));
  message.set_size(entry.size);
  message.set_sha256(std::string(BytesOf(entry.sha256)));
  message.set_executable(entry.executable);
  return message;
}

v1::FileSetRef ToMessage(const Ref& ref) {
  v1::FileSetRef message;
  message.set_name(absl::StrCat(ref.fileset.ToString(), "/refs/", ref.name));
  message.set_version(ref.version);
  *message.mutable_update_time() = TimeFromMs(ref.update_time_ms);
  message.set_updater(ref.updater);
  return message;
}

v1::Pin ToMessage(const Pin& pin) {
  v1::Pin message;
  message.set_version(VersionName(pin.fileset, pin.version));
  message.set_holder(pin.holder);
  *message.mutable_create_time() = TimeFromMs(pin.create_time_ms);
  return message;
}

v1::UploadSession ToMessage(const SessionRecord& session) {
  v1::UploadSession message;
  message.set_name(SessionName(session));
  message.set_state(static_cast<v1::UploadSession::State>(session.state));
  *message.mutable_create_time() = TimeFromMs(session.create_time_ms);
  *message.mutable_expire_time() = TimeFromMs(session.expire_time_ms);
  message.set_creator(session.creator);
  const FilesetName fileset{session.workspace, session.fileset};
  if (session.base_version != 0) {
    message.set_base_version(VersionName(fileset, session.base_version));
  }
  for (const std::string& path : session.removed_paths) message.add_removed_paths(path);
  message.set_expected_bytes(session.expected_bytes);
  message.set_fenced(session.fenced);
  message.set_stored_bytes(session.stored_bytes);
  message.set_deduplicated_bytes(session.deduplicated_bytes);
  message.set_file_count(session.file_count);
  if (session.version != 0) message.set_version(VersionName(fileset, session.version));
  return message;
}

v1::ChunkProfile ToMessage(ChunkProfile profile) {
  switch (profile) {
    case ChunkProfile::kSafetensors:
      return v1::CHUNK_PROFILE_SAFETENSORS;
    case ChunkProfile::kText:
      return v1::CHUNK_PROFILE_TEXT;
    default:
      return v1::CHUNK_PROFILE_CDC;
  }
}

ChunkProfile FromMessage(v1::ChunkProfile profile) {
  switch (profile) {
    case v1::CHUNK_PROFILE_SAFETENSORS:
      return ChunkProfile::kSafetensors;
    case v1::CHUNK_PROFILE_TEXT:
      return ChunkProfile::kText;
    default:
      return ChunkProfile::kContent;
  }
}

absl::Status CheckFilesetMessage(const v1::FileSet& message) {
  rpc::ErrorBuilder error(absl::StatusCode::kInvalidArgument, "the fileset has invalid fields");
  bool bad = false;
  const auto refuse = [&](absl::string_view field, absl::string_view why) {
    error.Field(field, why);
    bad = true;
  };
  if (message.description().size() > kMaxDescriptionBytes) {
    refuse("fileset.description", "at most 4096 bytes");
  }
  if (message.labels_size() > kMaxLabels) refuse("fileset.labels", "at most 64 labels");
  for (const auto& [key, value] : message.labels()) {
    if (key.empty() || key.size() > kMaxLabelBytes || value.size() > kMaxLabelBytes) {
      refuse("fileset.labels", "keys and values have at most 63 characters");
      break;
    }
  }
  if (message.retention().has_keep_last() && message.retention().keep_last() < 1) {
    refuse("fileset.retention.keep_last", "at least 1: the latest version always stays");
  }
  if (message.retention().keep_for().seconds() < 0) {
    refuse("fileset.retention.keep_for", "must not be negative");
  }
  if (!v1::FileSetPurpose_IsValid(message.purpose())) {
    refuse("fileset.purpose", "is not a purpose that this server knows");
  }
  return bad ? error.Reason("FIELD_INVALID").Build() : absl::OkStatus();
}

FilesetRecord FromMessage(const v1::FileSet& message, absl::string_view workspace,
                          absl::string_view id) {
  FilesetRecord record;
  record.workspace = std::string(workspace);
  record.name = std::string(id);
  record.description = message.description();
  record.labels = Labels(message.labels().begin(), message.labels().end());
  record.purpose = message.purpose() == v1::FILE_SET_PURPOSE_UNSPECIFIED
                       ? static_cast<int>(v1::FILE_SET_PURPOSE_GENERIC)
                       : static_cast<int>(message.purpose());
  record.project = message.project();
  if (message.retention().has_keep_last()) record.keep_last = message.retention().keep_last();
  if (message.retention().has_keep_for()) {
    record.keep_for_s = message.retention().keep_for().seconds();
  }
  return record;
}

}  // namespace graft::fileservice
