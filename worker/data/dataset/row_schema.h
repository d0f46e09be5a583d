// What a row has to hold, by format; one parsed row checked and taken apart.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "base/json.h"
#include "worker/data/dataset/dataset.h"

namespace graft::data {

// What is wrong with a row, without its place.
struct SchemaProblem {
  std::string path;
  std::string expected;
  std::string found;
};

// The format whose members `row` has; nullopt where none fits.
absl::optional<RowFormat> DetectFormat(const Json& row, const DatasetOptions& options);

// Takes `json` apart into `row`; the first problem where it does not fit `format`.
absl::optional<SchemaProblem> ReadRow(RowFormat format, const DatasetOptions& options, Json json,
                                      Row& row);

// The byte of `text` (one JSON value) at which the value named by `path` ("messages[2].content")
// begins; the parent's where the path ends earlier.
size_t LocatePath(absl::string_view text, absl::string_view path);

}  // namespace graft::data
