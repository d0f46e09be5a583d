// Report: scores of answers.
#include <algorithm>
#include <map>

#include "absl/strings/ascii.h"
#include "absl/strings/str_split.h"
#include "worker/trainer/report.h"

namespace graft::trainer {
namespace {

std::vector<std::string> Words(absl::string_view text) {
  std::vector<std::string> words;
  for (absl::string_view word :
       absl::StrSplit(text, absl::ByAnyChar(" \t\r\n"), absl::SkipEmpty())) {
    while (!word.empty() && absl::ascii_ispunct(static_cast<unsigned char>(word.front()))) {
      word.remove_prefix(1);
    }
    while (!word.empty() && absl::ascii_ispunct(static_cast<unsigned char>(word.back()))) {
      word.remove_suffix(1);
    }
    if (!word.empty()) words.push_back(absl::AsciiStrToLower(word));
  }
  return words;
}

double F1(size_t common, size_t answer, size_t wanted) {
  if (answer == 0 && wanted == 0) return 1;
  return 2.0 * static_cast<double>(common) / static_cast<double>(answer + wanted);
}

size_t Common(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  std::map<std::string, int> left;
  for (const std::string& word : b) ++left[word];
  return static_cast<size_t>(
      std::count_if(a.begin(), a.end(), [&](const std::string& word) { return left[word]-- > 0; }));
}

size_t LongestCommonSubsequence(const std::vector<std::string>& a,
                                const std::vector<std::string>& b) {
  std::vector<size_t> row(b.size() + 1, 0);
  for (const std::string& word : a) {
    size_t diagonal = 0;
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t above = row[j + 1];
      row[j + 1] = word == b[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  return row.back();
}

bool IsJson(absl::string_view text) {
  const absl::StatusOr<Json> json = Json::Parse(absl::StripAsciiWhitespace(text));
  return json.ok() && (json->is_object() || json->is_array());
}

}  // namespace

Scores Score(absl::string_view answer, absl::string_view wanted) {
  const std::vector<std::string> a = Words(answer), w = Words(wanted);
  Scores scores;
  scores.exact = absl::StripAsciiWhitespace(answer) == absl::StripAsciiWhitespace(wanted);
  scores.token_f1 = F1(Common(a, w), a.size(), w.size());
  scores.rouge_l = F1(LongestCommonSubsequence(a, w), a.size(), w.size());
  scores.valid_json = IsJson(answer);
  return scores;
}

Means MeansOf(const std::vector<ReportRow>& rows, std::string ReportRow::*answer) {
  Means means;
  if (rows.empty()) return means;
  const auto count = static_cast<double>(rows.size());
  int json_wanted = 0, json_given = 0;
  for (const ReportRow& row : rows) {
    const Scores scores = Score(row.*answer, row.wanted);
    means.exact += scores.exact / count;
    means.token_f1 += scores.token_f1 / count;
    means.rouge_l += scores.rouge_l / count;
    if (!IsJson(row.wanted)) continue;
    ++json_wanted;
    json_given += scores.valid_json;
  }
  if (json_wanted > 0) means.valid_json = static_cast<double>(json_given) / json_wanted;
  return means;
}

}  // namespace graft::trainer
