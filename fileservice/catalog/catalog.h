// Filesets, their immutable versions, refs, pins and upload sessions, over the chunks of a store.
//
// Rows change under one lock, each change in one synced batch: a version is published whole or not
// at all. A published version, its entries and its files' chunk lists never change, so that readers
// take no lock. Names are cleaned here (names.h) whatever the callers did.
//
// Who may do what is decided above (service/); `actor` only stamps records. Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "base/random.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/cas/database.h"
#include "fileservice/catalog/backup.h"
#include "fileservice/catalog/names.h"
#include "fileservice/catalog/records.h"

namespace graft::fileservice {

struct Pin {
  FilesetName fileset;
  int64_t version = 0;
  std::string holder;
  int64_t create_time_ms = 0;
};

struct Ref {
  FilesetName fileset;
  std::string name;
  int64_t version = 0;
  int64_t update_time_ms = 0;
  std::string updater;
};

// A version with the fileset that it is of.
struct ResolvedVersion {
  FilesetRecord fileset;
  VersionRecord version;
  FilesetName fileset_name() const { return {fileset.workspace, fileset.name}; }
  std::string name() const { return VersionName(fileset_name(), version.number); }
};

struct PublishRequest {
  std::string session;  // the id
  std::optional<int64_t> expected_latest;
  std::string ref;
  std::optional<int64_t> expected_ref_version;
  std::string message;
  Labels labels;
  std::string pin_holder;
  std::string actor;
};

class Catalog {
 public:
  struct Options {
    // Bytes of all versions of a workspace together; 0: no limit.
    int64_t default_quota_bytes = 0;
    std::map<std::string, int64_t> quota_bytes;  // by workspace
    // A session ends so long after its last call.
    absl::Duration session_ttl = absl::Hours(24);
  };

  Catalog(Database& db, ChunkStore& store, Clock& clock, Random& random, Options options);
  // Reads what the rows say of epochs. Before anything else.
  absl::Status Open();

  // Filesets. ------------------------------------------------------------------------------------
  absl::StatusOr<FilesetRecord> CreateFileset(FilesetRecord fileset, absl::string_view request_id,
                                              bool validate_only = false);
  absl::StatusOr<FilesetRecord> GetFileset(const FilesetName& name) const;
  // In the order of names, those after `after`; `workspace` empty: of all.
  absl::StatusOr<std::vector<FilesetRecord>> ListFilesets(
      absl::string_view workspace, const std::function<bool(const FilesetRecord&)>& keep,
      std::pair<std::string, std::string> after, size_t limit) const;
  // Applies `change` to the record. ABORTED when `etag` is given and not the current one.
  absl::StatusOr<FilesetRecord> UpdateFileset(
      const FilesetName& name, absl::string_view etag,
      const std::function<absl::Status(FilesetRecord&)>& change);
  absl::StatusOr<FilesetRecord> RenameFileset(const FilesetName& name,
                                              const std::string& new_fileset,
                                              absl::string_view etag);
  absl::Status DeleteFileset(const FilesetName& name, absl::string_view etag, bool allow_missing);

  // Versions. ------------------------------------------------------------------------------------
  // `version`: a number, sha256:<digest>, a ref or `latest`.
  absl::StatusOr<ResolvedVersion> Resolve(const FilesetName& fileset,
                                          absl::string_view version) const;
  // Newest first, those below `below`.
  absl::StatusOr<std::vector<VersionRecord>> ListVersions(const FilesetRecord& fileset,
                                                          int64_t below, size_t limit) const;
  absl::Status DeleteVersion(const FilesetName& fileset, int64_t number);
  absl::StatusOr<ResolvedVersion> CopyVersion(const ResolvedVersion& source,
                                              const FilesetName& target,
                                              std::optional<int64_t> expected_latest,
                                              absl::string_view message, absl::string_view actor,
                                              absl::string_view request_id);
  // Deletes what the filesets' retention rules no longer keep; returns how many versions went.
  absl::StatusOr<int64_t> ApplyRetention();

