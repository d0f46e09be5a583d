// Folders that are registered where they lie: walked, hashed, never written.
#pragma once

#include <string>
#include <vector>

#include "absl/container/btree_map.h"
#include "absl/status/statusor.h"
#include "fileservice/catalog/records.h"

namespace graft::fileservice {

struct InPlaceFolder {
  std::string root;  // without links
  absl::btree_map<std::string, Entry> entries;
};

// PERMISSION_DENIED unless `path`, links resolved, lies below one of `roots`. Links inside of it
// are refused by name. Hashes every file, so it takes as long as reading does.
absl::StatusOr<InPlaceFolder> ScanInPlace(const std::string& path,
                                          const std::vector<std::string>& roots);

}  // namespace graft::fileservice
