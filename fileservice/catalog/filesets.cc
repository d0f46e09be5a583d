// Filesets, refs and pins.
#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/catalog/catalog.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

using rpc::ErrorBuilder;

constexpr size_t kMaxHoldersNamed = 20;
constexpr uint8_t kRefVersion = 1;

absl::StatusOr<Ref> DecodeRef(const FilesetName& fileset, absl::string_view name,
                              absl::string_view value) {
  Decoder in(value);
  if (in.Byte() != kRefVersion) return absl::DataLossError("a ref has an unknown version");
  Ref ref;
  ref.fileset = fileset;
  ref.name = std::string(name);
  ref.version = static_cast<int64_t>(in.Varint());
  ref.update_time_ms = static_cast<int64_t>(in.Varint());
  ref.updater = std::string(in.String());
  GRAFT_RETURN_IF_ERROR(in.Finish("a ref"));
  return ref;
}

absl::Status EtagError(const FilesetRecord& fileset) {
  return ErrorBuilder(absl::StatusCode::kAborted,
                      absl::StrCat("fileset ", fileset.name,
                                   " was changed meanwhile: read it again and repeat the change"))
      .Reason("ETAG_MISMATCH")
      .Metadata("resource", FilesetName{fileset.workspace, fileset.name}.ToString())
      .Metadata("etag", absl::StrCat("\"", fileset.revision, "\""))
      .Build();
}

absl::Status CheckEtag(const FilesetRecord& fileset, absl::string_view etag) {
  if (etag.empty() || etag == absl::StrCat("\"", fileset.revision, "\"")) return absl::OkStatus();
  return EtagError(fileset);
}

absl::Status RefMoved(const FilesetName& fileset, absl::string_view ref, int64_t version) {
  return ErrorBuilder(absl::StatusCode::kAborted,
                      version == 0 ? absl::StrCat("ref ", ref, " does not exist")
                                   : absl::StrCat("ref ", ref, " is at version ", version,
                                                  ", not where it was expected"))
      .Reason("REF_MOVED")
      .Metadata("ref", absl::StrCat(fileset.ToString(), "/refs/", ref))
      .Metadata("version", absl::StrCat(version))
      .Build();
}

}  // namespace

std::string EncodeRef(const Ref& ref) {
  return Encoder()
      .Byte(kRefVersion)
      .Varint(static_cast<uint64_t>(ref.version))
      .Varint(static_cast<uint64_t>(ref.update_time_ms))
      .String(ref.updater)
      .Take();
}

absl::Status NotFoundNamed(absl::string_view resource) {
  return ErrorBuilder(
             absl::StatusCode::kNotFound,
             absl::StrCat(resource, " does not exist, or you have no role in its workspace"))
      .Reason("RESOURCE_NOT_FOUND")
      .Metadata("resource", resource)
      .Build();
}

Catalog::Catalog(Database& db, ChunkStore& store, Clock& clock, Random& random, Options options)
    : db_(db), store_(store), clock_(clock), random_(random), options_(std::move(options)) {}

absl::Status Catalog::Open() {
  const absl::StatusOr<std::string> value = db_.Get(Column::kMeta, kEpochKey);
  if (absl::IsNotFound(value.status())) return absl::OkStatus();
  GRAFT_RETURN_IF_ERROR(value.status());
  MutexLock lock(mu_);
  Decoder in(*value);
  epoch_ = static_cast<int64_t>(in.BigEndian64());
  return in.Finish("the publish epoch");
}

absl::Status Catalog::WithPublishLock(const std::function<absl::Status(int64_t)>& step) {
  MutexLock lock(mu_);
  return step(epoch_);
}

absl::StatusOr<FilesetState> Catalog::LoadState(const FilesetRecord& fileset) const {
  FilesetState state;
  state.fileset = fileset;
  GRAFT_ASSIGN_OR_RETURN(const std::vector<VersionRecord> versions,
                         ListVersions(fileset, INT64_MAX, SIZE_MAX));
  for (const VersionRecord& version : versions) state.versions.push_back(version.number);
  const std::string prefix = RefKey(fileset.uid, "");
  GRAFT_RETURN_IF_ERROR(
      db_.Scan(Column::kRef, prefix, [&](absl::string_view key, absl::string_view value) {
        state.refs[std::string(key.substr(prefix.size()))] = std::string(value);
        return true;
      }));
  return state;
}