  // Files of a version. --------------------------------------------------------------------------
  // In the order of paths, those from `start` on that begin with `prefix`, until `visit` is false.
  absl::Status VisitEntries(
      const ResolvedVersion& version, absl::string_view prefix, absl::string_view start,
      const std::function<bool(absl::string_view, const Entry&)>& visit) const;
  absl::StatusOr<Entry> GetEntry(const ResolvedVersion& version, absl::string_view path) const;
  absl::StatusOr<FilePage> GetFilePage(const Sha256Digest& file, uint32_t page) const;
  // All chunks of a file.
  absl::StatusOr<FilePage> GetFile(const Sha256Digest& file) const;

  // Refs and pins. -------------------------------------------------------------------------------
  absl::StatusOr<Ref> SetRef(const FilesetName& fileset, absl::string_view ref, int64_t version,
                             int64_t expected_version, absl::string_view actor);
  absl::StatusOr<Ref> GetRef(const FilesetName& fileset, absl::string_view ref) const;
  absl::StatusOr<std::vector<Ref>> ListRefs(const FilesetName& fileset) const;
  absl::Status DeleteRef(const FilesetName& fileset, absl::string_view ref,
                         std::optional<int64_t> expected_version);
  absl::StatusOr<Pin> PutPin(const FilesetName& fileset, int64_t version, absl::string_view holder);
  absl::Status DeletePin(const FilesetName& fileset, int64_t version, absl::string_view holder);
  // `version` 0: of all.
  absl::StatusOr<std::vector<Pin>> ListPins(const FilesetRecord& fileset, int64_t version) const;

  // Upload sessions. -----------------------------------------------------------------------------
  absl::StatusOr<SessionRecord> CreateSession(SessionRecord session, absl::string_view request_id);
  // NOT_FOUND unless it is of that fileset; an expired one is closed.
  absl::StatusOr<SessionRecord> GetSession(absl::string_view id) const;
  // The same, FAILED_PRECONDITION (SESSION_CLOSED) unless it is open, and its end is put off.
  absl::StatusOr<SessionRecord> UseSession(absl::string_view id);
  absl::Status AbortSession(absl::string_view id);
  // Adds to what the session says of itself.
  absl::Status CountBytes(absl::string_view id, int64_t stored, int64_t deduplicated);
  // Puts a file into the session. FAILED_PRECONDITION (CHUNKS_MISSING) unless the session holds
  // every chunk; kDone: the caller has just seen that it does (Publish looks in any case). The
  // caller has verified that the chunks give `entry.sha256`.
  enum class HeldCheck { kDue, kDone };
  absl::Status StageFile(absl::string_view session, const std::string& path, const Entry& entry,
                         const FilePage& file, HeldCheck check = HeldCheck::kDue);
  // The chunks so far of a file that is sent as plain bytes, so that it can be taken up after a
  // cut. They must be durable, and held by the session.
  absl::Status SavePartial(absl::string_view session, const std::string& path,
                           const FilePage& file);
  // Empty when nothing was saved.
  absl::StatusOr<FilePage> LoadPartial(absl::string_view session, const std::string& path) const;
  absl::Status DropPartial(absl::string_view session, const std::string& path);
  // The entry that the session staged for `path`; NOT_FOUND without.
  absl::StatusOr<Entry> GetStaged(absl::string_view session, const std::string& path) const;
  absl::StatusOr<ResolvedVersion> Publish(const PublishRequest& request);
  // Publishes a folder that lies outside of the store.
  absl::StatusOr<ResolvedVersion> PublishInPlace(const FilesetName& fileset, int purpose,
                                                 const std::string& root,
                                                 const absl::btree_map<std::string, Entry>& entries,
                                                 absl::string_view message, absl::string_view actor,
                                                 absl::string_view request_id);

