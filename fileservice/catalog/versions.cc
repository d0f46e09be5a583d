// Versions: resolving, reading, copying, deleting, retention.
#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/log.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/catalog/catalog.h"
#include "rpc/status.h"

namespace graft::fileservice {

absl::StatusOr<VersionRecord> Catalog::LoadVersion(const FilesetRecord& fileset,
                                                   int64_t number) const {
  const absl::StatusOr<std::string> value =
      db_.Get(Column::kVersion, VersionKey(fileset.uid, number));
  if (absl::IsNotFound(value.status())) {
    return NotFoundNamed(VersionName({fileset.workspace, fileset.name}, number));
  }
  GRAFT_RETURN_IF_ERROR(value.status());
  return VersionRecord::Decode(*value);
}

absl::StatusOr<ResolvedVersion> Catalog::Resolve(const FilesetName& name,
                                                 absl::string_view version) const {
  ResolvedVersion result;
  GRAFT_ASSIGN_OR_RETURN(result.fileset, LoadFileset(name));
  int64_t number = 0;
  if (absl::StartsWith(version, "sha256:")) {
    GRAFT_ASSIGN_OR_RETURN(const Sha256Digest digest, DigestFromHex(version.substr(7)));
    GRAFT_ASSIGN_OR_RETURN(const std::vector<VersionRecord> all,
                           ListVersions(result.fileset, INT64_MAX, SIZE_MAX));
    for (const VersionRecord& record : all) {
      if (record.digest != digest) continue;
      result.version = record;
      return result;
    }
    return NotFoundNamed(absl::StrCat(name.ToString(), "/versions/", version));
  }
  if (version == "latest") {
    GRAFT_ASSIGN_OR_RETURN(const std::vector<VersionRecord> newest,
                           ListVersions(result.fileset, INT64_MAX, 1));
    if (newest.empty()) return NotFoundNamed(absl::StrCat(name.ToString(), "/versions/latest"));
    result.version = newest[0];
    return result;
  }
  if (!absl::SimpleAtoi(version, &number)) {
    GRAFT_ASSIGN_OR_RETURN(const Ref ref, GetRef(name, version));
    number = ref.version;
  }
  GRAFT_ASSIGN_OR_RETURN(result.version, LoadVersion(result.fileset, number));
  return result;
}

absl::StatusOr<std::vector<VersionRecord>> Catalog::ListVersions(const FilesetRecord& fileset,
                                                                 int64_t below,
                                                                 size_t limit) const {
  // Rows come oldest first, and versions are few: they are read and turned around.
  std::vector<VersionRecord> result;
  const std::string prefix = Encoder().KeyString(fileset.uid).Take();
  absl::Status malformed;
  GRAFT_RETURN_IF_ERROR(
      db_.Scan(Column::kVersion, prefix, [&](absl::string_view, absl::string_view value) {
        absl::StatusOr<VersionRecord> record = VersionRecord::Decode(value);
        malformed.Update(record.status());
        if (!record.ok() || record->number >= below) return false;
        result.push_back(*std::move(record));
        return true;
      }));
  GRAFT_RETURN_IF_ERROR(malformed);
  std::reverse(result.begin(), result.end());
  if (result.size() > limit) result.resize(limit);
  return result;
}

absl::Status Catalog::VisitEntries(
    const ResolvedVersion& version, absl::string_view prefix, absl::string_view start,
    const std::function<bool(absl::string_view, const Entry&)>& visit) const {
  const std::string base = VersionKey(version.fileset.uid, version.version.number);
  absl::Status malformed;
  GRAFT_RETURN_IF_ERROR(db_.ScanFrom(Column::kEntry, absl::StrCat(base, prefix),
                                     absl::StrCat(base, std::max(prefix, start)),
                                     [&](absl::string_view key, absl::string_view value) {
                                       const absl::StatusOr<Entry> entry = Entry::Decode(value);
                                       malformed.Update(entry.status());
                                       return entry.ok() && visit(key.substr(base.size()), *entry);
                                     }));
  return malformed;
}

absl::StatusOr<Entry> Catalog::GetEntry(const ResolvedVersion& version,
                                        absl::string_view path) const {
  const absl::StatusOr<std::string> value =
      db_.Get(Column::kEntry, EntryKey(version.fileset.uid, version.version.number, path));
  if (absl::IsNotFound(value.status())) {
    return rpc::ErrorBuilder(absl::StatusCode::kNotFound,
                             absl::StrCat(version.name(), " has no file \"", path, "\""))
        .Reason("RESOURCE_NOT_FOUND")
        .Metadata("resource", absl::StrCat(version.name(), "/", path))
        .Build();
  }
  GRAFT_RETURN_IF_ERROR(value.status());
  return Entry::Decode(*value);
}

absl::StatusOr<FilePage> Catalog::GetFilePage(const Sha256Digest& file, uint32_t page) const {
  const absl::StatusOr<std::string> value = db_.Get(Column::kFile, FilePageKey(file, page));
  if (absl::IsNotFound(value.status())) {
    return absl::DataLossError(absl::StrCat("the chunk list of file ", ToHex(file),
                                            " is lost; run `graft-fileservice fsck`"));
  }
  GRAFT_RETURN_IF_ERROR(value.status());
  return FilePage::Decode(*value);
}

absl::StatusOr<FilePage> Catalog::GetFile(const Sha256Digest& file) const {
  GRAFT_ASSIGN_OR_RETURN(FilePage whole, GetFilePage(file, 0));
  for (uint32_t page = 1; static_cast<int64_t>(whole.chunks.size()) < whole.chunk_count; ++page) {
    GRAFT_ASSIGN_OR_RETURN(const FilePage next, GetFilePage(file, page));
    whole.chunks.insert(whole.chunks.end(), next.chunks.begin(), next.chunks.end());
  }
  return whole;
}

absl::Status Catalog::LoadEntries(const ResolvedVersion& version,
                                  absl::btree_map<std::string, Entry>& entries) const {
  return VisitEntries(version, "", "", [&entries](absl::string_view path, const Entry& entry) {
    entries.emplace_hint(entries.end(), std::string(path), entry);
    return true;
  });
}

absl::Status Catalog::CheckNoRef(const FilesetRecord& fileset, int64_t version) const {
  const FilesetName name{fileset.workspace, fileset.name};
  GRAFT_ASSIGN_OR_RETURN(const std::vector<Ref> refs, ListRefs(name));
  for (const Ref& ref : refs) {
    if (ref.version != version) continue;
    return rpc::ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                             absl::StrCat("ref ", ref.name, " points at ",
                                          VersionName(name, version), ": move or delete it first"))
        .Reason("RESOURCE_IN_USE")
        .Metadata("resource", VersionName(name, version))
        .Metadata("holders", absl::StrCat(name.ToString(), "/refs/", ref.name))
        .Build();
  }
  return absl::OkStatus();
}