absl::Status Catalog::PutState(FilesetState state, Database::Batch& batch) {
  ++state.fileset.sequence;
  BackupWriter writer(store_, random_.Id(kSessionIdBytes));
  GRAFT_ASSIGN_OR_RETURN(const ChunkId id, writer.AddState(state));
  GRAFT_RETURN_IF_ERROR(writer.Finish());
  state.fileset.state = id;
  const std::string key = FilesetKey(state.fileset.workspace, state.fileset.name);
  if (state.deleted) {
    batch.Delete(Column::kFileset, key);
  } else {
    batch.Put(Column::kFileset, key, state.fileset.Encode());
  }
  return absl::OkStatus();
}

absl::StatusOr<FilesetRecord> Catalog::LoadFileset(const FilesetName& name) const {
  const absl::StatusOr<std::string> value =
      db_.Get(Column::kFileset, FilesetKey(name.workspace, name.fileset));
  if (absl::IsNotFound(value.status())) return NotFoundNamed(name.ToString());
  GRAFT_RETURN_IF_ERROR(value.status());
  return FilesetRecord::Decode(*value);
}

absl::StatusOr<FilesetRecord> Catalog::GetFileset(const FilesetName& name) const {
  return LoadFileset(name);
}

// The answer that was given to this request id, empty when there was none.
absl::StatusOr<std::string> Catalog::ReplayedAnswer(absl::string_view workspace,
                                                    absl::string_view id,
                                                    absl::string_view body) const {
  if (id.empty()) return std::string();
  const absl::StatusOr<std::string> value =
      db_.Get(Column::kRequest, Encoder().KeyString(workspace).Raw(id).Take());
  if (absl::IsNotFound(value.status())) return std::string();
  GRAFT_RETURN_IF_ERROR(value.status());
  Decoder in(*value);
  if (in.String() == body) return std::string(in.String());
  return ErrorBuilder(absl::StatusCode::kAlreadyExists,
                      absl::StrCat("request_id ", id, " was used for another request"))
      .Reason("REQUEST_ID_REUSED")
      .Build();
}

void Catalog::RememberAnswer(absl::string_view workspace, absl::string_view id,
                             absl::string_view body, absl::string_view answer,
                             Database::Batch& batch) {
  if (id.empty()) return;
  batch.Put(Column::kRequest, Encoder().KeyString(workspace).Raw(id).Take(),
            Encoder().String(body).String(answer).Take());
}

absl::StatusOr<FilesetRecord> Catalog::CreateFileset(FilesetRecord fileset,
                                                     absl::string_view request_id,
                                                     bool validate_only) {
  GRAFT_RETURN_IF_ERROR(CheckId(fileset.workspace, "workspace"));
  GRAFT_RETURN_IF_ERROR(CheckId(fileset.name, "fileset"));
  MutexLock lock(mu_);
  const std::string body = absl::StrCat("CreateFileSet ", fileset.name);
  GRAFT_ASSIGN_OR_RETURN(const std::string replayed,
                         ReplayedAnswer(fileset.workspace, request_id, body));
  if (!replayed.empty()) return FilesetRecord::Decode(replayed);
  const std::string key = FilesetKey(fileset.workspace, fileset.name);
  GRAFT_ASSIGN_OR_RETURN(const bool exists, db_.Contains(Column::kFileset, key));
  if (exists) {
    const std::string name = FilesetName{fileset.workspace, fileset.name}.ToString();
    return ErrorBuilder(absl::StatusCode::kAlreadyExists, absl::StrCat(name, " exists already"))
        .Reason("RESOURCE_EXISTS")
        .Metadata("resource", name)
        .Build();
  }
  fileset.uid = random_.Id(16);
  fileset.create_time_ms = fileset.update_time_ms = NowMs();
  fileset.revision = 1;
  if (validate_only) return fileset;
  Database::Batch batch(db_);
  GRAFT_RETURN_IF_ERROR(PutState({.fileset = fileset}, batch));
  RememberAnswer(fileset.workspace, request_id, body, fileset.Encode(), batch);
  GRAFT_RETURN_IF_ERROR(db_.Commit(batch));
  return fileset;
}

absl::StatusOr<std::vector<FilesetRecord>> Catalog::ListFilesets(
    absl::string_view workspace, const std::function<bool(const FilesetRecord&)>& keep,
    std::pair<std::string, std::string> after, size_t limit) const {
  std::vector<FilesetRecord> result;
  absl::Status malformed;
  const std::string prefix = workspace.empty() ? "" : Encoder().KeyString(workspace).Take();
  const std::string start =
      after.second.empty() ? prefix : FilesetKey(after.first, after.second) + '\0';
  GRAFT_RETURN_IF_ERROR(db_.ScanFrom(
      Column::kFileset, prefix, start, [&](absl::string_view, absl::string_view value) {
        absl::StatusOr<FilesetRecord> record = FilesetRecord::Decode(value);
        if (!record.ok()) {
          malformed = record.status();
          return false;
        }
        if (keep(*record)) result.push_back(*std::move(record));
        return result.size() < limit;
      }));
  GRAFT_RETURN_IF_ERROR(malformed);
  return result;
}

