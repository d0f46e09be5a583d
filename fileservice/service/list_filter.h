// Filters and orders of the lists of filesets and versions: which fields they know, and how records
// answer for them.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fileservice/catalog/catalog.h"
#include "rpc/filter.h"

namespace graft::fileservice {

// INVALID_ARGUMENT (FILTER_INVALID) for a field that a list does not know.
absl::StatusOr<std::function<bool(const FilesetRecord&)>> ParseFilesetFilter(
    absl::string_view text);
// `refs`: all of the fileset's.
absl::StatusOr<std::function<bool(const VersionRecord&)>> ParseVersionFilter(absl::string_view text,
                                                                             std::vector<Ref> refs);

// A place in a list: the value that orders, then the name, in a form that compares as text.
using OrderKey = std::function<std::string(const FilesetRecord&)>;
struct FilesetOrder {
  OrderKey key;  // null: by name, as the catalog lists
  bool descending = false;
};
// "name", "create_time", "update_time" or "logical_bytes", with " desc" behind it or not. Empty: by
// name. INVALID_ARGUMENT (FIELD_INVALID) for others.
absl::StatusOr<FilesetOrder> ParseFilesetOrder(absl::string_view text);

}  // namespace graft::fileservice