absl::Status Catalog::CheckLatest(const FilesetRecord& fileset,
                                  const std::optional<int64_t>& expected) const {
  if (!expected.has_value() || *expected == fileset.latest_version) return absl::OkStatus();
  return rpc::ErrorBuilder(absl::StatusCode::kAborted,
                           absl::StrCat("the latest version of ", fileset.name, " is ",
                                        fileset.latest_version, ", not ", *expected))
      .Reason("REF_MOVED")
      .Metadata("ref", "latest")
      .Metadata("version", absl::StrCat(fileset.latest_version))
      .Build();
}

absl::Status Catalog::RemoveVersion(FilesetRecord& fileset, const VersionRecord& version,
                                    UsageRecord& usage, Database::Batch& batch) const {
  batch.DeletePrefix(Column::kEntry, VersionKey(fileset.uid, version.number));
  batch.Delete(Column::kVersion, VersionKey(fileset.uid, version.number));
  --fileset.version_count;
  fileset.logical_bytes -= version.size_bytes;
  usage.logical_bytes -= version.size_bytes;
  return absl::OkStatus();
}

absl::Status Catalog::DeleteVersion(const FilesetName& name, int64_t number) {
  MutexLock lock(mu_);
  GRAFT_ASSIGN_OR_RETURN(FilesetRecord fileset, LoadFileset(name));
  GRAFT_ASSIGN_OR_RETURN(const VersionRecord version, LoadVersion(fileset, number));
  GRAFT_RETURN_IF_ERROR(CheckUnpinned(fileset, number));
  GRAFT_RETURN_IF_ERROR(CheckNoRef(fileset, number));
  GRAFT_ASSIGN_OR_RETURN(UsageRecord usage, Usage(name.workspace));
  Database::Batch batch(db_);
  GRAFT_RETURN_IF_ERROR(RemoveVersion(fileset, version, usage, batch));
  ++fileset.revision;
  fileset.update_time_ms = NowMs();
  GRAFT_ASSIGN_OR_RETURN(FilesetState state, LoadState(fileset));
  std::erase(state.versions, number);
  GRAFT_RETURN_IF_ERROR(PutState(std::move(state), batch));
  batch.Put(Column::kUsage, name.workspace, usage.Encode());
  return db_.Commit(batch);
}

absl::StatusOr<int64_t> Catalog::ApplyRetention() {
  GRAFT_ASSIGN_OR_RETURN(
      const std::vector<FilesetRecord> filesets,
      ListFilesets(
          "", [](const FilesetRecord& f) { return f.keep_last >= 0 || f.keep_for_s >= 0; }, {},
          SIZE_MAX));
  int64_t removed = 0;
  for (const FilesetRecord& fileset : filesets) {
    GRAFT_ASSIGN_OR_RETURN(const std::vector<VersionRecord> versions,
                           ListVersions(fileset, INT64_MAX, SIZE_MAX));
    const size_t keep_last = static_cast<size_t>(std::max(fileset.keep_last, 1));
    for (size_t i = keep_last; i < versions.size(); ++i) {
      const int64_t age_ms = NowMs() - versions[i].create_time_ms;
      if (fileset.keep_for_s >= 0 && age_ms < fileset.keep_for_s * 1000) continue;
      const absl::Status status =
          DeleteVersion({fileset.workspace, fileset.name}, versions[i].number);
      if (status.ok()) {
        ++removed;
      } else if (!absl::IsFailedPrecondition(status) && !absl::IsNotFound(status)) {
        return status;
      }
    }
  }
  return removed;
}

}  // namespace graft::fileservice
