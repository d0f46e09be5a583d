// graft job: what is done with jobs that are there (job_create.cc makes them).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/job_view.h"
#include "client/cli/resources.h"

namespace graft::cli {
namespace {

absl::Status ListJobs(Invocation& invocation) {
  std::string filter;
  invocation.flags.String("filter", &filter, "EXPRESSION", "as the API's filters");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job list [--filter EXPRESSION]"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Job> jobs,
                         FetchJobs(*client, client->workspace(), filter));
  return invocation.PrintList(Messages(jobs), [&] { return JobTable(invocation.out, jobs); });
}

// The job named by the first word.
absl::StatusOr<std::string> JobName(Invocation& invocation, client::Client& client) {
  GRAFT_ASSIGN_OR_RETURN(const std::string id, invocation.Word(0, "the JOB"));
  return client.Name("jobs", id);
}

absl::Status GetJob(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job get JOB"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const std::string name, JobName(invocation, *client));
  GRAFT_ASSIGN_OR_RETURN(const v1::Job job, FetchJob(*client, name));
  return invocation.Print(job, [&] { return JobPage(invocation.out, job); });
}

absl::Status WatchJob(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job watch JOB"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const std::string name, JobName(invocation, *client));
  return FollowJob(invocation, *client, name);
}

// `fill` puts into the request what flags say.
template <typename Request>
absl::Status Verb(
    Invocation& invocation, absl::string_view usage, absl::string_view said,
    grpc::Status (v1::JobService::Stub::*method)(grpc::ClientContext*, const Request&, v1::Job*),
    const std::function<void(Request&)>& fill = [](Request&) {}) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse(usage));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  Request request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), JobName(invocation, *client));
  fill(request);
  GRAFT_ASSIGN_OR_RETURN(const v1::Job job, client->Call<v1::Job>(client->jobs(), method, request));
  return invocation.Print(job, [&] {
    return absl::StrCat("job ", ShortName(job.name()), ": ", said, ", now ",
                        JobStateWord(job.status().state()), "\n");
  });
}

absl::Status CancelJob(Invocation& invocation) {
  return Verb<v1::CancelJobRequest>(invocation, "graft job cancel JOB", "cancelling",
                                    &v1::JobService::Stub::CancelJob);
}
absl::Status PauseJob(Invocation& invocation) {
  return Verb<v1::PauseJobRequest>(invocation, "graft job pause JOB", "pausing",
                                   &v1::JobService::Stub::PauseJob);
}
absl::Status ResumeJob(Invocation& invocation) {
  return Verb<v1::ResumeJobRequest>(invocation, "graft job resume JOB", "resuming",
                                    &v1::JobService::Stub::ResumeJob);
}

// "node-a: 0 1, node-b: 0 1" in the order of the ranks.
std::string PlacesOf(const v1::Attempt& attempt) {
  std::string out, node;
  for (const v1::RankPlacement& rank : attempt.ranks()) {
    if (rank.node() != node) {
      absl::StrAppend(&out, out.empty() ? "" : ", ", ShortName(rank.node()), ":");
      node = rank.node();
    }
    absl::StrAppend(&out, " ", rank.device_index());
  }
  return out;
}

absl::Status ListAttempts(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job attempts JOB"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::ListAttemptsRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_parent(), JobName(invocation, *client));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Attempt> attempts,
                         AllPages(*client, client->jobs(), &v1::JobService::Stub::ListAttempts,
                                  std::move(request), &v1::ListAttemptsResponse::attempts));
  return invocation.PrintList(Messages(attempts), [&] {
    Table table({"ATTEMPT", "STATE", "TP", "CP", "DP", "PP", "DEVICES", "AGE", "MESSAGE"});
    for (size_t column : {0u, 2u, 3u, 4u, 5u}) table.AlignRight(column);
    for (const v1::Attempt& attempt : attempts) {
      const v1::Layout& layout = attempt.layout();
      table.Add(
          {ShortName(attempt.name()), WordOf(v1::Attempt::State_Name(attempt.state()), "STATE_"),
           absl::StrCat(layout.tensor_parallel_size()),
           absl::StrCat(layout.context_parallel_size()), absl::StrCat(layout.data_parallel_size()),
           absl::StrCat(layout.pipeline_parallel_size()), PlacesOf(attempt),
           AgeOf(attempt.create_time()), CutToWidth(Sanitize(attempt.message()), 60)});
    }
    return table.Render(invocation.out);
  });
}

