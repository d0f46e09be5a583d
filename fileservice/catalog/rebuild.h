// The index made again from the packs alone: chunks from the headers of their records, filesets,
// versions, refs and chunk lists from their copies (backup.h).
//
// Reads every byte of the packs once. What a deletion or a collection had taken before the index
// was lost may be back, as far as its bytes still lie in a pack. Pins, upload sessions and answers
// to request ids are lost.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "fileservice/cas/database.h"
#include "fileservice/cas/files.h"

namespace graft::fileservice {

struct RebuildReport {
  int64_t packs = 0;
  int64_t chunks = 0;
  int64_t chunk_bytes = 0;
  int64_t filesets = 0;
  int64_t versions = 0;
  int64_t refs = 0;
  // What could not be had: a line each, with the resource that lacks it.
  std::vector<std::string> losses;
};

// `db` must be empty.
absl::StatusOr<RebuildReport> RebuildIndex(Database& db, Files& files,
                                           const std::string& pack_directory, Clock& clock);

}  // namespace graft::fileservice
