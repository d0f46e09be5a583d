// Upload sessions and what gathers in them.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/catalog/catalog.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

using rpc::ErrorBuilder;

absl::string_view StateName(SessionState state) {
  switch (state) {
    case SessionState::kOpen:
      return "open";
    case SessionState::kPublished:
      return "published";
    default:
      return "aborted or expired";
  }
}

absl::Status SessionClosed(const SessionRecord& session) {
  return ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                      absl::StrCat("upload session ", session.id, " is ", StateName(session.state),
                                   ": open another"))
      .Reason("SESSION_CLOSED")
      .Metadata("session", session.id)
      .Metadata("state", StateName(session.state))
      .Build();
}

}  // namespace

void Catalog::PutSession(const SessionRecord& session, Database::Batch& batch) const {
  batch.Put(Column::kSession, session.id, session.Encode());
}

absl::StatusOr<SessionRecord> Catalog::CreateSession(SessionRecord session,
                                                     absl::string_view request_id) {
  for (const std::string& path : session.removed_paths) GRAFT_RETURN_IF_ERROR(CheckPath(path));
  if (session.expected_bytes < 0) return absl::InvalidArgumentError("expected_bytes is negative");
  MutexLock lock(mu_);
  const FilesetName name{session.workspace, session.fileset};
  const std::string body = absl::StrCat("CreateUploadSession ", name.ToString(), " ",
                                        session.base_version, " ", session.expected_bytes);
  GRAFT_ASSIGN_OR_RETURN(const std::string replayed,
                         ReplayedAnswer(session.workspace, request_id, body));
  if (!replayed.empty()) return GetSession(replayed);
  GRAFT_ASSIGN_OR_RETURN(const FilesetRecord fileset, LoadFileset(name));
  if (session.base_version != 0) {
    GRAFT_RETURN_IF_ERROR(LoadVersion(fileset, session.base_version).status());
  }
  GRAFT_ASSIGN_OR_RETURN(UsageRecord usage, Usage(session.workspace));
  GRAFT_RETURN_IF_ERROR(CheckQuota(session.workspace, usage, session.expected_bytes));
  usage.reserved_bytes += session.expected_bytes;
  session.id = random_.Id(kSessionIdBytes);
  session.fileset_uid = fileset.uid;
  session.state = SessionState::kOpen;
  session.create_time_ms = NowMs();
  session.expire_time_ms = session.create_time_ms + absl::ToInt64Milliseconds(options_.session_ttl);
  Database::Batch batch(db_);
  PutSession(session, batch);
  batch.Put(Column::kUsage, session.workspace, usage.Encode());
  RememberAnswer(session.workspace, request_id, body, session.id, batch);
  GRAFT_RETURN_IF_ERROR(db_.Commit(batch));
  return session;
}

absl::StatusOr<SessionRecord> Catalog::GetSession(absl::string_view id) const {
  const absl::StatusOr<std::string> value = db_.Get(Column::kSession, id);
  if (absl::IsNotFound(value.status())) return NotFoundNamed(absl::StrCat("upload session ", id));
  GRAFT_RETURN_IF_ERROR(value.status());
  GRAFT_ASSIGN_OR_RETURN(SessionRecord session, SessionRecord::Decode(*value));
  if (session.state == SessionState::kOpen && session.expire_time_ms <= NowMs()) {
    session.state = SessionState::kClosed;
  }
  return session;
}

absl::StatusOr<SessionRecord> Catalog::UseSession(absl::string_view id) {
  GRAFT_ASSIGN_OR_RETURN(SessionRecord session, GetSession(id));
  if (session.state != SessionState::kOpen) return SessionClosed(session);
  // The end is written anew only when it has moved by a tenth of the time to live.
  const int64_t ttl_ms = absl::ToInt64Milliseconds(options_.session_ttl);
  if (NowMs() + ttl_ms - session.expire_time_ms < ttl_ms / 10) return session;
  MutexLock lock(mu_);
  GRAFT_ASSIGN_OR_RETURN(session, GetSession(id));
  if (session.state != SessionState::kOpen) return SessionClosed(session);
  session.expire_time_ms = NowMs() + ttl_ms;
  Database::Batch batch(db_);
  PutSession(session, batch);
  GRAFT_RETURN_IF_ERROR(db_.Commit(batch, Database::Durability::kEventual));
  return session;
}

