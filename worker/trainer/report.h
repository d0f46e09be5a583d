// The report at the end of a job: how the tuned model answers the user's own validation rows beside
// how the base did. Free of torch.
//
//   GRAFT_ASSIGN_OR_RETURN(std::vector<ReportRow> rows, ChooseRows(config, {}, 20, 128));
//   ... fill in `before` and `after` by asking both models row.question ...
//   WriteReport(report, folder);   // report.md, report.html, samples.jsonl
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/trainer/generate_protocol.h"
#include "worker/trainer/run_config.h"

namespace graft::trainer {

// How near an answer is to the wanted one.
struct Scores {
  bool exact = false;   // the same but for space at the ends
  double token_f1 = 0;  // words in common, lower case and without punctuation at their ends
  double rouge_l = 0;   // F1 of the longest common subsequence of words
  bool valid_json = false;
};
Scores Score(absl::string_view answer, absl::string_view wanted);

struct ReportRow {
  int64_t row = 0;           // of its file set, counted from 1
  GenerateRequest question;  // without an id
  std::string prompt;        // as a person reads it
  std::string wanted;
  std::string before;
  std::string after;
};

// At most `limit` values of `from`, evenly spread.
std::vector<int64_t> Spread(const std::vector<int64_t>& from, int64_t limit);

// At most `limit` rows, evenly spread over the validation files or, where there are none, over
// `split_rows` of the training files: conversations up to their last answer, prompts with their
// completions. Empty for rows that have no answer (plain text).
absl::StatusOr<std::vector<ReportRow>> ChooseRows(const RunConfig& config,
                                                  const std::vector<int64_t>& split_rows,
                                                  int64_t limit, int64_t max_tokens);

struct Report {
  std::string title;
  std::string base;  // names
  std::string tuned;
  // Of the whole validation set; absent where it was not measured.
  std::optional<double> loss_before;
  std::optional<double> loss_after;
  std::vector<ReportRow> rows;  // answered by both
  int64_t rows_chosen = 0;      // those that time did not suffice for included
};

// Means over the rows.
struct Means {
  double exact = 0;
  double token_f1 = 0;
  double rouge_l = 0;
  // Of the rows whose wanted answer is JSON; absent where there are none.
  std::optional<double> valid_json;
};
Means MeansOf(const std::vector<ReportRow>& rows, std::string ReportRow::*answer);

// Worst rows first in both.
std::string ReportMarkdown(const Report& report);
// Without anything from elsewhere: it opens from a mail.
std::string ReportHtml(const Report& report);
absl::Status WriteReport(const Report& report, const std::string& folder);

}  // namespace graft::trainer
