// graft job, and the short forms graft lora and graft sft.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/job_view.h"
#include "client/graft/job_file.h"

namespace graft::cli {
namespace {

constexpr int kPageSize = 500;

void SayWarnings(const Invocation& invocation,
                 const google::protobuf::RepeatedPtrField<v1::Warning>& warnings) {
  for (const v1::Warning& warning : warnings) {
    invocation.Say(absl::StrCat(invocation.err.Paint(Style::kYellow, "warning:"), " ",
                                Sanitize(warning.field()), warning.field().empty() ? "" : ": ",
                                Sanitize(warning.message())));
  }
}

// References in a spec as users write them, made whole.
void MakeNamesWhole(const client::Client& client, v1::JobSpec& spec) {
  if (spec.has_model()) spec.mutable_model()->set_base(client.Name("models", spec.model().base()));
  for (auto* sources :
       {spec.mutable_dataset()->mutable_training(), spec.mutable_dataset()->mutable_validation()}) {
    for (v1::DatasetSource& source : *sources)
      source.set_fileset(client.Name("filesets", source.fileset()));
  }
  if (spec.resources().has_queue() && !absl::StartsWith(spec.resources().queue(), "queues/")) {
    spec.mutable_resources()->set_queue(absl::StrCat("queues/", spec.resources().queue()));
  }
}

absl::Status ApplySets(const std::vector<std::string>& sets, v1::JobSpec& spec) {
  for (const std::string& set : sets) {
    const size_t equals = set.find('=');
    if (equals == std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("--set ", set, ": expected PATH=VALUE"));
    }
    GRAFT_RETURN_IF_ERROR(client::SetField(set.substr(0, equals), set.substr(equals + 1), spec));
  }
  return absl::OkStatus();
}

absl::Status Submit(Invocation& invocation, client::Client& client, v1::CreateJobRequest request,
                    bool watch) {
  request.set_parent(client.workspace());
  request.set_request_id(NewRequestId());
  MakeNamesWhole(client, *request.mutable_job()->mutable_spec());
  GRAFT_ASSIGN_OR_RETURN(
      const v1::Job job,
      client.Call<v1::Job>(client.jobs(), &v1::JobService::Stub::CreateJob, request,
                           {.deadline = absl::Minutes(2), .idempotent = true}));
  SayWarnings(invocation, job.warnings());
  if (request.validate_only()) {
    return invocation.Print(job, [&] { return absl::StrCat("valid: nothing was created\n"); });
  }
  if (!watch) {
    return invocation.Print(job, [&] {
      return absl::StrCat("job ", ShortName(job.name()), ": ", JobStateWord(job.status().state()),
                          "; `graft job watch ", ShortName(job.name()), "` follows it\n");
    });
  }
  return FollowJob(invocation, client, job.name());
}

absl::Status CreateJob(Invocation& invocation) {
  std::string file, name;
  std::vector<std::string> sets;
  bool watch = false, dry_run = false;
  invocation.flags.String("file", &file, "FILE",
                          "the job file, YAML or JSON; - reads standard input");
  invocation.flags.Short('f');
  invocation.flags.String("name", &name, "NAME", "the job's name");
  invocation.flags.Strings("set", &sets, "PATH=VALUE",
                           "a field of the spec, such as optimizer.learning_rate=1e-4");
  invocation.flags.Bool("watch", &watch, "follow the job until it ends");
  invocation.flags.Bool("dry-run", &dry_run, "check it all and create nothing");
  GRAFT_RETURN_IF_ERROR(
      invocation.Parse("graft job create -f FILE [--set PATH=VALUE ...] [--watch]"));
  client::JobFile job;
  if (!file.empty()) {
    GRAFT_ASSIGN_OR_RETURN(const std::string text,
                           ReadFile(file == "-" ? "/dev/stdin" : file, client::kMaxJobFileBytes));
    GRAFT_ASSIGN_OR_RETURN(job, client::ParseJobFile(text, file));
  }
  GRAFT_RETURN_IF_ERROR(ApplySets(sets, *job.job.mutable_spec()));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::CreateJobRequest request;
  request.set_job_id(name.empty() ? job.job_id : name);
  *request.mutable_job() = job.job;
  request.set_validate_only(dry_run);
  return Submit(invocation, *client, std::move(request), watch);
}

absl::Status TuneShort(Invocation& invocation, v1::FinetuningType type, absl::string_view usage) {
  std::string name, output;
  double epochs = 0, learning_rate = 0;
  int64_t max_steps = 0, rank = 0, alpha = 0, batch = 0, max_seq_length = 0, seed = -1;
  std::vector<std::string> sets;
  bool watch = false, dry_run = false;
  FlagSet& flags = invocation.flags;
  flags.String("name", &name, "NAME", "the job's name");
  flags.String("output-name", &output, "NAME", "the name of what comes out");
  flags.Double("epochs", &epochs, "N", "passes over the data");
  flags.Int("max-steps", &max_steps, "N", "optimizer steps at most");
  flags.Double("lr", &learning_rate, "X", "learning rate");
  flags.Int("rank", &rank, "N", "LoRA rank");
  flags.Int("alpha", &alpha, "N", "LoRA alpha");
  flags.Int("batch", &batch, "N", "examples of one step");
  flags.Int("max-seq-length", &max_seq_length, "N", "longest sequence in tokens");
  flags.Int("seed", &seed, "N", "the seed");
  flags.Strings("set", &sets, "PATH=VALUE", "any other field of the spec");
  flags.Bool("watch", &watch, "follow the job until it ends");
  flags.Bool("dry-run", &dry_run, "check it all and create nothing");
  GRAFT_RETURN_IF_ERROR(invocation.Parse(usage));
  GRAFT_ASSIGN_OR_RETURN(const std::string model, invocation.Word(0, "the MODEL"));
  GRAFT_ASSIGN_OR_RETURN(const std::string dataset, invocation.Word(1, "the DATASET"));
  v1::CreateJobRequest request;
  request.set_job_id(name);
  request.set_validate_only(dry_run);
  v1::JobSpec& spec = *request.mutable_job()->mutable_spec();
  spec.mutable_model()->set_base(model);
  spec.mutable_dataset()->add_training()->set_fileset(dataset);
  spec.mutable_method()->mutable_sft();
  spec.mutable_tuning()->set_type(type);
  if (flags.Given("epochs")) spec.mutable_schedule()->set_epochs(epochs);
  if (flags.Given("max-steps")) spec.mutable_schedule()->set_max_steps(max_steps);
  if (flags.Given("seed")) spec.mutable_schedule()->set_seed(seed);
  if (flags.Given("lr")) spec.mutable_optimizer()->set_learning_rate(learning_rate);
  if (flags.Given("rank"))
    spec.mutable_tuning()->mutable_lora()->set_rank(static_cast<int32_t>(rank));
  if (flags.Given("alpha"))
    spec.mutable_tuning()->mutable_lora()->set_alpha(static_cast<double>(alpha));
  if (flags.Given("batch"))
    spec.mutable_batch()->set_global_batch_size(static_cast<int32_t>(batch));
  if (flags.Given("max-seq-length")) {
    spec.mutable_batch()->set_max_seq_length(static_cast<int32_t>(max_seq_length));
  }
  if (!output.empty()) spec.mutable_output()->set_name(output);
  GRAFT_RETURN_IF_ERROR(ApplySets(sets, spec));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  return Submit(invocation, *client, std::move(request), watch);
}

absl::Status Lora(Invocation& invocation) {
  return TuneShort(invocation, v1::FINETUNING_TYPE_LORA, "graft lora MODEL DATASET [flags]");
}
absl::Status Sft(Invocation& invocation) {
  return TuneShort(invocation, v1::FINETUNING_TYPE_ALL_WEIGHTS, "graft sft MODEL DATASET [flags]");
}

absl::Status ListJobs(Invocation& invocation) {
  std::string filter;
  invocation.flags.String("filter", &filter, "EXPRESSION", "as the API's filters");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job list [--filter EXPRESSION]"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::ListJobsRequest request;
  request.set_parent(client->workspace());
  request.set_page_size(kPageSize);
  request.set_filter(filter);
  std::vector<v1::Job> jobs;
  do {
    GRAFT_ASSIGN_OR_RETURN(const auto page, client->Call<v1::ListJobsResponse>(
                                                client->jobs(), &v1::JobService::Stub::ListJobs,
                                                request, {.idempotent = true}));
    jobs.insert(jobs.end(), page.jobs().begin(), page.jobs().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  std::vector<const google::protobuf::Message*> messages;
  for (const v1::Job& job : jobs) messages.push_back(&job);
  return invocation.PrintList(messages, [&] { return JobTable(invocation.out, jobs); });
}

// The job named by the first word.
absl::StatusOr<std::string> JobName(Invocation& invocation, client::Client& client) {
  GRAFT_ASSIGN_OR_RETURN(const std::string id, invocation.Word(0, "the JOB"));
  return client.Name("jobs", id);
}

absl::Status GetJob(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job get JOB"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::GetJobRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), JobName(invocation, *client));
  GRAFT_ASSIGN_OR_RETURN(const v1::Job job,
                         client->Call<v1::Job>(client->jobs(), &v1::JobService::Stub::GetJob,
                                               request, {.idempotent = true}));
  return invocation.Print(job, [&] { return JobPage(invocation.out, job); });
}

absl::Status WatchJob(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job watch JOB"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const std::string name, JobName(invocation, *client));
  return FollowJob(invocation, *client, name);
}

template <typename Request>
absl::Status Verb(Invocation& invocation, absl::string_view usage, absl::string_view said,
                  grpc::Status (v1::JobService::Stub::*method)(grpc::ClientContext*, const Request&,
                                                               v1::Job*)) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse(usage));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  Request request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), JobName(invocation, *client));
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