absl::Status ListCheckpoints(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job checkpoints JOB"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::ListCheckpointsRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_parent(), JobName(invocation, *client));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Checkpoint> checkpoints,
                         AllPages(*client, client->jobs(), &v1::JobService::Stub::ListCheckpoints,
                                  std::move(request), &v1::ListCheckpointsResponse::checkpoints));
  return invocation.PrintList(Messages(checkpoints), [&] {
    Table table({"STEP", "VAL LOSS", "SIZE", "ATTEMPT", "AGE", ""});
    for (size_t column : {0u, 1u, 2u, 3u}) table.AlignRight(column);
    for (const v1::Checkpoint& checkpoint : checkpoints) {
      table.Add({absl::StrCat(checkpoint.step()),
                 checkpoint.has_val_loss() ? FormatNumber(checkpoint.val_loss()) : "-",
                 FormatBytes(checkpoint.size_bytes()), absl::StrCat(checkpoint.attempt()),
                 AgeOf(checkpoint.create_time()), checkpoint.best() ? "best" : ""});
    }
    return table.Render(invocation.out);
  });
}

absl::Status CheckpointJob(Invocation& invocation) {
  return Verb<v1::CheckpointJobRequest>(invocation, "graft job checkpoint JOB",
                                        "writing a checkpoint",
                                        &v1::JobService::Stub::CheckpointJob);
}
absl::Status FinishJob(Invocation& invocation) {
  bool best = false;
  invocation.flags.Bool("best", &best, "with the weights of its best validation, not the last");
  return Verb<v1::FinishJobRequest>(
      invocation, "graft job finish JOB [--best]", "finishing early",
      &v1::JobService::Stub::FinishJob,
      [&best](v1::FinishJobRequest& request) { request.set_use_best(best); });
}

absl::Status DeleteJob(Invocation& invocation) {
  bool force = false;
  invocation.flags.Bool("force", &force, "cancel it first");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job delete JOB [--force]"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::DeleteJobRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), JobName(invocation, *client));
  request.set_force(force);
  GRAFT_RETURN_IF_ERROR(
      client
          ->Call<google::protobuf::Empty>(client->jobs(), &v1::JobService::Stub::DeleteJob, request)
          .status());
  invocation.Say(absl::StrCat("deleted ", request.name()));
  return absl::OkStatus();
}

// Before a line that is worth a look.
std::string SeverityWord(const Terminal& terminal, v1::LogEntry::Severity severity) {
  if (severity == v1::LogEntry::SEVERITY_ERROR) return terminal.Paint(Style::kRed, "error: ");
  if (severity == v1::LogEntry::SEVERITY_WARNING) {
    return terminal.Paint(Style::kYellow, "warning: ");
  }
  return "";
}

absl::Status Logs(Invocation& invocation) {
  bool follow = false;
  int64_t tail = 0;
  invocation.flags.Bool("follow", &follow, "go on until the job ends");
  invocation.flags.Short('f');
  invocation.flags.Int("tail", &tail, "N", "the last N lines");
  std::string level = "info";
  invocation.flags.String("level", &level, "LEVEL",
                          "lines at least so serious: debug, info, warning, error");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job logs JOB [-f] [--tail N] [--level LEVEL]"));
  v1::LogEntry::Severity severity;
  if (!v1::LogEntry::Severity_Parse(absl::StrCat("SEVERITY_", absl::AsciiStrToUpper(level)),
                                    &severity) ||
      severity == v1::LogEntry::SEVERITY_UNSPECIFIED) {
    return absl::InvalidArgumentError(
        absl::StrCat("--level is ", level, "; allowed are debug, info, warning and error"));
  }
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::ReadLogsRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), JobName(invocation, *client));
  request.set_follow(follow);
  request.set_tail(tail);
  request.set_min_severity(severity);
  grpc::ClientContext context;
  GRAFT_RETURN_IF_ERROR(client->connection().Prepare(context));
  const auto stream = client->jobs().ReadLogs(&context, request);
  v1::ReadLogsResponse response;
  while (stream->Read(&response)) {
    for (const v1::LogEntry& entry : response.entries()) {
      const absl::Time time = absl::FromUnixSeconds(entry.time().seconds());
      printf("%s  %d/%d  %s%s\n", absl::FormatTime("%H:%M:%S", time, absl::LocalTimeZone()).c_str(),
             entry.attempt(), entry.rank(), SeverityWord(invocation.out, entry.severity()).c_str(),
             Sanitize(entry.text()).c_str());
    }
    fflush(stdout);
  }
  return rpc::FromGrpcStatus(stream->Finish());
}