absl::StatusOr<FilesetRecord> Catalog::UpdateFileset(
    const FilesetName& name, absl::string_view etag,
    const std::function<absl::Status(FilesetRecord&)>& change) {
  MutexLock lock(mu_);
  GRAFT_ASSIGN_OR_RETURN(FilesetRecord fileset, LoadFileset(name));
  GRAFT_RETURN_IF_ERROR(CheckEtag(fileset, etag));
  GRAFT_RETURN_IF_ERROR(change(fileset));
  fileset.update_time_ms = NowMs();
  ++fileset.revision;
  Database::Batch batch(db_);
  GRAFT_ASSIGN_OR_RETURN(FilesetState state, LoadState(fileset));
  GRAFT_RETURN_IF_ERROR(PutState(std::move(state), batch));
  GRAFT_RETURN_IF_ERROR(db_.Commit(batch));
  return fileset;
}

absl::StatusOr<FilesetRecord> Catalog::RenameFileset(const FilesetName& name,
                                                     const std::string& new_fileset,
                                                     absl::string_view etag) {
  GRAFT_RETURN_IF_ERROR(CheckId(new_fileset, "fileset"));
  MutexLock lock(mu_);
  GRAFT_ASSIGN_OR_RETURN(FilesetRecord fileset, LoadFileset(name));
  GRAFT_RETURN_IF_ERROR(CheckEtag(fileset, etag));
  GRAFT_RETURN_IF_ERROR(CheckUnpinned(fileset, 0));
  const std::string new_key = FilesetKey(name.workspace, new_fileset);
  GRAFT_ASSIGN_OR_RETURN(const bool exists, db_.Contains(Column::kFileset, new_key));
  if (exists) {
    const std::string new_name = FilesetName{name.workspace, new_fileset}.ToString();
    return ErrorBuilder(absl::StatusCode::kAlreadyExists, absl::StrCat(new_name, " exists already"))
        .Reason("RESOURCE_EXISTS")
        .Metadata("resource", new_name)
        .Build();
  }
  fileset.name = new_fileset;
  fileset.update_time_ms = NowMs();
  ++fileset.revision;
  Database::Batch batch(db_);
  batch.Delete(Column::kFileset, FilesetKey(name.workspace, name.fileset));
  GRAFT_ASSIGN_OR_RETURN(FilesetState state, LoadState(fileset));
  GRAFT_RETURN_IF_ERROR(PutState(std::move(state), batch));
  GRAFT_RETURN_IF_ERROR(db_.Commit(batch));
  return fileset;
}

absl::Status Catalog::CheckUnpinned(const FilesetRecord& fileset, int64_t version) const {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<Pin> pins, ListPins(fileset, version));
  if (pins.empty()) return absl::OkStatus();
  std::vector<std::string> holders;
  for (const Pin& pin : pins) holders.push_back(pin.holder);
  if (holders.size() > kMaxHoldersNamed) holders.resize(kMaxHoldersNamed);
  const std::string names = absl::StrJoin(holders, ", ");
  const std::string what = VersionName({fileset.workspace, fileset.name}, pins[0].version);
  return ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                      absl::StrCat(what, " is needed by ", names, ": delete or end those first"))
      .Reason("VERSION_PINNED")
      .Metadata("version", what)
      .Metadata("holders", names)
      .Build();
}

absl::Status Catalog::DeleteFileset(const FilesetName& name, absl::string_view etag,
                                    bool allow_missing) {
  MutexLock lock(mu_);
  const absl::StatusOr<FilesetRecord> loaded = LoadFileset(name);
  if (absl::IsNotFound(loaded.status()) && allow_missing) return absl::OkStatus();
  GRAFT_RETURN_IF_ERROR(loaded.status());
  FilesetRecord fileset = *loaded;
  GRAFT_RETURN_IF_ERROR(CheckEtag(fileset, etag));
  GRAFT_RETURN_IF_ERROR(CheckUnpinned(fileset, 0));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<VersionRecord> versions,
                         ListVersions(fileset, INT64_MAX, SIZE_MAX));
  GRAFT_ASSIGN_OR_RETURN(UsageRecord usage, Usage(name.workspace));
  Database::Batch batch(db_);
  for (const VersionRecord& version : versions) {
    GRAFT_RETURN_IF_ERROR(RemoveVersion(fileset, version, usage, batch));
  }
  batch.DeletePrefix(Column::kRef, RefKey(fileset.uid, ""));
  GRAFT_RETURN_IF_ERROR(PutState({.fileset = fileset, .deleted = true}, batch));
  batch.Put(Column::kUsage, name.workspace, usage.Encode());
  return db_.Commit(batch);
}

