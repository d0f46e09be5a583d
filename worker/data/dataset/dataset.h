// A dataset as it lies in files: found, understood, indexed and checked, row by row, before any
// GPU is taken.
//
//   GRAFT_ASSIGN_OR_RETURN(DatasetFiles files, FindDatasetFiles("/data/tickets"));
//   GRAFT_ASSIGN_OR_RETURN(Dataset train, Dataset::Open(files.training, {}));
//   for (const RowProblem& p : train.report().problems) ...   // file, line, column, expected
//   GRAFT_ASSIGN_OR_RETURN(Row row, train.ReadRow(0));
//
// Files: .jsonl and .ndjson (a JSON object per line), .json (one array of objects, or lines),
// .csv (header line). UTF-8, with or without BOM, LF or CRLF. Parquet and archives are refused by
// name with the command that converts them; so is text that is not UTF-8, with its likely encoding.
//
// Life cycle: Open() maps the files and reads them once (structure pass: parse, schema, index).
// Afterwards immutable; ReadRow() may be called from any thread.
// Hazards: the files must not be cut while they are mapped.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "base/json.h"

namespace graft::data {

enum class RowFormat {
  kAuto,              // from the names of the first row's members
  kChat,              // {"messages": [{"role", "content"}, ...], "tools": [...]}
  kPromptCompletion,  // {"prompt": "...", "completion": "..."}
  kText,              // {"text": "..."}: everything is learnt, rows end with EOS
  kPreference,        // {"prompt", "chosen", "rejected"}: text, or lists of messages
};
absl::string_view RowFormatName(RowFormat format);  // "auto", "chat", "prompt_completion", ...
absl::StatusOr<RowFormat> ParseRowFormat(absl::string_view name);

enum class OnBadRow {
  kFail,  // any bad row fails the dataset
  kSkip,  // bad rows are left out, counted and kept (WriteSkippedRows)
};

// Names of the members that are read.
struct FieldNames {
  std::string messages = "messages";
  std::string tools = "tools";
  std::string prompt = "prompt";
  std::string completion = "completion";
  std::string text = "text";
  std::string chosen = "chosen";
  std::string rejected = "rejected";
};

struct DatasetOptions {
  RowFormat format = RowFormat::kAuto;
  FieldNames fields;
  // Text with {member} in braces ("{question}\n{context}"); "{{" is a brace. Where set, the prompt
  // is made of it and `fields.prompt` is not read.
  std::string prompt_template;
  // The same for the completion.
  std::string completion_template;
  OnBadRow on_bad_row = OnBadRow::kFail;
  int64_t max_rows = 0;         // 0: all
  int64_t max_problems = 1000;  // problems kept in the report; all are counted
  int threads = 1;
};

// Problems shown in an error message; the report has more.
inline constexpr size_t kShownProblems = 3;

// One thing that is wrong with one row.
struct RowProblem {
  std::string file;
  int64_t row = 0;     // index in the file, from 0
  int64_t line = 0;    // from 1; the row's first line
  int64_t column = 0;  // from 1, in bytes; 0 where the row as a whole is meant
  std::string path;    // "messages[2].content"; empty for broken syntax
  std::string expected;
  std::string found;

  // "tickets.jsonl:12:40: messages[2].content: expected a string, found an integer"
  std::string ToString() const;
  // {"file", "row", "line", "column", "path", "expected", "found"}
  Json ToJson() const;
  static RowProblem FromJson(const Json& json);
};

// Something worth telling that stops nothing.
struct DatasetWarning {
  std::string code;  // "unknown_member", "no_assistant_message", "empty_file", ...
  std::string message;
};

struct DatasetReport {
  RowFormat format = RowFormat::kAuto;
  int64_t files = 0;
  int64_t bytes = 0;
  int64_t rows = 0;  // good rows
  int64_t bad_rows = 0;
  std::vector<RowProblem> problems;  // at most max_problems, in the order of the files
  std::vector<DatasetWarning> warnings;
};

// One good row; which members are set depends on the format.
struct Row {
  Json messages;           // kChat; kPreference where the prompt is a list (prompt alone)
  Json tools;              // null where absent
  Json kwargs;             // "chat_template_kwargs" of the row, null where absent
  std::string prompt;      // kPromptCompletion and kPreference
  std::string completion;  // kPromptCompletion
  std::string text;        // kText
  // kPreference: answers as text, or lists of messages after `messages`.
  std::string chosen, rejected;
  Json chosen_messages, rejected_messages;
};

// Where a row stands.
struct RowLocation {
  int32_t file = 0;
  int64_t row = 0;  // index in the file, from 0, bad rows counted
  int64_t line = 0;
  int64_t offset = 0;
  int64_t length = 0;
};

class Dataset {
 public:
  // Reads `paths` in the order given as one dataset. With OnBadRow::kFail a bad row does not fail
  // Open(): the report says all of them at once; call status(). Errors of Open() itself: NOT_FOUND,
  // UNIMPLEMENTED (Parquet), INVALID_ARGUMENT (no rows, no format that fits, not UTF-8).
  static absl::StatusOr<Dataset> Open(const std::vector<std::string>& paths,
                                      const DatasetOptions& options);
  Dataset(Dataset&&) noexcept;
  Dataset& operator=(Dataset&&) noexcept;
  ~Dataset();

  const DatasetReport& report() const;
  // INVALID_ARGUMENT with the first problems and their number when there are bad rows and the
  // option is kFail; OK otherwise.
  absl::Status status() const;
  RowFormat format() const { return report().format; }
  const DatasetOptions& options() const;

  // Good rows.
  int64_t size() const;
  RowLocation Locate(int64_t row) const;
  absl::StatusOr<Row> ReadRow(int64_t row) const;
  // The bytes of the row as they stand in the file.
  absl::string_view RawRow(int64_t row) const;
  const std::string& FileName(int32_t file) const;

  // SHA-256 of the content of all files and of the options that change rows, in hexadecimal.
  absl::StatusOr<std::string> ContentDigest() const;

  // Writes the bad rows as they stand, one a line, and `path` + ".why.jsonl" with what is wrong:
  // RowProblem::ToJson(). `refused` are good rows that were refused later, by the template or the
  // cut, and `why` is what was wrong with them (TokenStats). Nothing where there is none.
  absl::Status WriteSkippedRows(const std::string& path, absl::Span<const int64_t> refused = {},
                                absl::Span<const RowProblem> why = {}) const;

 private:
  struct Impl;
  explicit Dataset(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The files of a dataset: a single file, or a folder with training/ and validation/ inside (or the
// files training.jsonl and validation.jsonl, whatever their ending).
struct DatasetFiles {
  std::vector<std::string> training;    // sorted
  std::vector<std::string> validation;  // sorted; empty: split (SplitRows)
  std::vector<DatasetWarning> warnings;
};
// A folder's only data file is its training file, whatever its name. NOT_FOUND explains what lies
// there instead, where it should be, and the command that puts it there.
absl::StatusOr<DatasetFiles> FindDatasetFiles(const std::string& path);

// Which rows validate when there is no validation set. Deterministic in `rows` and `seed`.
struct SplitOptions {
  double fraction = 0.05;
  int64_t max_rows = 1000;
  int64_t min_training_rows = 20;  // with fewer rows nothing is split off
  uint64_t seed = 0;
};
struct RowSplit {
  std::vector<uint32_t> training, validation;  // ascending
};
RowSplit SplitRows(int64_t rows, const SplitOptions& options);

}  // namespace graft::data
