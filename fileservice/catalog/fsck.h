// Whether index and packs agree: what each row names is looked for, and nothing is changed.
//
// Reads rows and the headers of records, not payloads (scrub.h reads those). Works beside a daemon
// on an index that was opened read-only; what the daemon removes meanwhile may then be reported.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "fileservice/cas/database.h"
#include "fileservice/cas/files.h"

namespace graft::fileservice {

struct FsckReport {
  int64_t packs = 0;
  int64_t chunks = 0;
  int64_t versions = 0;
  int64_t files = 0;
  int64_t problem_count = 0;
  std::vector<std::string> problems;  // the first of them, a line each
};

absl::StatusOr<FsckReport> CheckStore(const Database& db, Files& files,
                                      const std::string& pack_directory);

}  // namespace graft::fileservice
