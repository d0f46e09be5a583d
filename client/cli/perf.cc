// graft job perf: where the time of a job's steps goes, by rank.
#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/job_view.h"
#include "client/cli/step_times.h"

namespace graft::cli {
namespace {

constexpr int kPoints = 200;

struct PartMetric {
  const char* metric;
  double StepTimes::*part;
};
constexpr PartMetric kParts[] = {
    {"step_seconds", &StepTimes::step},
    {"data_seconds", &StepTimes::data},
    {"forward_seconds", &StepTimes::forward},
    {"backward_seconds", &StepTimes::backward},
    {"optimizer_seconds", &StepTimes::optimizer},
    {"communication_seconds", &StepTimes::communication},
    {"idle_seconds", &StepTimes::idle},
    {"peak_memory_bytes", &StepTimes::memory_bytes},
};

// The mean of the later half: the first steps warm up.
double Settled(const v1::MetricSeries& series) {
  const int size = series.points_size();
  double sum = 0;
  for (int i = size / 2; i < size; ++i) sum += series.points(i).value();
  return size == 0 ? 0 : sum / (size - size / 2);
}

absl::StatusOr<std::vector<StepTimes>> FetchStepTimes(client::Client& client, const v1::Job& job) {
  v1::QueryMetricsRequest request;
  request.set_name(job.name());
  for (const PartMetric& part : kParts) request.add_metrics(part.metric);
  request.set_max_points(kPoints);
  request.set_per_rank(true);
  GRAFT_ASSIGN_OR_RETURN(
      const auto response,
      client.Call<v1::QueryMetricsResponse>(client.jobs(), &v1::JobService::Stub::QueryMetrics,
                                            request, {.idempotent = true}));
  std::map<int, StepTimes> ranks;
  for (const v1::MetricSeries& series : response.series()) {
    StepTimes& rank = ranks[std::max(0, series.rank())];
    rank.rank = std::max(0, series.rank());
    for (const PartMetric& part : kParts) {
      if (series.metric() == part.metric) rank.*part.part = Settled(series);
    }
  }
  std::vector<StepTimes> times;
  for (const auto& [number, rank] : ranks) {
    if (rank.step > 0) times.push_back(rank);
  }
  if (!times.empty()) return times;
  return absl::FailedPreconditionError(absl::StrCat(
      ShortName(job.name()), " has made no step yet; `graft job watch` shows when it trains"));
}

StepLayout LayoutOf(const v1::Job& job) {
  const v1::ParallelismSection& wanted = job.resolved_spec().parallelism();
  const v1::BatchSection& batch = job.resolved_spec().batch();
  StepLayout layout{.tensor = std::max(1, wanted.tensor_parallel_size()),
                    .pipeline = std::max(1, wanted.pipeline_parallel_size()),
                    .data = std::max(1, wanted.data_parallel_size())};
  layout.micro_batches = std::max(
      1, batch.global_batch_size() / (std::max(1, batch.micro_batch_size()) * layout.data));
  return layout;
}

Json ToJson(const StepTimes& rank) {
  Json json;
  json.Set("name", absl::StrCat(rank.rank));
  for (const PartMetric& part : kParts) json.Set(part.metric, rank.*part.part);
  return json;
}

std::string Share(double part, double whole) {
  return whole > 0 ? absl::StrFormat("%.0f %%", 100 * part / whole) : "-";
}

absl::Status PerfOfJob(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job perf JOB"));
  GRAFT_ASSIGN_OR_RETURN(const std::string word, invocation.Word(0, "the job"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const v1::Job job, FetchJob(*client, client->Name("jobs", word)));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<StepTimes> ranks, FetchStepTimes(*client, job));
  Json list = Json::MakeArray();
  for (const StepTimes& rank : ranks) list.Append(ToJson(rank));
  return invocation.PrintJson(list, [&] {
    Table table({"RANK", "STEP", "DATA", "FORWARD", "BACKWARD", "OPTIMIZER", "COMMUNICATION",
                 "IDLE", "MEMORY"});
    for (size_t column = 1; column < 9; ++column) table.AlignRight(column);
    for (const StepTimes& rank : ranks) {
      table.Add({absl::StrCat(rank.rank), absl::StrFormat("%.3f s", rank.step),
                 Share(rank.data, rank.step), Share(rank.forward, rank.step),
                 Share(rank.backward, rank.step), Share(rank.optimizer, rank.step),
                 Share(rank.communication, rank.step), Share(rank.idle, rank.step),
                 FormatBytes(static_cast<int64_t>(rank.memory_bytes))});
    }
    const v1::JobProgress& progress = job.status().progress();
    return absl::StrCat(table.Render(invocation.out), "\n",
                        FormatCount(static_cast<int64_t>(progress.tokens_per_second())),
                        " tokens/s, ",
                        FormatCount(static_cast<int64_t>(progress.tokens_per_second() /
                                                         static_cast<double>(ranks.size()))),
                        " a device", job.fake_trainer() ? " (fake trainer)" : "", "\n",
                        Verdict(ranks, LayoutOf(job)), "\n");
  });
}

}  // namespace

const std::vector<Command>& PerfCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"job perf", "where the time of its steps goes, by rank, and what to change", PerfOfJob},
  };
  return commands;
}

}  // namespace graft::cli