absl::Status Catalog::AbortSession(absl::string_view id) {
  MutexLock lock(mu_);
  GRAFT_ASSIGN_OR_RETURN(SessionRecord session, GetSession(id));
  if (session.state == SessionState::kPublished) return SessionClosed(session);
  GRAFT_ASSIGN_OR_RETURN(const std::string stored, db_.Get(Column::kSession, id));
  GRAFT_ASSIGN_OR_RETURN(const SessionRecord before, SessionRecord::Decode(stored));
  if (before.state == SessionState::kClosed) return absl::OkStatus();
  session.state = SessionState::kClosed;
  GRAFT_ASSIGN_OR_RETURN(UsageRecord usage, Usage(session.workspace));
  usage.reserved_bytes -= session.expected_bytes;
  Database::Batch batch(db_);
  PutSession(session, batch);
  batch.DeletePrefix(Column::kStaged, session.id);
  batch.DeletePrefix(Column::kPartial, session.id);
  batch.Put(Column::kUsage, session.workspace, usage.Encode());
  return db_.Commit(batch);
}

absl::Status Catalog::CountBytes(absl::string_view id, int64_t stored, int64_t deduplicated) {
  MutexLock lock(mu_);
  GRAFT_ASSIGN_OR_RETURN(SessionRecord session, GetSession(id));
  if (session.state != SessionState::kOpen) return absl::OkStatus();
  session.stored_bytes += stored;
  session.deduplicated_bytes += deduplicated;
  Database::Batch batch(db_);
  PutSession(session, batch);
  return db_.Commit(batch, Database::Durability::kEventual);
}

absl::Status Catalog::CheckChunks(const SessionRecord& session, const std::string& path,
                                  const FilePage& file) const {
  int64_t missing = 0;
  for (const ChunkRef& chunk : file.chunks) {
    GRAFT_ASSIGN_OR_RETURN(bool held, db_.Contains(Column::kLease, LeaseKey(chunk.id, session.id)));
    if (held) {
      const absl::StatusOr<ChunkRow> row = store_.Find(chunk.id);
      if (!row.ok() && !absl::IsNotFound(row.status())) return row.status();
      held = row.ok();
      if (held && row->raw_bytes != chunk.size) {
        return absl::InvalidArgumentError(absl::StrCat("chunk ", ToHex(chunk.id), " of \"", path,
                                                       "\" has ", row->raw_bytes, " bytes, not ",
                                                       chunk.size));
      }
    }
    if (!held) ++missing;
  }
  if (missing == 0) return absl::OkStatus();
  return ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                      absl::StrCat("\"", path, "\" lacks ", missing,
                                   " chunks in this session: ask FindMissing and upload them"))
      .Reason("CHUNKS_MISSING")
      .Metadata("path", path)
      .Metadata("missing", absl::StrCat(missing))
      .Build();
}

absl::Status Catalog::StageFile(absl::string_view id, const std::string& path, const Entry& entry,
                                const FilePage& file, HeldCheck check) {
  GRAFT_RETURN_IF_ERROR(CheckPath(path));
  GRAFT_ASSIGN_OR_RETURN(const SessionRecord session, UseSession(id));
  if (check == HeldCheck::kDue) GRAFT_RETURN_IF_ERROR(CheckChunks(session, path, file));
  int64_t size = 0;
  for (const ChunkRef& chunk : file.chunks) size += chunk.size;
  if (size != entry.size) {
    return absl::InvalidArgumentError(absl::StrCat("\"", path, "\" is said to have ", entry.size,
                                                   " bytes, its chunks have ", size));
  }
  MutexLock lock(mu_);
  GRAFT_ASSIGN_OR_RETURN(SessionRecord now, GetSession(id));
  if (now.state != SessionState::kOpen) return SessionClosed(now);
  Database::Batch batch(db_);
  const std::string prefix = Encoder().Raw(id).KeyString(path).Take();
  GRAFT_ASSIGN_OR_RETURN(const bool again, db_.Contains(Column::kStaged, StagedKey(id, path, 0)));
  if (again) batch.DeletePrefix(Column::kStaged, prefix);
  FilePage page = file;
  page.size = entry.size;
  page.chunk_count = static_cast<int64_t>(file.chunks.size());
  uint32_t number = 0;
  size_t at = 0;
  do {
    const size_t end = std::min(file.chunks.size(), at + kChunksPerPage);
    page.chunks.assign(file.chunks.begin() + static_cast<std::ptrdiff_t>(at),
                       file.chunks.begin() + static_cast<std::ptrdiff_t>(end));
    batch.Put(Column::kStaged, StagedKey(id, path, number++),
              Encoder().String(entry.Encode()).String(page.Encode()).Take());
    at = end;
  } while (at < file.chunks.size());
  if (!again) ++now.file_count;
  PutSession(now, batch);
  // What is lost with the power is staged again by the client, which learns it when it publishes.
  return db_.Commit(batch, Database::Durability::kEventual);
}

