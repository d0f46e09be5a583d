#include "fileservice/catalog/records.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"

namespace graft::fileservice {
namespace {

constexpr uint8_t kVersion1 = 1;

uint64_t Unsigned(int64_t value) { return static_cast<uint64_t>(value); }
int64_t Signed(uint64_t value) { return static_cast<int64_t>(value); }

void PutLabels(const Labels& labels, Encoder& out) {
  out.Varint(labels.size());
  for (const auto& [key, value] : labels) out.String(key).String(value);
}

Labels TakeLabels(Decoder& in) {
  Labels labels;
  for (uint64_t left = in.Varint(); left > 0 && in.ok(); --left) {
    std::string key(in.String());
    labels[std::move(key)] = std::string(in.String());
  }
  return labels;
}

absl::Status CheckVersion(Decoder& in, absl::string_view what) {
  const uint8_t version = in.Byte();
  if (version == kVersion1) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat(what, " has the unknown version ", version));
}

}  // namespace

std::string FilesetRecord::Encode() const {
  Encoder out;
  out.Byte(kVersion1).String(workspace).String(name).String(uid).String(description);
  PutLabels(labels, out);
  out.Varint(Unsigned(purpose)).String(project);
  out.Varint(Unsigned(keep_last + 1)).Varint(Unsigned(keep_for_s + 1)).String(creator);
  out.Varint(Unsigned(create_time_ms)).Varint(Unsigned(update_time_ms));
  out.Varint(Unsigned(latest_version)).Varint(Unsigned(version_count));
  out.Varint(Unsigned(logical_bytes)).Varint(Unsigned(revision)).Varint(Unsigned(sequence));
  return out.Digest(state).Take();
}

absl::StatusOr<FilesetRecord> FilesetRecord::Decode(absl::string_view value) {
  Decoder in(value);
  GRAFT_RETURN_IF_ERROR(CheckVersion(in, "a fileset's row"));
  FilesetRecord record;
  record.workspace = std::string(in.String());
  record.name = std::string(in.String());
  record.uid = std::string(in.String());
  record.description = std::string(in.String());
  record.labels = TakeLabels(in);
  record.purpose = static_cast<int>(in.Varint());
  record.project = std::string(in.String());
  record.keep_last = static_cast<int>(in.Varint()) - 1;
  record.keep_for_s = Signed(in.Varint()) - 1;
  record.creator = std::string(in.String());
  record.create_time_ms = Signed(in.Varint());
  record.update_time_ms = Signed(in.Varint());
  record.latest_version = Signed(in.Varint());
  record.version_count = Signed(in.Varint());
  record.logical_bytes = Signed(in.Varint());
  record.revision = Signed(in.Varint());
  record.sequence = Signed(in.Varint());
  record.state = in.Digest();
  GRAFT_RETURN_IF_ERROR(in.Finish("a fileset's row"));
  return record;
}

std::string VersionRecord::Encode() const {
  Encoder out;
  out.Byte(kVersion1).Varint(Unsigned(number)).Digest(digest).String(parent);
  out.Varint(Unsigned(create_time_ms)).String(creator).String(message);
  PutLabels(labels, out);
  out.Varint(Unsigned(file_count)).Varint(Unsigned(size_bytes)).Varint(Unsigned(stored_bytes));
  out.String(in_place_root).Varint(backups.size());
  for (const ChunkId& id : backups) out.Digest(id);
  return out.Take();
}

absl::StatusOr<VersionRecord> VersionRecord::Decode(absl::string_view value) {
  Decoder in(value);
  GRAFT_RETURN_IF_ERROR(CheckVersion(in, "a version's row"));
  VersionRecord record;
  record.number = Signed(in.Varint());
  record.digest = in.Digest();
  record.parent = std::string(in.String());
  record.create_time_ms = Signed(in.Varint());
  record.creator = std::string(in.String());
  record.message = std::string(in.String());
  record.labels = TakeLabels(in);
  record.file_count = Signed(in.Varint());
  record.size_bytes = Signed(in.Varint());
  record.stored_bytes = Signed(in.Varint());
  record.in_place_root = std::string(in.String());
  for (uint64_t left = in.Varint(); left > 0 && in.ok(); --left) {
    record.backups.push_back(in.Digest());
  }
  GRAFT_RETURN_IF_ERROR(in.Finish("a version's row"));
  return record;
}

std::string Entry::Encode() const {
  return Encoder()
      .Byte(kVersion1)
      .Varint(Unsigned(size))
      .Digest(sha256)
      .Byte(executable ? 1 : 0)
      .Varint(Unsigned(in_place_mtime_ns))
      .Take();
}

absl::StatusOr<Entry> Entry::Decode(absl::string_view value) {
  Decoder in(value);
  GRAFT_RETURN_IF_ERROR(CheckVersion(in, "a file's entry"));
  Entry entry;
  entry.size = Signed(in.Varint());
  entry.sha256 = in.Digest();
  entry.executable = in.Byte() != 0;
  entry.in_place_mtime_ns = Signed(in.Varint());
  GRAFT_RETURN_IF_ERROR(in.Finish("a file's entry"));
  return entry;
}

std::string DigestedEntry(absl::string_view path, const Entry& entry) {
  return Encoder()
      .String(path)
      .Varint(Unsigned(entry.size))
      .Digest(entry.sha256)
      .Byte(entry.executable ? 1 : 0)
      .Take();
}

std::string EncodeEpoch(int64_t epoch) { return Encoder().BigEndian64(Unsigned(epoch)).Take(); }

