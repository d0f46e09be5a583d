// graft job compare and graft job plot: several jobs side by side.
#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/cli/chart.h"
#include "client/cli/command.h"
#include "client/cli/job_view.h"

namespace graft::cli {
namespace {

constexpr int kPlotPoints = 2000;
constexpr size_t kMostJobs = 16;  // more lines than that are not told apart

absl::StatusOr<std::vector<v1::Job>> NamedJobs(Invocation& invocation, client::Client& client,
                                               size_t least) {
  const std::vector<std::string>& words = invocation.flags.words();
  if (words.size() < least || words.size() > kMostJobs) {
    return absl::InvalidArgumentError(
        absl::StrCat("name ", least, " to ", kMostJobs, " jobs, not ", words.size()));
  }
  std::vector<v1::Job> jobs;
  for (const std::string& word : words) {
    GRAFT_ASSIGN_OR_RETURN(jobs.emplace_back(), FetchJob(client, client.Name("jobs", word)));
  }
  return jobs;
}

// "optimizer.learning_rate" -> "0.0002" for every value of a message.
void Flatten(const Json& value, const std::string& path, std::map<std::string, std::string>& out) {
  if (value.is_object()) {
    for (const auto& [key, member] : value.as_object()) {
      Flatten(member, path.empty() ? key : absl::StrCat(path, ".", key), out);
    }
  } else if (value.is_array()) {
    for (size_t i = 0; i < value.as_array().size(); ++i) {
      Flatten(value.as_array()[i], absl::StrCat(path, "[", i, "]"), out);
    }
  } else {
    out[path] = value.is_string() ? value.as_string() : value.Dump();
  }
}

using Column = std::map<std::string, std::string>;

absl::StatusOr<Column> Settings(const v1::Job& job) {
  GRAFT_ASSIGN_OR_RETURN(const Json spec, Json::Parse(ToJson(job.resolved_spec(), false)));
  Column column;
  Flatten(spec, "", column);
  return column;
}

// What came out, in the order in which it is read.
std::vector<std::pair<std::string, std::string>> Results(const v1::Job& job) {
  const v1::JobStatus& status = job.status();
  const v1::JobProgress& progress = status.progress();
  std::vector<std::pair<std::string, std::string>> rows;
  rows.emplace_back("state", JobStateWord(status.state()));
  rows.emplace_back("steps", absl::StrCat(progress.steps_done(), " of ", progress.steps_total()));
  const auto number = [&rows](const char* name, bool there, double value) {
    rows.emplace_back(name, there ? FormatNumber(value) : "-");
  };
  number("train loss", progress.has_train_loss(), progress.train_loss());
  number("validation loss", progress.has_val_loss(), progress.val_loss());
  number("best validation loss", progress.has_best_val_loss(), progress.best_val_loss());
  rows.emplace_back("tokens/s", FormatCount(static_cast<int64_t>(progress.tokens_per_second())));
  const int64_t seconds = status.end_time().seconds() - status.start_time().seconds();
  rows.emplace_back("run time", status.has_end_time() && status.has_start_time()
                                    ? HumanDuration(absl::Seconds(seconds))
                                    : "-");
  return rows;
}

absl::Status CompareJobs(Invocation& invocation) {
  bool all = false;
  invocation.flags.Bool("all", &all, "also the settings in which they agree");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job compare JOB JOB... [--all]"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Job> jobs, NamedJobs(invocation, *client, 2));
  std::vector<std::string> header = {"FIELD"};
  std::vector<Column> columns;
  std::set<std::string> paths;
  for (const v1::Job& job : jobs) {
    header.push_back(ShortName(job.name()));
    GRAFT_ASSIGN_OR_RETURN(columns.emplace_back(), Settings(job));
    for (const auto& [path, value] : columns.back()) paths.insert(path);
  }
  std::vector<std::vector<std::string>> rows;
  const std::vector<std::pair<std::string, std::string>> first = Results(jobs[0]);
  for (size_t i = 0; i < first.size(); ++i) {
    rows.push_back({first[i].first});
    for (const v1::Job& job : jobs) rows.back().push_back(Results(job)[i].second);
  }
  for (const std::string& path : paths) {
    std::vector<std::string> row = {path};
    for (const Column& column : columns) {
      const auto value = column.find(path);
      row.push_back(value == column.end() ? "-" : value->second);
    }
    const bool agree = std::all_of(row.begin() + 2, row.end(),
                                   [&row](const std::string& value) { return value == row[1]; });
    if (all || !agree) rows.push_back(std::move(row));
  }
  Json list = Json::MakeArray();
  Table table(header);
  for (const std::vector<std::string>& row : rows) {
    Json one = Json::MakeObject();
    one.Set("name", row[0]);
    std::vector<std::string> cells = {row[0]};
    for (size_t i = 1; i < row.size(); ++i) {
      one.Set(header[i], row[i]);
      cells.push_back(CutToWidth(Sanitize(row[i]), 48));
    }
    list.Append(std::move(one));
    table.Add(std::move(cells));
  }
  return invocation.PrintJson(list, [&] { return table.Render(invocation.out); });
}

struct PanelMetrics {
  const char* title;
  std::vector<std::string> metrics;
};
const std::vector<PanelMetrics>& Panels() {
  static const auto& panels = *new std::vector<PanelMetrics>{
      {"loss", {"train_loss", "val_loss"}},
      {"learning rate", {"learning_rate"}},
      {"gradient norm", {"grad_norm"}},
  };
  return panels;
}

absl::StatusOr<std::map<std::string, std::vector<Point>>> FetchCurves(client::Client& client,
                                                                      const std::string& job) {
  v1::QueryMetricsRequest request;
  request.set_name(job);
  for (const PanelMetrics& panel : Panels()) {
    for (const std::string& metric : panel.metrics) request.add_metrics(metric);
  }
  request.set_max_points(kPlotPoints);
  GRAFT_ASSIGN_OR_RETURN(
      const auto response,
      client.Call<v1::QueryMetricsResponse>(client.jobs(), &v1::JobService::Stub::QueryMetrics,
                                            request, {.idempotent = true}));
  std::map<std::string, std::vector<Point>> curves;
  for (const v1::MetricSeries& series : response.series()) {
    for (const auto& point : series.points()) {
      curves[series.metric()].push_back({static_cast<double>(point.step()), point.value()});
    }
  }
  return curves;
}

absl::StatusOr<Chart> ChartOf(client::Client& client, const std::vector<v1::Job>& jobs) {
  Chart chart;
  std::vector<std::string> names;
  for (const PanelMetrics& panel : Panels()) chart.panels.push_back({panel.title, {}});
  for (const v1::Job& job : jobs) {
    names.push_back(ShortName(job.name()) + (job.fake_trainer() ? " (fake trainer)" : ""));
    GRAFT_ASSIGN_OR_RETURN(auto curves, FetchCurves(client, job.name()));
    for (size_t i = 0; i < Panels().size(); ++i) {
      for (const std::string& metric : Panels()[i].metrics) {
        if (curves[metric].empty()) continue;
        chart.panels[i].curves.push_back(
            {absl::StrCat(ShortName(job.name()), " ", metric), std::move(curves[metric])});
      }
    }
  }
  chart.title = absl::StrJoin(names, ", ");
  std::erase_if(chart.panels, [](const Panel& panel) { return panel.curves.empty(); });
  if (!chart.panels.empty()) return chart;
  return absl::FailedPreconditionError(
      absl::StrCat(chart.title, " has no metrics yet; `graft job watch` shows when it trains"));
}

absl::Status PlotJobs(Invocation& invocation) {
  std::string file;
  GRAFT_RETURN_IF_ERROR(
      invocation.ParseWithFile("graft job plot JOB... -o FILE.svg|FILE.png|FILE.csv", &file));
  using Render = std::string (*)(const Chart&);
  Render render = nullptr;
  for (const auto& [ending, function] : {std::pair<const char*, Render>{".svg", RenderSvg},
                                         {".png", RenderPng},
                                         {".csv", RenderCsv}}) {
    if (absl::EndsWith(file, ending)) render = function;
  }
  if (render == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(
        "-o names a file that ends in .svg, .png or .csv", file.empty() ? "" : ", not ", file));
  }
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Job> jobs, NamedJobs(invocation, *client, 1));
  GRAFT_ASSIGN_OR_RETURN(const Chart chart, ChartOf(*client, jobs));
  GRAFT_RETURN_IF_ERROR(WriteFileAtomically(file, render(chart)));
  invocation.Say(absl::StrCat("wrote ", file));
  return absl::OkStatus();
}

}  // namespace

const std::vector<Command>& CurveCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"job compare", "settings in which jobs differ, and what came out", CompareJobs},
      {"job plot", "their curves as a picture or a table: -o FILE.svg, .png or .csv", PlotJobs},
  };
  return commands;
}

}  // namespace graft::cli
