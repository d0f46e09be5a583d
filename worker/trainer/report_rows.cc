// Report: the rows that are asked.
#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "worker/data/dataset/dataset.h"
#include "worker/trainer/report.h"
#include "worker/trainer/training_data.h"

namespace graft::trainer {
namespace {

// The conversation up to its last answer. False when it ends otherwise.
bool TakeConversation(const data::Row& from, ReportRow& row) {
  const Json::Array& messages = from.messages.as_array();
  if (messages.empty() || messages.back().GetString("role") != "assistant") return false;
  row.wanted = messages.back().GetString("content");
  row.question.messages = Json::MakeArray();
  for (size_t i = 0; i + 1 < messages.size(); ++i) {
    row.question.messages.Append(messages[i]);
    absl::StrAppend(&row.prompt, i == 0 ? "" : "\n\n", messages[i].GetString("role"), ": ",
                    messages[i].GetString("content"));
  }
  row.question.tools = from.tools;
  return messages.size() > 1 && !row.wanted.empty();
}

bool Take(data::RowFormat format, const data::Row& from, ReportRow& row) {
  if (format == data::RowFormat::kChat) return TakeConversation(from, row);
  if (format != data::RowFormat::kPromptCompletion) return false;
  row.question.prompt = row.prompt = from.prompt;
  row.wanted = from.completion;
  return !row.prompt.empty();
}

}  // namespace

std::vector<int64_t> Spread(const std::vector<int64_t>& from, int64_t limit) {
  const auto all = static_cast<int64_t>(from.size());
  const int64_t count = std::min(limit, all);
  std::vector<int64_t> some;
  for (int64_t i = 0; i < count; ++i) some.push_back(from[static_cast<size_t>(i * all / count)]);
  return some;
}

absl::StatusOr<std::vector<ReportRow>> ChooseRows(const RunConfig& given,
                                                  const std::vector<int64_t>& split_rows,
                                                  int64_t limit, int64_t max_tokens) {
  DatasetConfig dataset = given.dataset;
  GRAFT_RETURN_IF_ERROR(ExpandFolders(dataset));
  std::vector<ReportRow> rows;
  const bool split = dataset.validation.empty();
  if (limit <= 0 || (split && split_rows.empty())) return rows;
  GRAFT_ASSIGN_OR_RETURN(data::DatasetOptions options, RowOptionsOf(dataset));
  if (split) options.max_rows = dataset.limits.empty() ? dataset.limit : dataset.limits.front();
  GRAFT_ASSIGN_OR_RETURN(
      const data::Dataset set,
      data::Dataset::Open(split ? dataset.training : dataset.validation, options));
  GRAFT_RETURN_IF_ERROR(set.status());
  std::vector<int64_t> all = split_rows;
  if (!split) {
    all.resize(static_cast<size_t>(set.size()));
    std::iota(all.begin(), all.end(), 0);
  }
  for (const int64_t index : Spread(all, limit)) {
    GRAFT_ASSIGN_OR_RETURN(const data::Row from, set.ReadRow(index));
    ReportRow row{.row = index + 1};
    if (!Take(set.format(), from, row)) continue;
    row.question.max_tokens = max_tokens;
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace graft::trainer
