#include "fileservice/catalog/backup.h"

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"

namespace graft::fileservice {
namespace {

constexpr uint8_t kBackupVersion = 1;
// A record is ended when it has grown to this; the largest row fits beside it.
constexpr size_t kRecordBytes = 1 << 20;

absl::Status CheckBackupVersion(Decoder& in, absl::string_view what) {
  const uint8_t version = in.Byte();
  if (version == kBackupVersion) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat(what, " in the packs has the unknown version ", version));
}

}  // namespace

std::string FilesetState::Encode() const {
  Encoder out;
  out.Byte(kBackupVersion).String(fileset.Encode()).Byte(deleted ? 1 : 0).Varint(versions.size());
  for (const int64_t version : versions) out.Varint(static_cast<uint64_t>(version));
  out.Varint(refs.size());
  for (const auto& [name, value] : refs) out.String(name).String(value);
  return out.Take();
}

absl::StatusOr<FilesetState> FilesetState::Decode(absl::string_view bytes) {
  Decoder in(bytes);
  GRAFT_RETURN_IF_ERROR(CheckBackupVersion(in, "a fileset's state"));
  FilesetState state;
  GRAFT_ASSIGN_OR_RETURN(state.fileset, FilesetRecord::Decode(in.String()));
  state.deleted = in.Byte() != 0;
  for (uint64_t left = in.Varint(); left > 0 && in.ok(); --left) {
    state.versions.push_back(static_cast<int64_t>(in.Varint()));
  }
  for (uint64_t left = in.Varint(); left > 0 && in.ok(); --left) {
    std::string name(in.String());
    state.refs[std::move(name)] = std::string(in.String());
  }
  GRAFT_RETURN_IF_ERROR(in.Finish("a fileset's state"));
  return state;
}

absl::StatusOr<VersionBackup> VersionBackup::Decode(absl::string_view bytes) {
  Decoder in(bytes);
  GRAFT_RETURN_IF_ERROR(CheckBackupVersion(in, "a version"));
  VersionBackup backup;
  GRAFT_ASSIGN_OR_RETURN(backup.fileset, FilesetRecord::Decode(in.String()));
  GRAFT_ASSIGN_OR_RETURN(backup.version, VersionRecord::Decode(in.String()));
  while (in.ok() && !in.empty()) {
    std::string path(in.String());
    GRAFT_ASSIGN_OR_RETURN(Entry entry, Entry::Decode(in.String()));
    backup.entries.emplace_back(std::move(path), entry);
  }
  GRAFT_RETURN_IF_ERROR(in.Finish("a version in the packs"));
  return backup;
}

absl::StatusOr<std::vector<FilePageBackup>> DecodeFilePages(absl::string_view bytes) {
  Decoder in(bytes);
  GRAFT_RETURN_IF_ERROR(CheckBackupVersion(in, "a chunk list"));
  std::vector<FilePageBackup> pages;
  while (in.ok() && !in.empty()) {
    FilePageBackup backup;
    backup.file = in.Digest();
    backup.number = static_cast<uint32_t>(in.Varint());
    GRAFT_ASSIGN_OR_RETURN(backup.page, FilePage::Decode(in.String()));
    pages.push_back(std::move(backup));
  }
  GRAFT_RETURN_IF_ERROR(in.Finish("a chunk list in the packs"));
  return pages;
}

absl::StatusOr<ChunkId> BackupWriter::Put(RecordKind kind, const std::string& bytes) {
  const ChunkId id = Sha256::Of(bytes);
  GRAFT_ASSIGN_OR_RETURN(
      const ChunkStore::PutResult put,
      store_.Put({.id = id, .raw = bytes, .kind = kind, .verified = true, .session = lease_}));
  if (first_ == 0) first_ = put.ticket;
  last_ = put.ticket;
  return id;
}

absl::Status BackupWriter::AddFilePage(const Sha256Digest& file, uint32_t number, FilePage& page) {
  if (pages_.empty()) pages_.push_back(static_cast<char>(kBackupVersion));
  pages_ += Encoder().Digest(file).Varint(number).String(page.Encode()).Take();
  waiting_.push_back(&page);
  return pages_.size() >= kRecordBytes ? EndPages() : absl::OkStatus();
}

absl::Status BackupWriter::EndPages() {
  if (waiting_.empty()) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(const ChunkId id, Put(RecordKind::kFile, pages_));
  for (FilePage* page : waiting_) page->backup = id;
  waiting_.clear();
  pages_.clear();
  return absl::OkStatus();
}

absl::Status BackupWriter::AddVersion(const FilesetRecord& fileset, VersionRecord& version,
                                      const std::vector<std::pair<std::string, Entry>>& entries) {
  std::string record;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (record.empty()) {
      record =
          Encoder().Byte(kBackupVersion).String(fileset.Encode()).String(version.Encode()).Take();
    }
    record += Encoder().String(entries[i].first).String(entries[i].second.Encode()).Take();
    if (i + 1 < entries.size() && record.size() < kRecordBytes) continue;
    GRAFT_ASSIGN_OR_RETURN(const ChunkId id, Put(RecordKind::kVersion, record));
    version.backups.push_back(id);
    record.clear();
  }
  return absl::OkStatus();
}

absl::StatusOr<ChunkId> BackupWriter::AddState(const FilesetState& state) {
  const std::string record = state.Encode();
  if (record.size() > kMaxRawBytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("fileset ", state.fileset.name, " has too many versions and refs (",
                     state.versions.size(), " and ", state.refs.size(), "): delete some"));
  }
  return Put(RecordKind::kFileset, record);
}

absl::Status BackupWriter::Finish() {
  GRAFT_RETURN_IF_ERROR(EndPages());
  return store_.WaitDurable(first_, last_);
}

}  // namespace graft::fileservice
