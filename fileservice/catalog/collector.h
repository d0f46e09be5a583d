// Garbage collection: chunks that no version, session or delta needs go, beside running uploads.
//
// Mark and sweep over a snapshot, without reference counts. A chunk goes when nothing in the
// snapshot names it, its pack was sealed a grace period ago, and at the moment of the sweep no
// session holds it and nobody is putting it. It goes in two steps: first its row moves to the
// trash, and what lies there is missing for everybody; once it has been there for `trash_time` its
// bytes are given back, by removing the packs that hold nothing else and rewriting those that hold
// little else.
//
// For one thread at a time.
#pragma once

#include <cstdint>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "fileservice/cas/chunk_store.h"
#include "fileservice/catalog/catalog.h"

namespace graft::fileservice {

class Collector {
 public:
  struct Options {
    // At least as long as a session lives without a call.
    absl::Duration grace = absl::Hours(24);
    absl::Duration trash_time = absl::Hours(2);
    // A pack with a smaller share of live bytes is rewritten.
    double compact_below = 0.6;
    // FAILED_PRECONDITION instead of taking a larger share of all bytes at once; 1: no limit.
    double max_share = 0.3;
  };
  struct Report {
    int64_t live_chunks = 0;
    int64_t live_bytes = 0;
    int64_t trashed_chunks = 0;
    int64_t trashed_bytes = 0;
    int64_t removed_packs = 0;
    int64_t compacted_packs = 0;
  };

  Collector(Catalog& catalog, ChunkStore& store, Clock& clock, Options options)
      : db_(store.db()), catalog_(&catalog), store_(&store), clock_(clock), options_(options) {}

  absl::StatusOr<Report> Run();
  // What Run would take, of an index that may be read-only. `options.max_share` says nothing here.
  static absl::StatusOr<Report> DryRun(Database& db, Clock& clock, const Options& options);

 private:
  struct Candidate {
    ChunkId id;
    ChunkRow row;
  };
  Collector(Database& db, Clock& clock, Options options)
      : db_(db), clock_(clock), options_(options) {}
  // Whether what the session held is nobody's any more.
  absl::StatusOr<bool> IsOver(const std::string& session);
  absl::Status DropEndedLeases();
  absl::Status Mark(const Database::Snapshot& at);
  absl::Status MarkFiles(const Database::Snapshot& at);
  absl::Status MarkBases(const Database::Snapshot& at);
  absl::Status FindCandidates(const Database::Snapshot& at, Report& report);
  absl::Status Trash(Report& report);
  absl::Status DropLost();
  absl::Status DropFileRows(const Database::Snapshot& at, int64_t epoch);
  absl::Status DropReach(int64_t epoch);
  absl::Status Reclaim(Report& report);
  absl::Status Compact(uint32_t pack);

  Database& db_;
  Catalog* const catalog_ = nullptr;  // both null in a dry run
  ChunkStore* const store_ = nullptr;
  Clock& clock_;
  const Options options_;

  absl::flat_hash_map<std::string, bool> over_;  // sessions
  absl::flat_hash_set<ChunkId> marked_;
  absl::flat_hash_set<Sha256Digest> files_;
  std::vector<Candidate> candidates_;
  absl::flat_hash_set<ChunkId> trashed_;
};

}  // namespace graft::fileservice