absl::Status Catalog::SavePartial(absl::string_view id, const std::string& path,
                                  const FilePage& file) {
  Database::Batch batch(db_);
  FilePage page = file;
  // A page that is full does not change any more; only the last one may have.
  const size_t last = file.chunks.empty() ? 0 : (file.chunks.size() - 1) / kChunksPerPage;
  for (size_t number = last == 0 ? 0 : last - 1; number <= last; ++number) {
    const auto begin = file.chunks.begin() + static_cast<std::ptrdiff_t>(number * kChunksPerPage);
    const size_t count = std::min(kChunksPerPage, file.chunks.size() - number * kChunksPerPage);
    page.chunks.assign(begin, begin + static_cast<std::ptrdiff_t>(count));
    batch.Put(Column::kPartial, StagedKey(id, path, static_cast<uint32_t>(number)), page.Encode());
  }
  return db_.Commit(batch);
}

absl::StatusOr<FilePage> Catalog::LoadPartial(absl::string_view id, const std::string& path) const {
  FilePage file;
  absl::Status malformed;
  GRAFT_RETURN_IF_ERROR(db_.Scan(Column::kPartial, Encoder().Raw(id).KeyString(path).Take(),
                                 [&](absl::string_view, absl::string_view value) {
                                   const absl::StatusOr<FilePage> page = FilePage::Decode(value);
                                   malformed.Update(page.status());
                                   if (!malformed.ok()) return false;
                                   file.profile = page->profile;
                                   file.chunks.insert(file.chunks.end(), page->chunks.begin(),
                                                      page->chunks.end());
                                   return true;
                                 }));
  GRAFT_RETURN_IF_ERROR(malformed);
  return file;
}

absl::Status Catalog::DropPartial(absl::string_view id, const std::string& path) {
  Database::Batch batch(db_);
  batch.DeletePrefix(Column::kPartial, Encoder().Raw(id).KeyString(path).Take());
  return db_.Commit(batch, Database::Durability::kEventual);
}

absl::StatusOr<Entry> Catalog::GetStaged(absl::string_view id, const std::string& path) const {
  const absl::StatusOr<std::string> value = db_.Get(Column::kStaged, StagedKey(id, path, 0));
  if (absl::IsNotFound(value.status())) return NotFoundNamed(absl::StrCat("staged file ", path));
  GRAFT_RETURN_IF_ERROR(value.status());
  return Entry::Decode(Decoder(*value).String());
}

absl::Status Catalog::LoadStaged(const SessionRecord& session, Draft& draft) const {
  absl::Status malformed;
  GRAFT_RETURN_IF_ERROR(
      db_.Scan(Column::kStaged, session.id, [&](absl::string_view key, absl::string_view value) {
        Decoder key_in(key.substr(session.id.size()));
        const std::string path(key_in.KeyString());
        Decoder in(value);
        const absl::StatusOr<Entry> entry = Entry::Decode(in.String());
        absl::StatusOr<FilePage> page = FilePage::Decode(in.String());
        malformed.Update(entry.status());
        malformed.Update(page.status());
        if (!malformed.ok()) return false;
        draft.entries[path] = *entry;
        FilePage& file = draft.files[entry->sha256];
        const bool first = key_in.BigEndian32() == 0;
        if (first) {
          file = *std::move(page);
        } else {
          file.chunks.insert(file.chunks.end(), page->chunks.begin(), page->chunks.end());
        }
        return true;
      }));
  return malformed;
}

}  // namespace graft::fileservice