absl::Status Metrics(Invocation& invocation) {
  std::string names = "train_loss,val_loss";
  int64_t points = 50;
  bool plot = false;
  invocation.flags.String("metrics", &names, "A,B", "which; train_loss,val_loss");
  invocation.flags.Int("points", &points, "N", "points of each at most");
  invocation.flags.Bool("plot", &plot, "draw the curve");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job metrics JOB [--metrics A,B] [--plot]"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::QueryMetricsRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), JobName(invocation, *client));
  for (absl::string_view name : absl::StrSplit(names, ',', absl::SkipEmpty()))
    request.add_metrics(std::string(name));
  request.set_max_points(static_cast<int32_t>(points));
  GRAFT_ASSIGN_OR_RETURN(
      const auto response,
      client->Call<v1::QueryMetricsResponse>(client->jobs(), &v1::JobService::Stub::QueryMetrics,
                                             request, {.idempotent = true}));
  return invocation.Print(response, [&] {
    std::string text;
    for (const v1::MetricSeries& series : response.series()) {
      std::vector<Point> curve;
      Table table({"STEP", absl::StrCat(Sanitize(series.metric()))});
      table.AlignRight(0);
      table.AlignRight(1);
      for (const auto& point : series.points()) {
        curve.push_back({static_cast<double>(point.step()), point.value()});
        table.Add({absl::StrCat(point.step()), FormatNumber(point.value())});
      }
      absl::StrAppend(&text, plot ? absl::StrCat(Sanitize(series.metric()), "\n",
                                                 RenderCurve(invocation.out, curve, 10))
                                  : table.Render(invocation.out));
    }
    return text;
  });
}

absl::Status ExplainJob(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job explain JOB"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::ExplainJobRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), JobName(invocation, *client));
  GRAFT_ASSIGN_OR_RETURN(
      const auto explanation,
      client->Call<v1::Explanation>(client->jobs(), &v1::JobService::Stub::ExplainJob, request,
                                    {.idempotent = true}));
  return invocation.Print(explanation, [&] {
    std::string text = absl::StrCat(Sanitize(explanation.text(), true), "\n");
    if (explanation.has_expected_start_time()) {
      absl::StrAppend(&text, "  expected to start at ",
                      ClockTime(explanation.expected_start_time()));
      if (explanation.has_expected_start_time_p90()) {
        absl::StrAppend(&text, ", in nine of ten cases by ",
                        ClockTime(explanation.expected_start_time_p90()));
      }
      absl::StrAppend(&text, "\n");
    }
    for (const auto& change : explanation.counterfactuals()) {
      absl::StrAppend(&text, "  ", Sanitize(change.change()));
      const double percent = 100 * change.slowdown();
      if (std::abs(percent) >= 1) {
        absl::StrAppendFormat(&text, ", a step %.0f %% %s", std::abs(percent),
                              percent > 0 ? "slower" : "faster");
      }
      absl::StrAppend(&text, "\n");
    }
    return text;
  });
}

absl::Status WaitJobs(Invocation& invocation) {
  int64_t timeout = 0;
  invocation.flags.Int("timeout", &timeout, "SECONDS", "give up after so long");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job wait JOB... [--timeout SECONDS]"));
  GRAFT_RETURN_IF_ERROR(invocation.Word(0, "the JOB").status());
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  const absl::Time deadline =
      timeout > 0 ? absl::Now() + absl::Seconds(timeout) : absl::InfiniteFuture();
  absl::Status verdict;
  for (const std::string& word : invocation.flags.words()) {
    const std::string name = client->Name("jobs", word);
    for (;;) {
      GRAFT_ASSIGN_OR_RETURN(const v1::Job job, FetchJob(*client, name));
      if (IsTerminal(job.status().state())) {
        invocation.Say(absl::StrCat(word, ": ", JobStateWord(job.status().state())));
        if (job.status().state() != v1::JOB_STATE_COMPLETED) {
          verdict = absl::AbortedError(absl::StrCat(word, ": ", job.status().message()));
        }
        break;
      }
      if (absl::Now() > deadline)
        return absl::DeadlineExceededError(absl::StrCat(word, " has not ended yet"));
      absl::SleepFor(absl::Milliseconds(200));
    }
  }
  return verdict;
}

}  // namespace

const std::vector<Command>& JobCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"job list", "the jobs of the workspace", ListJobs},
      {"job get", "one job", GetJob},
      {"job watch", "follow a job live; Ctrl-C leaves it running", WatchJob},
      {"job wait", "wait for jobs; the exit code tells how they ended", WaitJobs},
      {"job logs", "what its ranks printed", Logs},
      {"job metrics", "loss and other curves", Metrics},
      {"job explain", "why it waits", ExplainJob},
      {"job attempts", "where it ran, and how each try ended", ListAttempts},
      {"job checkpoints", "what it may be forked from", ListCheckpoints},
      {"job pause", "checkpoint it and free its devices", PauseJob},
      {"job resume", "go on from the checkpoint", ResumeJob},
      {"job cancel", "end it", CancelJob},
      {"job checkpoint", "keep its state now, and go on", CheckpointJob},
      {"job finish", "end it now with what it has learnt", FinishJob},
      {"job delete", "remove it", DeleteJob},
  };
  return commands;
}

}  // namespace graft::cli
