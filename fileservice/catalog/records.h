// The rows of the catalog. FORMAT.md in fileservice/cas has their bytes; each begins with a
// version.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "base/digest.h"
#include "fileservice/cas/chunker.h"
#include "fileservice/cas/pack.h"

namespace graft::fileservice {

using Labels = std::map<std::string, std::string>;

struct FilesetRecord {
  std::string workspace;
  std::string name;  // the id
  std::string uid;   // names its rows; a renamed fileset keeps it
  std::string description;
  Labels labels;
  int purpose = 0;  // graft.v1.FileSetPurpose
  std::string project;
  int keep_last = -1;       // -1: all
  int64_t keep_for_s = -1;  // -1: age protects nothing
  std::string creator;
  int64_t create_time_ms = 0;
  int64_t update_time_ms = 0;
  int64_t latest_version = 0;
  int64_t version_count = 0;
  int64_t logical_bytes = 0;
  int64_t revision = 0;  // the etag
  int64_t sequence = 0;  // grows with every change of it, of its versions and of its refs
  ChunkId state{};       // the copy in the packs of what it was when the last change was no publish

  std::string Encode() const;
  static absl::StatusOr<FilesetRecord> Decode(absl::string_view value);
};

struct VersionRecord {
  int64_t number = 0;
  Sha256Digest digest{};  // over the encoded entries
  std::string parent;     // a version's full name
  int64_t create_time_ms = 0;
  std::string creator;
  std::string message;
  Labels labels;
  int64_t file_count = 0;
  int64_t size_bytes = 0;
  int64_t stored_bytes = 0;
  std::string in_place_root;     // empty: in the store
  std::vector<ChunkId> backups;  // its copy in the packs, for fsck --rebuild-index

  std::string Encode() const;
  static absl::StatusOr<VersionRecord> Decode(absl::string_view value);
};

// A file of a version.
struct Entry {
  int64_t size = 0;
  Sha256Digest sha256{};
  bool executable = false;
  int64_t in_place_mtime_ns = 0;  // of files registered in place, to see that they changed

  std::string Encode() const;
  static absl::StatusOr<Entry> Decode(absl::string_view value);
};

// What an entry adds to its version's digest.
std::string DigestedEntry(absl::string_view path, const Entry& entry);
// A version's digest: over its entries in the order of paths.
template <typename Entries>
Sha256Digest ManifestDigest(const Entries& entries) {
  Sha256 digest;
  for (const auto& [path, entry] : entries) digest.Update(DigestedEntry(path, entry));
  return digest.Finish();
}

struct ChunkRef {
  ChunkId id;
  uint32_t size = 0;
};

// A file's chunks, of which a row holds at most kChunksPerPage.
inline constexpr size_t kChunksPerPage = 8192;
struct FilePage {
  int64_t epoch = 0;  // of the publish that wrote it; garbage collection takes only older ones
  ChunkProfile profile = ChunkProfile::kContent;
  int64_t size = 0;         // of the file
  int64_t chunk_count = 0;  // of the file
  ChunkId backup{};         // its copy in the packs
  std::vector<ChunkRef> chunks;

  std::string Encode() const;
  static absl::StatusOr<FilePage> Decode(absl::string_view value);
};

inline constexpr size_t kSessionIdBytes = 16;
enum class SessionState : uint8_t { kOpen = 1, kPublished = 2, kClosed = 3 };

struct SessionRecord {
  std::string id;  // kSessionIdBytes characters
  std::string workspace;
  std::string fileset_uid;
  std::string fileset;
  SessionState state = SessionState::kOpen;
  int64_t create_time_ms = 0;
  int64_t expire_time_ms = 0;
  std::string creator;
  int64_t base_version = 0;
  std::vector<std::string> removed_paths;
  int64_t expected_bytes = 0;
  bool fenced = false;
  int64_t stored_bytes = 0;
  int64_t deduplicated_bytes = 0;
  int64_t file_count = 0;
  int64_t version = 0;  // once published

  std::string Encode() const;
  static absl::StatusOr<SessionRecord> Decode(absl::string_view value);
};

struct UsageRecord {
  int64_t logical_bytes = 0;   // of all versions
  int64_t reserved_bytes = 0;  // by open sessions

  std::string Encode() const;
  static absl::StatusOr<UsageRecord> Decode(absl::string_view value);
};

// The epoch of the latest publish, beside the rows that carry one.
inline constexpr absl::string_view kEpochKey = "publish_epoch";  // of Column::kMeta
std::string EncodeEpoch(int64_t epoch);
// Bytes that a workspace may hold, of Column::kMeta too; 0: no limit.
std::string QuotaKey(absl::string_view workspace);
std::string EncodeQuota(int64_t bytes);
absl::StatusOr<int64_t> DecodeQuota(absl::string_view value);

// Keys. Numbers are big-endian, so that versions come in order.
std::string FilesetKey(absl::string_view workspace, absl::string_view fileset);
std::string VersionKey(absl::string_view uid, int64_t number);
std::string EntryKey(absl::string_view uid, int64_t number, absl::string_view path);
std::string RefKey(absl::string_view uid, absl::string_view ref);
std::string PinKey(absl::string_view uid, int64_t number, absl::string_view holder);
std::string FilePageKey(const Sha256Digest& file, uint32_t page);
std::string StagedKey(absl::string_view session, absl::string_view path, uint32_t page);

}  // namespace graft::fileservice
