// graft dataset check, preview and sample: the rows as the trainer will read them, from a path of
// this machine or from a dataset of the server.
#include <stdlib.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/resources.h"
#include "client/cli/transfer_progress.h"
#include "worker/data/dataset/dataset.h"
#include "worker/data/dataset/packer.h"

namespace graft::cli {
namespace {

// The rows of one word of the command line; what was fetched is gone with it.
class Rows {
 public:
  static absl::StatusOr<std::unique_ptr<Rows>> Find(Invocation& invocation) {
    GRAFT_ASSIGN_OR_RETURN(const std::string word, invocation.Word(0, "the PATH, or the DATASET,"));
    std::unique_ptr<Rows> rows(new Rows);
    std::string path = word;
    if (!FileExists(path)) {
      GRAFT_RETURN_IF_ERROR(rows->Fetch(invocation, word));
      path = rows->folder_;
    }
    GRAFT_ASSIGN_OR_RETURN(rows->files_, data::FindDatasetFiles(path));
    return rows;
  }
  ~Rows() {
    if (!folder_.empty()) (void)RemoveTree(folder_);  // a temporary folder
  }

  const data::DatasetFiles& files() const { return files_; }
  absl::StatusOr<data::Dataset> OpenTraining(const data::DatasetOptions& options) const {
    return data::Dataset::Open(files_.training, options);
  }

 private:
  Rows() = default;

  absl::Status Fetch(Invocation& invocation, const std::string& word) {
    absl::StatusOr<client::Client*> client = invocation.Connect();
    if (!client.ok()) {
      return absl::NotFoundError(absl::StrCat("there is nothing at ", word,
                                              ", and no server is known that could have it"));
    }
    GRAFT_ASSIGN_OR_RETURN(fileservice::Client * files, (*client)->Files());
    std::string pattern = "/tmp/graft-rows-XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr) return ErrnoStatus(errno, "cannot make a folder");
    folder_ = pattern;
    TransferProgress progress(invocation.err, "downloading");
    GRAFT_ASSIGN_OR_RETURN(
        const fileservice::Downloaded done,
        files->DownloadVersion(FilesetVersion(**client, word), folder_, {}, progress.callback()));
    progress.Finish(done.totals);
    return absl::OkStatus();
  }

