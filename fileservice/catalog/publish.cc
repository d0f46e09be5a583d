// How a version comes into being: everything is checked and prepared, then one synced batch.
#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/catalog/catalog.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

using rpc::ErrorBuilder;

constexpr size_t kMaxMessageBytes = 4096;
constexpr size_t kMaxLabels = 64;

absl::Status Collision(absl::string_view path, absl::string_view other, absl::string_view why) {
  return ErrorBuilder(absl::StatusCode::kInvalidArgument,
                      absl::StrCat("\"", path, "\" and \"", other, "\" ", why))
      .Reason("PATH_INVALID")
      .Metadata("path", path)
      .Build();
}

}  // namespace

absl::Status Catalog::CheckCollisions(const absl::btree_map<std::string, Entry>& entries) {
  absl::flat_hash_map<std::string, absl::string_view> folded;
  folded.reserve(entries.size());
  for (const auto& [path, entry] : entries) {
    const auto [at, inserted] = folded.try_emplace(FoldCase(path), path);
    if (!inserted) {
      return Collision(path, at->second, "differ in case alone, which not every system can tell");
    }
  }
  for (const auto& [path, entry] : entries) {
    for (size_t slash = path.find('/'); slash != std::string::npos;
         slash = path.find('/', slash + 1)) {
      const auto file = folded.find(FoldCase(absl::string_view(path).substr(0, slash)));
      if (file != folded.end()) {
        return Collision(file->second, path, "cannot both be: the one is a folder of the other");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Catalog::WriteBackups(Draft& draft, BackupWriter& writer) {
  for (auto& [sha256, file] : draft.files) {
    size_t at = 0;
    do {
      const size_t end = std::min(file.chunks.size(), at + kChunksPerPage);
      FilePage page = file;
      page.chunks.assign(file.chunks.begin() + static_cast<std::ptrdiff_t>(at),
                         file.chunks.begin() + static_cast<std::ptrdiff_t>(end));
      draft.pages.push_back({sha256, static_cast<uint32_t>(at / kChunksPerPage), std::move(page)});
      at = end;
    } while (at < file.chunks.size());
  }
  for (FilePageBackup& backup : draft.pages) {
    GRAFT_RETURN_IF_ERROR(writer.AddFilePage(backup.file, backup.number, backup.page));
  }
  const std::vector<std::pair<std::string, Entry>> entries(draft.entries.begin(),
                                                           draft.entries.end());
  GRAFT_RETURN_IF_ERROR(writer.AddVersion(draft.fileset, draft.version, entries));
  if (!draft.ref.has_value()) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(FilesetState state, LoadState(draft.fileset));
  state.versions.push_back(draft.version.number);
  state.refs[draft.ref->name] = EncodeRef(*draft.ref);
  GRAFT_ASSIGN_OR_RETURN(draft.fileset.state, writer.AddState(state));
  return absl::OkStatus();
}

absl::Status Catalog::Seal(Draft& draft, UsageRecord& usage, Database::Batch& batch) {
  FilesetRecord& fileset = draft.fileset;
  VersionRecord& version = draft.version;
  if (draft.entries.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("a version of ", fileset.name, " needs a file: stage one before publishing"));
  }
  if (version.message.size() > kMaxMessageBytes || version.labels.size() > kMaxLabels) {
    return absl::InvalidArgumentError("a version's message has at most 4 KiB, and 64 labels");
  }
  GRAFT_RETURN_IF_ERROR(CheckCollisions(draft.entries));
  version.number = fileset.latest_version + 1;
  version.create_time_ms = NowMs();
  version.file_count = static_cast<int64_t>(draft.entries.size());
  version.size_bytes = 0;
  for (const auto& [path, entry] : draft.entries) version.size_bytes += entry.size;
  version.digest = ManifestDigest(draft.entries);
  GRAFT_RETURN_IF_ERROR(CheckQuota(fileset.workspace, usage, version.size_bytes));
  usage.logical_bytes += version.size_bytes;
  fileset.latest_version = version.number;
  ++fileset.version_count;
  fileset.logical_bytes += version.size_bytes;
  fileset.update_time_ms = version.create_time_ms;
  ++fileset.revision;
  ++fileset.sequence;
  BackupWriter writer(store_, draft.lease.empty() ? random_.Id(kSessionIdBytes) : draft.lease);
  GRAFT_RETURN_IF_ERROR(WriteBackups(draft, writer));
  GRAFT_RETURN_IF_ERROR(writer.Finish());

  ++epoch_;
  for (const auto& [path, entry] : draft.entries) {
    batch.Put(Column::kEntry, EntryKey(fileset.uid, version.number, path), entry.Encode());
  }
  for (FilePageBackup& backup : draft.pages) {
    backup.page.epoch = epoch_;
    for (const ChunkRef& chunk : backup.page.chunks) {
      batch.Put(Column::kReach, ReachKey(fileset.workspace, chunk.id),
                Encoder().Varint(static_cast<uint64_t>(epoch_)).Take());
    }
    batch.Put(Column::kFile, FilePageKey(backup.file, backup.number), backup.page.Encode());
  }
  if (draft.ref.has_value()) {
    batch.Put(Column::kRef, RefKey(fileset.uid, draft.ref->name), EncodeRef(*draft.ref));
  }
  batch.Put(Column::kVersion, VersionKey(fileset.uid, version.number), version.Encode());
  batch.Put(Column::kFileset, FilesetKey(fileset.workspace, fileset.name), fileset.Encode());
  batch.Put(Column::kUsage, fileset.workspace, usage.Encode());
  batch.Put(Column::kMeta, kEpochKey, EncodeEpoch(epoch_));
  return absl::OkStatus();
}

absl::StatusOr<ResolvedVersion> Catalog::Publish(const PublishRequest& request) {
  if (request.expected_ref_version.has_value() && request.ref.empty()) {
    return absl::InvalidArgumentError("expected_ref_version is given without a ref");
  }
  if (!request.ref.empty()) GRAFT_RETURN_IF_ERROR(CheckRef(request.ref));
  MutexLock lock(mu_);
  GRAFT_ASSIGN_OR_RETURN(SessionRecord session, GetSession(request.session));
  const FilesetName name{session.workspace, session.fileset};
  if (session.state == SessionState::kPublished) {
    return Resolve(name, absl::StrCat(session.version));
  }
  if (session.state != SessionState::kOpen) return UseSession(request.session).status();
  Draft draft;
  GRAFT_ASSIGN_OR_RETURN(draft.fileset, LoadFileset(name));
  if (draft.fileset.uid != session.fileset_uid) return NotFoundNamed(name.ToString());
  GRAFT_RETURN_IF_ERROR(CheckLatest(draft.fileset, request.expected_latest));
  if (session.base_version != 0) {
    ResolvedVersion base{draft.fileset, VersionRecord()};
    GRAFT_ASSIGN_OR_RETURN(base.version, LoadVersion(draft.fileset, session.base_version));
    draft.version.parent = base.name();
    GRAFT_RETURN_IF_ERROR(LoadEntries(base, draft.entries));
    for (const std::string& path : session.removed_paths) draft.entries.erase(path);
  } else if (draft.fileset.latest_version != 0) {
    draft.version.parent = VersionName(name, draft.fileset.latest_version);
  }
  GRAFT_RETURN_IF_ERROR(LoadStaged(session, draft));
  for (const auto& [sha256, file] : draft.files) {
    GRAFT_RETURN_IF_ERROR(CheckChunks(session, ToHex(sha256), file));
  }
  draft.version.creator = request.actor;
  draft.version.message = request.message;
  draft.version.labels = request.labels;
  draft.version.stored_bytes = session.stored_bytes;
  draft.lease = session.id;
  GRAFT_ASSIGN_OR_RETURN(UsageRecord usage, Usage(session.workspace));
  usage.reserved_bytes -= session.expected_bytes;

  if (!request.ref.empty()) {
    GRAFT_RETURN_IF_ERROR(CheckRefAt(name, request.ref, request.expected_ref_version).status());
    draft.ref = Ref{name, request.ref, draft.fileset.latest_version + 1, NowMs(), request.actor};
  }
  Database::Batch batch(db_);
  GRAFT_RETURN_IF_ERROR(Seal(draft, usage, batch));
  const int64_t number = draft.version.number;
  if (!request.pin_holder.empty()) {
    batch.Put(Column::kPin, PinKey(draft.fileset.uid, number, request.pin_holder),
              Encoder().Varint(static_cast<uint64_t>(NowMs())).Take());
  }
  session.state = SessionState::kPublished;
  session.version = number;
  PutSession(session, batch);
  batch.DeletePrefix(Column::kStaged, session.id);
  batch.DeletePrefix(Column::kPartial, session.id);
  // The session's leases stay until the next collection begins: one that runs now has not seen this
  // version, and they are what keeps its chunks.
  GRAFT_RETURN_IF_ERROR(db_.Commit(batch));
  return ResolvedVersion{draft.fileset, draft.version};
}

absl::StatusOr<ResolvedVersion> Catalog::CopyVersion(const ResolvedVersion& source,
                                                     const FilesetName& target,
                                                     std::optional<int64_t> expected_latest,
                                                     absl::string_view message,
                                                     absl::string_view actor,
                                                     absl::string_view request_id) {
  const absl::StatusOr<FilesetRecord> existing = GetFileset(target);
  if (absl::IsNotFound(existing.status())) {
    FilesetRecord created;
    created.workspace = target.workspace;
    created.name = target.fileset;
    created.purpose = source.fileset.purpose;
    created.creator = std::string(actor);
    const absl::Status status = CreateFileset(std::move(created), "").status();
    if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
  }
  MutexLock lock(mu_);
  const std::string body = absl::StrCat("CopyVersion ", source.name(), " ", target.ToString());
  GRAFT_ASSIGN_OR_RETURN(const std::string replayed,
                         ReplayedAnswer(target.workspace, request_id, body));
  if (!replayed.empty()) return Resolve(target, replayed);
  Draft draft;
  GRAFT_ASSIGN_OR_RETURN(draft.fileset, LoadFileset(target));
  GRAFT_RETURN_IF_ERROR(CheckLatest(draft.fileset, expected_latest));
  // It may have been deleted since it was resolved.
  GRAFT_RETURN_IF_ERROR(LoadVersion(source.fileset, source.version.number).status());
  GRAFT_RETURN_IF_ERROR(LoadEntries(source, draft.entries));
  if (source.version.in_place_root.empty()) {
    for (const auto& [path, entry] : draft.entries) {
      if (draft.files.contains(entry.sha256)) continue;
      GRAFT_ASSIGN_OR_RETURN(draft.files[entry.sha256], GetFile(entry.sha256));
    }
  }
  draft.version.in_place_root = source.version.in_place_root;
  draft.version.parent = source.name();
  draft.version.creator = std::string(actor);
  draft.version.message = std::string(message);
  draft.version.labels = source.version.labels;
  GRAFT_ASSIGN_OR_RETURN(UsageRecord usage, Usage(target.workspace));
  Database::Batch batch(db_);
  GRAFT_RETURN_IF_ERROR(Seal(draft, usage, batch));
  RememberAnswer(target.workspace, request_id, body, absl::StrCat(draft.version.number), batch);
  GRAFT_RETURN_IF_ERROR(db_.Commit(batch));
  return ResolvedVersion{draft.fileset, draft.version};
}

absl::StatusOr<ResolvedVersion> Catalog::PublishInPlace(
    const FilesetName& name, int purpose, const std::string& root,
    const absl::btree_map<std::string, Entry>& entries, absl::string_view message,
    absl::string_view actor, absl::string_view request_id) {
  const absl::StatusOr<FilesetRecord> existing = GetFileset(name);
  if (absl::IsNotFound(existing.status())) {
    FilesetRecord created;
    created.workspace = name.workspace;
    created.name = name.fileset;
    created.purpose = purpose;
    created.creator = std::string(actor);
    const absl::Status status = CreateFileset(std::move(created), "").status();
    if (!status.ok() && !absl::IsAlreadyExists(status)) return status;
  }
  for (const auto& [path, entry] : entries) GRAFT_RETURN_IF_ERROR(CheckPath(path));
  MutexLock lock(mu_);
  const std::string body = absl::StrCat("RegisterInPlace ", name.ToString(), " ", root);
  GRAFT_ASSIGN_OR_RETURN(const std::string replayed,
                         ReplayedAnswer(name.workspace, request_id, body));
  if (!replayed.empty()) return Resolve(name, replayed);
  Draft draft;
  GRAFT_ASSIGN_OR_RETURN(draft.fileset, LoadFileset(name));
  draft.entries = entries;
  draft.version.in_place_root = root;
  draft.version.creator = std::string(actor);
  draft.version.message = std::string(message);
  GRAFT_ASSIGN_OR_RETURN(UsageRecord usage, Usage(name.workspace));
  Database::Batch batch(db_);
  GRAFT_RETURN_IF_ERROR(Seal(draft, usage, batch));
  RememberAnswer(name.workspace, request_id, body, absl::StrCat(draft.version.number), batch);
  GRAFT_RETURN_IF_ERROR(db_.Commit(batch));
  return ResolvedVersion{draft.fileset, draft.version};
}

}  // namespace graft::fileservice
