#include "client/cli/job_submit.h"

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/cli/job_view.h"
#include "client/graft/job_file.h"

namespace graft::cli {

void SubmitFlags::Declare(FlagSet& flags, absl::string_view set_help) {
  flags.String("name", &name, "NAME", "the job's name");
  flags.Strings("set", &sets, "PATH=VALUE", set_help);
  flags.Bool("watch", &watch, "follow the job until it ends");
  flags.Bool("dry-run", &dry_run, "check it all and create nothing");
}

namespace {

// "JOB/POINT" as a checkpoint's name.
std::string CheckpointName(const client::Client& client, const std::string& written) {
  if (absl::StartsWith(written, "workspaces/")) return written;
  const size_t slash = written.rfind('/');
  if (slash == std::string::npos) return written;
  return absl::StrCat(client.Name("jobs", written.substr(0, slash)), "/checkpoints/",
                      written.substr(slash + 1));
}

void MakeStartWhole(const client::Client& client, v1::ModelSection& model) {
  v1::StartFrom& from = *model.mutable_start_from();
  if (from.has_job()) from.set_job(client.Name("jobs", from.job()));
  if (from.has_checkpoint()) from.set_checkpoint(CheckpointName(client, from.checkpoint()));
  if (from.has_adapter() && !absl::StartsWith(from.adapter(), "workspaces/")) {
    from.set_adapter(absl::StrCat(model.base(), "/adapters/", from.adapter()));
  }
}

}  // namespace

void MakeNamesWhole(const client::Client& client, v1::JobSpec& spec) {
  if (spec.has_model()) spec.mutable_model()->set_base(client.Name("models", spec.model().base()));
  if (spec.model().has_start_from()) MakeStartWhole(client, *spec.mutable_model());
  for (auto* sources :
       {spec.mutable_dataset()->mutable_training(), spec.mutable_dataset()->mutable_validation()}) {
    for (v1::DatasetSource& source : *sources)
      source.set_fileset(client.Name("filesets", source.fileset()));
  }
  for (int i = 0; i < spec.resources().after_size(); ++i) {
    std::string& job = *spec.mutable_resources()->mutable_after(i);
    job = client.Name("jobs", job);
  }
  for (int i = 0; i < spec.resources().nodes_size(); ++i) {
    std::string& node = *spec.mutable_resources()->mutable_nodes(i);
    if (!absl::StartsWith(node, "nodes/")) node = absl::StrCat("nodes/", node);
  }
  if (spec.resources().has_queue() && !absl::StartsWith(spec.resources().queue(), "queues/")) {
    spec.mutable_resources()->set_queue(absl::StrCat("queues/", spec.resources().queue()));
  }
}

absl::Status ApplySets(const std::vector<std::string>& sets, google::protobuf::Message& message,
                       std::vector<std::string>* paths) {
  for (const std::string& set : sets) {
    const size_t equals = set.find('=');
    if (equals == std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("--set ", set, ": expected PATH=VALUE"));
    }
    const std::string path = set.substr(0, equals);
    GRAFT_RETURN_IF_ERROR(client::SetField(path, set.substr(equals + 1), message));
    if (paths != nullptr) paths->push_back(path);
  }
  return absl::OkStatus();
}

absl::Status Submit(Invocation& invocation, client::Client& client, v1::CreateJobRequest request,
                    const SubmitFlags& flags) {
  request.set_parent(client.workspace());
  request.set_request_id(NewRequestId());
  request.set_validate_only(flags.dry_run);
  MakeNamesWhole(client, *request.mutable_job()->mutable_spec());
  GRAFT_ASSIGN_OR_RETURN(
      const v1::Job job,
      client.Call<v1::Job>(client.jobs(), &v1::JobService::Stub::CreateJob, request,
                           {.deadline = absl::Minutes(2), .idempotent = true}));
  return ShowNewJob(invocation, client, job, flags);
}

absl::Status ShowNewJob(Invocation& invocation, client::Client& client, const v1::Job& job,
                        const SubmitFlags& flags) {
  for (const v1::Warning& warning : job.warnings()) {
    invocation.Say(
        absl::StrCat(invocation.err.Paint(Style::kYellow, "warning:"), " ", WarningText(warning)));
  }
  if (flags.dry_run) {
    return invocation.Print(job, [&] { return absl::StrCat("valid: nothing was created\n"); });
  }
  if (!flags.watch) {
    return invocation.Print(job, [&] {
      return absl::StrCat("job ", ShortName(job.name()), ": ", JobStateWord(job.status().state()),
                          "; `graft job watch ", ShortName(job.name()), "` follows it\n");
    });
  }
  return FollowJob(invocation, client, job.name());
}

}  // namespace graft::cli
