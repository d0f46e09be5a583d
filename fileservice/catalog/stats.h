// What lies in a store and what that saves, counted from the rows: for `graft-fileservice stats`
// and the metrics. Reads every row, which takes seconds for millions of chunks.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "fileservice/cas/database.h"
#include "fileservice/cas/pack.h"

namespace graft::fileservice {

struct WorkspaceStats {
  int64_t logical_bytes = 0;   // of all versions, each file where it appears
  int64_t reserved_bytes = 0;  // by open sessions
  int64_t physical_bytes = 0;  // of the chunks it reaches, each once; others may reach them too
  int64_t own_bytes = 0;       // of the chunks that it alone reaches
  int64_t filesets = 0;
  int64_t versions = 0;
};

struct StoreStats {
  int64_t filesets = 0;
  int64_t versions = 0;
  int64_t files = 0;  // in all versions
  int64_t open_sessions = 0;
  int64_t chunks = 0;
  int64_t raw_bytes = 0;     // of the chunks, before encoding
  int64_t stored_bytes = 0;  // of the chunks, as they lie
  std::map<ChunkEncoding, int64_t> stored_bytes_by_encoding;
  int64_t packs = 0;
  int64_t pack_bytes = 0;  // of the packs' files up to their last commit
  int64_t trash_bytes = 0;
  int64_t lost_chunks = 0;
  int64_t index_bytes = 0;
  std::map<std::string, WorkspaceStats> workspaces;

  int64_t logical_bytes() const;
  // How many bytes of files a stored byte holds.
  double dedup_ratio() const;
  // The share of the packs that chunks take; the rest is what a collection can give back.
  double liveness() const;
};

absl::StatusOr<StoreStats> CountStore(const Database& db);

// The files, as "workspaces/w/filesets/f/versions/3/path", that need one of these chunks; at most
// `limit` of them.
absl::StatusOr<std::vector<std::string>> FilesWithChunks(const Database& db,
                                                         const absl::flat_hash_set<ChunkId>& chunks,
                                                         size_t limit);

}  // namespace graft::fileservice