absl::Status Logs(Invocation& invocation) {
  bool follow = false;
  int64_t tail = 0;
  invocation.flags.Bool("follow", &follow, "go on until the job ends");
  invocation.flags.Short('f');
  invocation.flags.Int("tail", &tail, "N", "the last N lines");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job logs JOB [-f] [--tail N]"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::ReadLogsRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), JobName(invocation, *client));
  request.set_follow(follow);
  request.set_tail(tail);
  grpc::ClientContext context;
  GRAFT_RETURN_IF_ERROR(client->connection().Prepare(context));
  const auto stream = client->jobs().ReadLogs(&context, request);
  v1::ReadLogsResponse response;
  while (stream->Read(&response)) {
    for (const v1::LogEntry& entry : response.entries()) {
      const absl::Time time = absl::FromUnixSeconds(entry.time().seconds());
      printf("%s  %d/%d  %s\n", absl::FormatTime("%H:%M:%S", time, absl::LocalTimeZone()).c_str(),
             entry.attempt(), entry.rank(), Sanitize(entry.text()).c_str());
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
    for (const auto& counterfactual : explanation.counterfactuals()) {
      absl::StrAppend(&text, "  would start now with: ", Sanitize(counterfactual.change()), "\n");
    }
    return text;
  });
}

absl::Status JobSchema(Invocation& invocation) {
  bool example = false;
  invocation.flags.Bool("example", &example, "a job file to start from, instead of the schema");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft job schema [METHOD] [--example]"));
  v1::GetJobSchemaRequest request;
  request.set_method(v1::METHOD_SFT);
  if (invocation.word_count() > 0) {
    GRAFT_RETURN_IF_ERROR(client::SetField("method", invocation.flags.words()[0], request));
  }
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const auto schema, client->Call<v1::GetJobSchemaResponse>(
                                                client->jobs(), &v1::JobService::Stub::GetJobSchema,
                                                request, {.idempotent = true}));
  printf("%s\n", example ? schema.example_yaml().c_str() : schema.json_schema().c_str());
  return absl::OkStatus();
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
    v1::GetJobRequest request;
    request.set_name(client->Name("jobs", word));
    for (;;) {
      GRAFT_ASSIGN_OR_RETURN(const v1::Job job,
                             client->Call<v1::Job>(client->jobs(), &v1::JobService::Stub::GetJob,
                                                   request, {.idempotent = true}));
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
      {"lora", "train an adapter: MODEL DATASET", Lora},
      {"sft", "train all weights: MODEL DATASET", Sft},
      {"job create", "create a job from a file", CreateJob},
      {"job list", "the jobs of the workspace", ListJobs},
      {"job get", "one job", GetJob},
      {"job watch", "follow a job live; Ctrl-C leaves it running", WatchJob},
      {"job wait", "wait for jobs; the exit code tells how they ended", WaitJobs},
      {"job logs", "what its ranks printed", Logs},
      {"job metrics", "loss and other curves", Metrics},
      {"job explain", "why it waits", ExplainJob},
      {"job pause", "checkpoint it and free its devices", PauseJob},
      {"job resume", "go on from the checkpoint", ResumeJob},
      {"job cancel", "end it", CancelJob},
      {"job delete", "remove it", DeleteJob},
      {"job schema", "the fields of a job file", JobSchema},
  };
  return commands;
}

}  // namespace graft::cli
