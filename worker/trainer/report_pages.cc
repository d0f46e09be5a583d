// Report: what a person reads.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "worker/trainer/report.h"

namespace graft::trainer {
namespace {

struct Line {
  std::string name;
  std::string before;
  std::string after;
};

std::string Number(const std::optional<double>& value) {
  return value.has_value() ? absl::StrFormat("%.4f", *value) : "-";
}
std::string Share(const std::optional<double>& value) {
  return value.has_value() ? absl::StrFormat("%.1f %%", 100 * *value) : "-";
}

std::vector<Line> Summary(const Report& report) {
  std::vector<Line> lines = {
      {"validation loss", Number(report.loss_before), Number(report.loss_after)}};
  if (report.rows.empty()) return lines;
  const Means before = MeansOf(report.rows, &ReportRow::before);
  const Means after = MeansOf(report.rows, &ReportRow::after);
  lines.push_back({"exact match", Share(before.exact), Share(after.exact)});
  lines.push_back({"token F1", Share(before.token_f1), Share(after.token_f1)});
  lines.push_back({"ROUGE-L", Share(before.rouge_l), Share(after.rouge_l)});
  if (before.valid_json.has_value()) {
    lines.push_back({"valid JSON", Share(before.valid_json), Share(after.valid_json)});
  }
  return lines;
}

std::vector<std::pair<Scores, const ReportRow*>> WorstFirst(const Report& report) {
  std::vector<std::pair<Scores, const ReportRow*>> sorted;
  for (const ReportRow& row : report.rows) sorted.emplace_back(Score(row.after, row.wanted), &row);
  std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) {
    if (a.first.exact != b.first.exact) return b.first.exact;
    return a.first.token_f1 < b.first.token_f1;
  });
  return sorted;
}

std::string HowMany(const Report& report) {
  if (report.rows_chosen == 0) return "The validation rows have no answers to compare.";
  std::string text = absl::StrCat(report.rows.size(),
                                  " validation rows, answered with the "
                                  "likeliest tokens; the worst first.");
  if (static_cast<int64_t>(report.rows.size()) < report.rows_chosen) {
    absl::StrAppend(&text, " Time did not suffice for ",
                    report.rows_chosen - static_cast<int64_t>(report.rows.size()), " more.");
  }
  return text;
}

// In a fence that nothing in the text can close.
std::string Fenced(const std::string& text) {
  std::string fence = "```";
  while (text.find(fence) != std::string::npos) fence += "`";
  return absl::StrCat(fence, "\n", text, "\n", fence, "\n");
}

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

constexpr char kStyle[] =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:72em;margin:2em auto;padding:0 1em;"
    "color:#1b1b1b;background:#fff}table{border-collapse:collapse}td,th{padding:.3em .9em;"
    "border-bottom:1px solid #ddd;text-align:left}td+td,th+th{text-align:right}"
    "section{border-top:1px solid #ddd;margin-top:1.5em}.pair{display:grid;gap:1em;"
    "grid-template-columns:repeat(3,1fr)}pre{white-space:pre-wrap;overflow-wrap:anywhere;"
    "background:#f5f5f5;padding:.7em;margin:.2em 0}.good{background:#e7f5e7}"
    "@media(max-width:50em){.pair{grid-template-columns:1fr}}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}"
    "pre{background:#242424}.good{background:#1d3320}td,th,section{border-color:#444}}";

std::string HtmlRow(const Scores& scores, const ReportRow& row) {
  const auto box = [](const char* name, const std::string& text, bool good) {
    return absl::StrCat("<div><b>", name, "</b><pre", good ? " class=\"good\"" : "", ">",
                        Escape(text), "</pre></div>");
  };
  return absl::StrCat("<section><h3>Row ", row.row, ", token F1 ", Share(scores.token_f1),
                      "</h3><pre>", Escape(row.prompt), "</pre><div class=\"pair\">",
                      box("wanted", row.wanted, false),
                      box("before", row.before, Score(row.before, row.wanted).exact),
                      box("after", row.after, scores.exact), "</div></section>\n");
}

}  // namespace

std::string ReportMarkdown(const Report& report) {
  std::string text =
      absl::StrCat("# ", report.title, "\n\nBefore: ", report.base, "\nAfter: ", report.tuned,
                   "\n\n| | before | after |\n|---|--:|--:|\n");
  for (const Line& line : Summary(report)) {
    absl::StrAppend(&text, "| ", line.name, " | ", line.before, " | ", line.after, " |\n");
  }
  absl::StrAppend(&text, "\n", HowMany(report), "\n");
  for (const auto& [scores, row] : WorstFirst(report)) {
    absl::StrAppend(&text, "\n## Row ", row->row, ", token F1 ", Share(scores.token_f1), "\n\n",
                    "Prompt\n", Fenced(row->prompt), "Wanted\n", Fenced(row->wanted), "Before\n",
                    Fenced(row->before), "After\n", Fenced(row->after));
  }
  return text;
}

std::string ReportHtml(const Report& report) {
  std::string text = absl::StrCat(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\"><title>",
      Escape(report.title), "</title><style>", kStyle, "</style></head><body><h1>",
      Escape(report.title), "</h1><p>Before: ", Escape(report.base),
      "<br>After: ", Escape(report.tuned),
      "</p><table><tr><th></th><th>before</th><th>after</th></tr>");
  for (const Line& line : Summary(report)) {
    absl::StrAppend(&text, "<tr><td>", line.name, "</td><td>", line.before, "</td><td>", line.after,
                    "</td></tr>");
  }
  absl::StrAppend(&text, "</table><p>", HowMany(report), "</p>\n");
  for (const auto& [scores, row] : WorstFirst(report))
    absl::StrAppend(&text, HtmlRow(scores, *row));
  return absl::StrCat(text, "</body></html>\n");
}

absl::Status WriteReport(const Report& report, const std::string& folder) {
  std::string samples;
  for (const auto& [scores, row] : WorstFirst(report)) {
    Json line = Json::MakeObject();
    line.Set("row", row->row).Set("prompt", row->prompt).Set("wanted", row->wanted);
    line.Set("before", row->before).Set("after", row->after).Set("exact", scores.exact);
    line.Set("token_f1", scores.token_f1).Set("rouge_l", scores.rouge_l);
    absl::StrAppend(&samples, line.Dump(), "\n");
  }
  GRAFT_RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  GRAFT_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(folder, "report.md"), ReportMarkdown(report)));
  GRAFT_RETURN_IF_ERROR(WriteFileAtomically(JoinPath(folder, "report.html"), ReportHtml(report)));
  return WriteFileAtomically(JoinPath(folder, "samples.jsonl"), samples);
}

}  // namespace graft::trainer
