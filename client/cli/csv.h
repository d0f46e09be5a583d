// Tables as spreadsheets write them (RFC 4180): the first row names the columns.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::cli {

struct CsvRow {
  int line = 0;  // where it begins in the file, from 1
  std::map<std::string, std::string> fields;
};

// INVALID_ARGUMENT names `file_name`, the line and what is wrong: a column that is not among
// `known` (with the nearest one), a row with more or fewer fields than the first, an open quote.
// Blank lines are passed over.
absl::StatusOr<std::vector<CsvRow>> ParseCsv(absl::string_view text, absl::string_view file_name,
                                             const std::vector<std::string>& known);

}  // namespace graft::cli
