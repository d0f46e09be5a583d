// graft job rerun and graft job fork: a job made from another.
#include <string>
#include <vector>

#include "absl/strings/strip.h"
#include "base/status_macros.h"
#include "client/cli/job_submit.h"
#include "client/cli/job_view.h"

namespace graft::cli {
namespace {

absl::Status RerunJob(Invocation& invocation) {
  SubmitFlags flags;
  flags.Declare(invocation.flags, "a field that shall be different");
  GRAFT_RETURN_IF_ERROR(
      invocation.Parse("graft job rerun JOB [--set PATH=VALUE ...] [--name NAME]\n\n"
                       "The same job on the same bytes: versions, defaults and seed as they were "
                       "resolved."));
  GRAFT_ASSIGN_OR_RETURN(const std::string id, invocation.Word(0, "the JOB"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const v1::Job job, FetchJob(*client, client->Name("jobs", id)));
  v1::CreateJobRequest request;
  request.set_job_id(flags.name);
  request.mutable_job()->set_description(job.description());
  v1::JobSpec& spec = *request.mutable_job()->mutable_spec();
  spec = job.resolved_spec();
  // What the resolved spec tells and no one may set; and what came out has its name already.
  spec.mutable_parallelism()->clear_data_parallel_size();
  spec.mutable_output()->clear_name();
  spec.mutable_resources()->clear_after();
  GRAFT_RETURN_IF_ERROR(ApplySets(flags.sets, spec));
  return Submit(invocation, *client, std::move(request), flags);
}

absl::Status ForkJob(Invocation& invocation) {
  SubmitFlags flags;
  v1::ForkJobRequest request;
  flags.Declare(invocation.flags, "a field that shall be different from there on");
  invocation.flags.String("from", request.mutable_from(), "POINT",
                          "best, latest, start, or a checkpoint's step; the latest without it");
  GRAFT_RETURN_IF_ERROR(
      invocation.Parse("graft job fork JOB [--from POINT] [--set PATH=VALUE ...] [--name NAME]\n\n"
                       "A new job that goes on from a checkpoint of another, whatever became of "
                       "that: weights, optimizer, place in the data; weights alone where --set "
                       "changes what the rest depends on (rows, batch, schedule, optimizer)."));
  GRAFT_ASSIGN_OR_RETURN(const std::string id, invocation.Word(0, "the JOB"));
  std::vector<std::string> paths;
  GRAFT_RETURN_IF_ERROR(ApplySets(flags.sets, *request.mutable_spec(), &paths));
  for (const std::string& path : paths) request.mutable_update_mask()->add_paths(path);
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  request.set_name(client->Name("jobs", id));
  absl::string_view point = request.from();
  if (absl::ConsumePrefix(&point, "step:")) request.set_from(std::string(point));
  request.set_job_id(flags.name);
  request.set_validate_only(flags.dry_run);
  request.set_request_id(NewRequestId());
  MakeNamesWhole(*client, *request.mutable_spec());
  GRAFT_ASSIGN_OR_RETURN(
      const v1::Job job,
      client->Call<v1::Job>(client->jobs(), &v1::JobService::Stub::ForkJob, request,
                            {.deadline = absl::Minutes(2), .idempotent = true}));
  return ShowNewJob(invocation, *client, job, flags);
}

}  // namespace

const std::vector<Command>& JobAgainCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"job rerun", "the same job again, on the same bytes", RerunJob},
      {"job fork", "a new job that goes on from a checkpoint of another", ForkJob},
  };
  return commands;
}

}  // namespace graft::cli