  absl::StatusOr<UsageRecord> Usage(absl::string_view workspace) const;
  // Bytes that the workspace may hold; 0: no limit. What SetQuota said stands above the options.
  absl::StatusOr<int64_t> Quota(absl::string_view workspace) const;
  absl::Status SetQuota(absl::string_view workspace, int64_t bytes);
  // Runs `step` while nothing can be published or deleted. `epoch` is that of the latest publish:
  // chunk lists up to it are in a snapshot taken meanwhile.
  absl::Status WithPublishLock(const std::function<absl::Status(int64_t epoch)>& step);

 private:
  // What becomes a version.
  struct Draft {
    FilesetRecord fileset;
    VersionRecord version;
    absl::btree_map<std::string, Entry> entries;
    // Chunk lists of files that are new here, whole and in the pages of rows.
    absl::btree_map<Sha256Digest, FilePage> files;
    std::vector<FilePageBackup> pages;
    std::optional<Ref> ref;  // that is set to it
    std::string lease;       // the session that holds the backups; empty: none does
  };

  int64_t NowMs() const { return absl::ToUnixMillis(clock_.Now()); }
  absl::StatusOr<FilesetRecord> LoadFileset(const FilesetName& name) const;
  absl::StatusOr<VersionRecord> LoadVersion(const FilesetRecord& fileset, int64_t number) const;
  absl::StatusOr<std::string> ReplayedAnswer(absl::string_view workspace, absl::string_view id,
                                             absl::string_view body) const;
  static void RememberAnswer(absl::string_view workspace, absl::string_view id,
                             absl::string_view body, absl::string_view answer,
                             Database::Batch& batch);
  absl::Status CheckQuota(absl::string_view workspace, const UsageRecord& usage,
                          int64_t more) const;
  absl::Status CheckUnpinned(const FilesetRecord& fileset, int64_t version) const;
  absl::Status CheckNoRef(const FilesetRecord& fileset, int64_t version) const;
  absl::Status CheckLatest(const FilesetRecord& fileset,
                           const std::optional<int64_t>& expected) const;
  absl::Status RemoveVersion(FilesetRecord& fileset, const VersionRecord& version,
                             UsageRecord& usage, Database::Batch& batch) const;
  absl::Status LoadEntries(const ResolvedVersion& version,
                           absl::btree_map<std::string, Entry>& entries) const;
  absl::Status LoadStaged(const SessionRecord& session, Draft& draft) const;
  static absl::Status CheckCollisions(const absl::btree_map<std::string, Entry>& entries);
  // The fileset as it is, with its versions and refs.
  absl::StatusOr<FilesetState> LoadState(const FilesetRecord& fileset) const;
  // Adds the fileset's row to the batch once what it says of the fileset is in the packs.
  absl::Status PutState(FilesetState state, Database::Batch& batch)
      GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The version that the ref is at, 0 without it; ABORTED unless that is `expected`.
  absl::StatusOr<int64_t> CheckRefAt(const FilesetName& fileset, absl::string_view ref,
                                     const std::optional<int64_t>& expected) const;
  // Gives the writer what fsck needs to make the rows again.
  absl::Status WriteBackups(Draft& draft, BackupWriter& writer);
  // Fills in what follows from the entries and adds the rows of the version.
  absl::Status Seal(Draft& draft, UsageRecord& usage, Database::Batch& batch)
      GRAFT_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckChunks(const SessionRecord& session, const std::string& path,
                           const FilePage& file) const;
  void PutSession(const SessionRecord& session, Database::Batch& batch) const;

  Database& db_;
  ChunkStore& store_;
  Clock& clock_;
  Random& random_;
  const Options options_;

  Mutex mu_;  // for every change
  int64_t epoch_ GRAFT_GUARDED_BY(mu_) = 0;
};

std::string EncodeRef(const Ref& ref);

// Errors that more than one file gives.
absl::Status NotFoundNamed(absl::string_view resource);

}  // namespace graft::fileservice