absl::StatusOr<Ref> Catalog::GetRef(const FilesetName& fileset, absl::string_view ref) const {
  GRAFT_ASSIGN_OR_RETURN(const FilesetRecord record, LoadFileset(fileset));
  const absl::StatusOr<std::string> value = db_.Get(Column::kRef, RefKey(record.uid, ref));
  if (absl::IsNotFound(value.status())) {
    return NotFoundNamed(absl::StrCat(fileset.ToString(), "/refs/", ref));
  }
  GRAFT_RETURN_IF_ERROR(value.status());
  return DecodeRef(fileset, ref, *value);
}

absl::StatusOr<std::vector<Ref>> Catalog::ListRefs(const FilesetName& fileset) const {
  GRAFT_ASSIGN_OR_RETURN(const FilesetRecord record, LoadFileset(fileset));
  const std::string prefix = RefKey(record.uid, "");
  std::vector<Ref> refs;
  absl::Status malformed;
  GRAFT_RETURN_IF_ERROR(
      db_.Scan(Column::kRef, prefix, [&](absl::string_view key, absl::string_view value) {
        absl::StatusOr<Ref> ref = DecodeRef(fileset, key.substr(prefix.size()), value);
        malformed.Update(ref.status());
        if (ref.ok()) refs.push_back(*std::move(ref));
        return malformed.ok();
      }));
  GRAFT_RETURN_IF_ERROR(malformed);
  return refs;
}

absl::StatusOr<Ref> Catalog::SetRef(const FilesetName& fileset, absl::string_view name,
                                    int64_t version, int64_t expected_version,
                                    absl::string_view actor) {
  GRAFT_RETURN_IF_ERROR(CheckRef(name));
  MutexLock lock(mu_);
  GRAFT_ASSIGN_OR_RETURN(const FilesetRecord record, LoadFileset(fileset));
  GRAFT_RETURN_IF_ERROR(LoadVersion(record, version).status());
  GRAFT_RETURN_IF_ERROR(CheckRefAt(fileset, name, expected_version).status());
  const Ref ref{fileset, std::string(name), version, NowMs(), std::string(actor)};
  Database::Batch batch(db_);
  GRAFT_ASSIGN_OR_RETURN(FilesetState state, LoadState(record));
  state.refs[ref.name] = EncodeRef(ref);
  GRAFT_RETURN_IF_ERROR(PutState(std::move(state), batch));
  batch.Put(Column::kRef, RefKey(record.uid, name), EncodeRef(ref));
  GRAFT_RETURN_IF_ERROR(db_.Commit(batch));
  return ref;
}

absl::StatusOr<int64_t> Catalog::CheckRefAt(const FilesetName& fileset, absl::string_view name,
                                            const std::optional<int64_t>& expected) const {
  const absl::StatusOr<Ref> ref = GetRef(fileset, name);
  if (!ref.ok() && !absl::IsNotFound(ref.status())) return ref.status();
  const int64_t current = ref.ok() ? ref->version : 0;
  if (expected.value_or(current) != current) return RefMoved(fileset, name, current);
  return current;
}

absl::Status Catalog::DeleteRef(const FilesetName& fileset, absl::string_view name,
                                std::optional<int64_t> expected_version) {
  MutexLock lock(mu_);
  GRAFT_ASSIGN_OR_RETURN(const FilesetRecord record, LoadFileset(fileset));
  GRAFT_RETURN_IF_ERROR(GetRef(fileset, name).status());
  GRAFT_RETURN_IF_ERROR(CheckRefAt(fileset, name, expected_version).status());
  Database::Batch batch(db_);
  GRAFT_ASSIGN_OR_RETURN(FilesetState state, LoadState(record));
  state.refs.erase(std::string(name));
  GRAFT_RETURN_IF_ERROR(PutState(std::move(state), batch));
  batch.Delete(Column::kRef, RefKey(record.uid, name));
  return db_.Commit(batch);
}