std::string FilePage::Encode() const {
  Encoder out;
  out.Byte(kVersion1).Varint(Unsigned(epoch)).Byte(static_cast<uint8_t>(profile));
  out.Varint(Unsigned(size)).Varint(Unsigned(chunk_count)).Digest(backup).Varint(chunks.size());
  for (const ChunkRef& chunk : chunks) out.Digest(chunk.id).Varint(chunk.size);
  return out.Take();
}

absl::StatusOr<FilePage> FilePage::Decode(absl::string_view value) {
  Decoder in(value);
  GRAFT_RETURN_IF_ERROR(CheckVersion(in, "a file's chunk list"));
  FilePage page;
  page.epoch = Signed(in.Varint());
  page.profile = static_cast<ChunkProfile>(in.Byte());
  page.size = Signed(in.Varint());
  page.chunk_count = Signed(in.Varint());
  page.backup = in.Digest();
  for (uint64_t left = in.Varint(); left > 0 && in.ok(); --left) {
    ChunkRef chunk;
    chunk.id = in.Digest();
    chunk.size = static_cast<uint32_t>(in.Varint());
    page.chunks.push_back(chunk);
  }
  GRAFT_RETURN_IF_ERROR(in.Finish("a file's chunk list"));
  return page;
}

std::string SessionRecord::Encode() const {
  Encoder out;
  out.Byte(kVersion1).String(id).String(workspace).String(fileset_uid).String(fileset);
  out.Byte(static_cast<uint8_t>(state));
  out.Varint(Unsigned(create_time_ms)).Varint(Unsigned(expire_time_ms)).String(creator);
  out.Varint(Unsigned(base_version)).Varint(removed_paths.size());
  for (const std::string& path : removed_paths) out.String(path);
  out.Varint(Unsigned(expected_bytes)).Byte(fenced ? 1 : 0);
  out.Varint(Unsigned(stored_bytes)).Varint(Unsigned(deduplicated_bytes));
  out.Varint(Unsigned(file_count)).Varint(Unsigned(version));
  return out.Take();
}

absl::StatusOr<SessionRecord> SessionRecord::Decode(absl::string_view value) {
  Decoder in(value);
  GRAFT_RETURN_IF_ERROR(CheckVersion(in, "a session's row"));
  SessionRecord record;
  record.id = std::string(in.String());
  record.workspace = std::string(in.String());
  record.fileset_uid = std::string(in.String());
  record.fileset = std::string(in.String());
  record.state = static_cast<SessionState>(in.Byte());
  record.create_time_ms = Signed(in.Varint());
  record.expire_time_ms = Signed(in.Varint());
  record.creator = std::string(in.String());
  record.base_version = Signed(in.Varint());
  for (uint64_t left = in.Varint(); left > 0 && in.ok(); --left) {
    record.removed_paths.emplace_back(in.String());
  }
  record.expected_bytes = Signed(in.Varint());
  record.fenced = in.Byte() != 0;
  record.stored_bytes = Signed(in.Varint());
  record.deduplicated_bytes = Signed(in.Varint());
  record.file_count = Signed(in.Varint());
  record.version = Signed(in.Varint());
  GRAFT_RETURN_IF_ERROR(in.Finish("a session's row"));
  return record;
}

std::string UsageRecord::Encode() const {
  return Encoder()
      .Byte(kVersion1)
      .Varint(Unsigned(logical_bytes))
      .Varint(Unsigned(reserved_bytes))
      .Take();
}

absl::StatusOr<UsageRecord> UsageRecord::Decode(absl::string_view value) {
  Decoder in(value);
  GRAFT_RETURN_IF_ERROR(CheckVersion(in, "a workspace's usage"));
  UsageRecord record;
  record.logical_bytes = Signed(in.Varint());
  record.reserved_bytes = Signed(in.Varint());
  GRAFT_RETURN_IF_ERROR(in.Finish("a workspace's usage"));
  return record;
}

std::string QuotaKey(absl::string_view workspace) { return absl::StrCat("quota ", workspace); }

std::string EncodeQuota(int64_t bytes) {
  return Encoder().Byte(kVersion1).Varint(Unsigned(bytes)).Take();
}

absl::StatusOr<int64_t> DecodeQuota(absl::string_view value) {
  Decoder in(value);
  GRAFT_RETURN_IF_ERROR(CheckVersion(in, "a workspace's quota"));
  const int64_t bytes = Signed(in.Varint());
  GRAFT_RETURN_IF_ERROR(in.Finish("a workspace's quota"));
  return bytes;
}

std::string FilesetKey(absl::string_view workspace, absl::string_view fileset) {
  return Encoder().KeyString(workspace).KeyString(fileset).Take();
}
std::string VersionKey(absl::string_view uid, int64_t number) {
  return Encoder().KeyString(uid).BigEndian64(Unsigned(number)).Take();
}
std::string EntryKey(absl::string_view uid, int64_t number, absl::string_view path) {
  return VersionKey(uid, number) + std::string(path);
}
std::string RefKey(absl::string_view uid, absl::string_view ref) {
  return Encoder().KeyString(uid).Raw(ref).Take();
}
std::string PinKey(absl::string_view uid, int64_t number, absl::string_view holder) {
  return VersionKey(uid, number) + std::string(holder);
}
std::string FilePageKey(const Sha256Digest& file, uint32_t page) {
  return Encoder().Digest(file).BigEndian32(page).Take();
}
std::string StagedKey(absl::string_view session, absl::string_view path, uint32_t page) {
  return Encoder().Raw(session).KeyString(path).BigEndian32(page).Take();
}

}  // namespace graft::fileservice
