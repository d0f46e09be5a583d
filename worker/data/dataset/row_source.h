// Where the rows of a file begin and end, by its kind: lines, the elements of a JSON array, or CSV
// records. Knows nothing of what a row means.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "base/json.h"

namespace graft::data {

enum class SourceKind { kLines, kArray, kCsv };

// By the name's ending and the first byte. UNIMPLEMENTED for Parquet, archives and others, saying
// what to do; INVALID_ARGUMENT for UTF-16.
absl::StatusOr<SourceKind> KindOfSource(const std::string& path, absl::string_view bytes);
// Whether a file of this name can hold rows (.jsonl, .ndjson, .json, .csv).
bool IsDataFile(absl::string_view name);
// The bytes without a byte order mark.
absl::string_view WithoutBom(absl::string_view bytes);

// Text in Windows-1252, which spreadsheets write into CSV files, as UTF-8; nullopt where a byte is
// no character of it.
absl::optional<std::string> FromWindows1252(absl::string_view bytes);

struct SourceRow {
  absl::string_view text;  // without the line's end
  int64_t line = 1;        // on which it begins, from 1
};

// Walks the lines of `bytes` that are not blank. `first_line` is the number of the first.
void ForEachLine(absl::string_view bytes, int64_t first_line,
                 const std::function<void(const SourceRow&)>& row);
// Walks the elements of the array that `bytes` is. INVALID_ARGUMENT with the line where the
// brackets do not match; the elements themselves are not parsed.
absl::Status ForEachElement(absl::string_view bytes,
                            const std::function<void(const SourceRow&)>& row);
// Walks the records behind the header line. INVALID_ARGUMENT for an open quote or no header.
absl::Status ForEachRecord(absl::string_view bytes, std::vector<std::string>& header,
                           const std::function<void(const SourceRow&)>& row);
// A record as an object of strings; INVALID_ARGUMENT where the number of fields differs.
absl::StatusOr<Json> ParseRecord(absl::string_view record, const std::vector<std::string>& header);

}  // namespace graft::data