absl::StatusOr<Pin> Catalog::PutPin(const FilesetName& fileset, int64_t version,
                                    absl::string_view holder) {
  if (holder.empty() || holder.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError("a pin needs a holder: the full name of a resource");
  }
  MutexLock lock(mu_);
  GRAFT_ASSIGN_OR_RETURN(const FilesetRecord record, LoadFileset(fileset));
  GRAFT_RETURN_IF_ERROR(LoadVersion(record, version).status());
  Pin pin{fileset, version, std::string(holder), NowMs()};
  const std::string key = PinKey(record.uid, version, holder);
  const absl::StatusOr<std::string> existing = db_.Get(Column::kPin, key);
  if (existing.ok()) {
    Decoder in(*existing);
    pin.create_time_ms = static_cast<int64_t>(in.Varint());
    return pin;
  }
  if (!absl::IsNotFound(existing.status())) return existing.status();
  Database::Batch batch(db_);
  batch.Put(Column::kPin, key, Encoder().Varint(static_cast<uint64_t>(pin.create_time_ms)).Take());
  GRAFT_RETURN_IF_ERROR(db_.Commit(batch));
  return pin;
}

absl::Status Catalog::DeletePin(const FilesetName& fileset, int64_t version,
                                absl::string_view holder) {
  MutexLock lock(mu_);
  const absl::StatusOr<FilesetRecord> record = LoadFileset(fileset);
  if (absl::IsNotFound(record.status())) return absl::OkStatus();
  GRAFT_RETURN_IF_ERROR(record.status());
  Database::Batch batch(db_);
  batch.Delete(Column::kPin, PinKey(record->uid, version, holder));
  return db_.Commit(batch);
}

absl::StatusOr<std::vector<Pin>> Catalog::ListPins(const FilesetRecord& fileset,
                                                   int64_t version) const {
  const std::string all = Encoder().KeyString(fileset.uid).Take();
  const std::string prefix = version == 0 ? all : VersionKey(fileset.uid, version);
  std::vector<Pin> pins;
  GRAFT_RETURN_IF_ERROR(
      db_.Scan(Column::kPin, prefix, [&](absl::string_view key, absl::string_view value) {
        Decoder in(key.substr(all.size()));
        Pin pin;
        pin.fileset = {fileset.workspace, fileset.name};
        pin.version = static_cast<int64_t>(in.BigEndian64());
        pin.holder = std::string(in.rest());
        Decoder time(value);
        pin.create_time_ms = static_cast<int64_t>(time.Varint());
        pins.push_back(std::move(pin));
        return true;
      }));
  return pins;
}

absl::StatusOr<UsageRecord> Catalog::Usage(absl::string_view workspace) const {
  const absl::StatusOr<std::string> value = db_.Get(Column::kUsage, workspace);
  if (absl::IsNotFound(value.status())) return UsageRecord();
  GRAFT_RETURN_IF_ERROR(value.status());
  return UsageRecord::Decode(*value);
}

absl::StatusOr<int64_t> Catalog::Quota(absl::string_view workspace) const {
  const absl::StatusOr<std::string> value = db_.Get(Column::kMeta, QuotaKey(workspace));
  if (value.ok()) return DecodeQuota(*value);
  if (!absl::IsNotFound(value.status())) return value.status();
  const auto own = options_.quota_bytes.find(std::string(workspace));
  return own == options_.quota_bytes.end() ? options_.default_quota_bytes : own->second;
}

absl::Status Catalog::SetQuota(absl::string_view workspace, int64_t bytes) {
  Database::Batch batch(db_);
  batch.Put(Column::kMeta, QuotaKey(workspace), EncodeQuota(bytes));
  return db_.Commit(batch);
}

absl::Status Catalog::CheckQuota(absl::string_view workspace, const UsageRecord& usage,
                                 int64_t more) const {
  GRAFT_ASSIGN_OR_RETURN(const int64_t limit, Quota(workspace));
  const int64_t used = usage.logical_bytes + usage.reserved_bytes;
  if (limit == 0 || more <= limit - used) return absl::OkStatus();
  return ErrorBuilder(absl::StatusCode::kResourceExhausted,
                      absl::StrCat("workspace ", workspace, " uses ", used, " of its ", limit,
                                   " bytes and would need ", more,
                                   " more: delete versions or ask for a larger quota"))
      .Reason("STORAGE_QUOTA_EXCEEDED")
      .Metadata("used", absl::StrCat(used))
      .Metadata("limit", absl::StrCat(limit))
      .Metadata("needed", absl::StrCat(more))
      .Build();
}

}  // namespace graft::fileservice