  std::string folder_;  // empty: the path is the user's
  data::DatasetFiles files_;
};

absl::Status ReadFormat(const std::string& name, data::DatasetOptions& options) {
  if (name.empty()) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(options.format, data::ParseRowFormat(name));
  return absl::OkStatus();
}

struct SetReport {
  std::string name;
  data::DatasetReport report;
};

Json ToJson(const SetReport& set) {
  Json problems = Json::MakeArray();
  for (const data::RowProblem& problem : set.report.problems) problems.Append(problem.ToJson());
  Json json = Json::MakeObject();
  json.Set("name", set.name).Set("format", data::RowFormatName(set.report.format));
  json.Set("files", set.report.files).Set("bytes", set.report.bytes).Set("rows", set.report.rows);
  json.Set("bad_rows", set.report.bad_rows).Set("problems", std::move(problems));
  return json;
}

absl::Status CheckRows(Invocation& invocation) {
  std::string format;
  int64_t most = 20;
  invocation.flags.String("format", &format, "FORMAT",
                          "chat, prompt_completion, text or preference; found without it");
  invocation.flags.Int("problems", &most, "N", "bad rows to show at most");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft dataset check PATH|DATASET [--format FORMAT]"));
  GRAFT_ASSIGN_OR_RETURN(const auto rows, Rows::Find(invocation));
  data::DatasetOptions options;
  GRAFT_RETURN_IF_ERROR(ReadFormat(format, options));
  std::vector<SetReport> sets;
  for (const auto& [name, paths] : {std::pair{"training", &rows->files().training},
                                    {"validation", &rows->files().validation}}) {
    if (paths->empty()) continue;
    GRAFT_ASSIGN_OR_RETURN(const data::Dataset dataset, data::Dataset::Open(*paths, options));
    sets.push_back({name, dataset.report()});
  }
  int64_t bad = 0;
  Table table({"SET", "FORMAT", "FILES", "ROWS", "BAD", "SIZE"});
  for (size_t column : {2u, 3u, 4u, 5u}) table.AlignRight(column);
  Json list = Json::MakeArray();
  for (const SetReport& set : sets) {
    bad += set.report.bad_rows;
    table.Add({set.name, std::string(data::RowFormatName(set.report.format)),
               absl::StrCat(set.report.files), absl::StrCat(set.report.rows),
               absl::StrCat(set.report.bad_rows), FormatBytes(set.report.bytes)});
    list.Append(ToJson(set));
    for (const data::RowProblem& problem : set.report.problems) {
      if (most-- > 0) invocation.Say(Sanitize(problem.ToString()));
    }
    for (const data::DatasetWarning& warning : set.report.warnings) {
      invocation.Say(absl::StrCat(invocation.err.Paint(Style::kYellow, "warning:"), " ",
                                  Sanitize(warning.message)));
    }
  }
  GRAFT_RETURN_IF_ERROR(invocation.PrintJson(list, [&] { return table.Render(invocation.out); }));
  if (bad == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(bad, bad == 1 ? " row" : " rows",
                   " cannot be used; `--set dataset.on_bad_row=skip` of "
                   "`graft job create` leaves such out"));
}

// The row's own members, from whatever kind of file.
Json RowJson(const data::Dataset& dataset, int64_t index, const data::Row& row) {
  if (absl::StatusOr<Json> raw = Json::Parse(dataset.RawRow(index)); raw.ok() && raw->is_object()) {
    return *std::move(raw);
  }
  Json json = Json::MakeObject();
  if (dataset.format() == data::RowFormat::kText) return json.Set("text", row.text);
  json.Set("prompt", row.prompt);
  if (dataset.format() == data::RowFormat::kPreference) {
    return json.Set("chosen", row.chosen).Set("rejected", row.rejected);
  }
  return json.Set("completion", row.completion);
}

void AppendMember(const Invocation& invocation, absl::string_view name, absl::string_view text,
                  std::string& out) {
  absl::StrAppend(&out, invocation.out.Paint(Style::kCyan, absl::StrCat(name, ":")), " ",
                  Sanitize(text, true), "\n");
}

std::string RowText(const Invocation& invocation, const Json& row) {
  std::string out;
  for (const auto& [name, value] : row.as_object()) {
    if (!value.is_array()) {
      AppendMember(invocation, name, value.is_string() ? value.as_string() : value.Dump(), out);
      continue;
    }
    for (const Json& message : value.as_array()) {
      const std::string role = message.GetString("role");
      AppendMember(invocation, role.empty() ? name : role,
                   message.Find("content") != nullptr && message.Find("content")->is_string()
                       ? message.GetString("content")
                       : message.Dump(),
                   out);
    }
  }
  return out;
}

absl::Status PreviewRows(Invocation& invocation) {
  int64_t count = 3;
  invocation.flags.Int("rows", &count, "N", "how many, from the first");
  invocation.flags.Short('n');
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft dataset preview PATH|DATASET [-n N]"));
  GRAFT_ASSIGN_OR_RETURN(const auto rows, Rows::Find(invocation));
  GRAFT_ASSIGN_OR_RETURN(const data::Dataset dataset,
                         rows->OpenTraining({.on_bad_row = data::OnBadRow::kSkip}));
  Json list = Json::MakeArray();
  std::string text;
  for (int64_t i = 0; i < std::min(count, dataset.size()); ++i) {
    GRAFT_ASSIGN_OR_RETURN(const data::Row row, dataset.ReadRow(i));
    Json json = RowJson(dataset, i, row);
    const data::RowLocation place = dataset.Locate(i);
    const std::string& file = dataset.FileName(place.file);
    absl::StrAppend(&text, i > 0 ? "\n" : "",
                    invocation.out.Paint(Style::kDim, absl::StrCat(file.substr(file.rfind('/') + 1),
                                                                   ":", place.line)),
                    "\n", RowText(invocation, json));
    list.Append(std::move(json));
  }
  return invocation.PrintJson(list, [&] { return text; });
}

absl::Status SampleRows(Invocation& invocation) {
  int64_t count = 100, seed = 0;
  std::string file;
  invocation.flags.Int("rows", &count, "N", "how many");
  invocation.flags.Short('n');
  invocation.flags.Int("seed", &seed, "N", "another seed draws others");
  GRAFT_RETURN_IF_ERROR(invocation.ParseWithFile(
      "graft dataset sample PATH|DATASET [-n N] [--seed N] [-o FILE.jsonl]", &file));
  if (count < 1) return absl::InvalidArgumentError("--rows must be at least 1");
  GRAFT_ASSIGN_OR_RETURN(const auto rows, Rows::Find(invocation));
  GRAFT_ASSIGN_OR_RETURN(const data::Dataset dataset,
                         rows->OpenTraining({.on_bad_row = data::OnBadRow::kSkip}));
  const auto size = static_cast<uint64_t>(dataset.size());
  std::string lines;
  for (uint64_t i = 0; i < std::min(static_cast<uint64_t>(count), size); ++i) {
    const auto index =
        static_cast<int64_t>(data::ShuffledIndex(static_cast<uint64_t>(seed), size, i));
    GRAFT_ASSIGN_OR_RETURN(const data::Row row, dataset.ReadRow(index));
    absl::StrAppend(&lines, RowJson(dataset, index, row).Dump(), "\n");
  }
  if (file.empty()) {
    invocation.Write(lines);
    return absl::OkStatus();
  }
  GRAFT_RETURN_IF_ERROR(WriteFileAtomically(file, lines));
  invocation.Say(absl::StrCat("wrote ", std::min(static_cast<uint64_t>(count), size), " of ", size,
                              " rows to ", file));
  return absl::OkStatus();
}

}  // namespace

const std::vector<Command>& RowCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"dataset check", "whether every row can be used, before anything is uploaded", CheckRows},
      {"dataset preview", "the first rows", PreviewRows},
      {"dataset sample", "rows drawn at random, as a file to try with", SampleRows},
  };
  return commands;
}

}  // namespace graft::cli
