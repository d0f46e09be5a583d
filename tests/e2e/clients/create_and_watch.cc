// Trains an adapter and watches it: create_and_watch MODEL DATASET
// The context is the CLI's, or GRAFT_ADDRESS, GRAFT_TOKEN and GRAFT_CA.
#include <iostream>

#include "base/random.h"
#include "base/status_macros.h"
#include "client/graft/client.h"

namespace v1 = graft::v1;

absl::StatusOr<v1::JobState> CreateAndWatch(const std::string& model, const std::string& dataset) {
  GRAFT_ASSIGN_OR_RETURN(const graft::client::Context context, graft::client::ResolveContext(""));
  GRAFT_ASSIGN_OR_RETURN(const auto client, graft::client::Client::Connect(context));
  v1::CreateJobRequest request;
  request.set_parent(client->workspace());
  request.set_request_id(graft::SecureRandom().Id());
  v1::JobSpec& spec = *request.mutable_job()->mutable_spec();
  spec.mutable_model()->set_base(client->Name("models", model));
  spec.mutable_dataset()->add_training()->set_fileset(client->Name("filesets", dataset));
  spec.mutable_method()->mutable_sft();
  spec.mutable_schedule()->set_max_steps(5);
  GRAFT_ASSIGN_OR_RETURN(
      v1::Job job, client->Call<v1::Job>(client->jobs(), &v1::JobService::Stub::CreateJob, request,
                                         {.idempotent = true}));
  v1::WatchJobsRequest watch;
  watch.set_parent(job.name());
  watch.set_until_terminal(true);
  grpc::ClientContext call;
  GRAFT_RETURN_IF_ERROR(client->connection().Prepare(call));
  const auto stream = client->jobs().WatchJobs(&call, watch);
  for (v1::WatchJobsResponse change; stream->Read(&change);) {
    if (!change.has_job()) continue;
    job = change.job();
    std::cout << v1::JobState_Name(job.status().state()) << " "
              << job.status().progress().steps_done() << std::endl;
  }
  return job.status().state();
}

int main(int argc, char** argv) {
  const auto state = CreateAndWatch(argv[1], argv[2]);
  if (!state.ok()) std::cerr << state.status() << "\n";
  return state.ok() && *state == v1::JOB_STATE_COMPLETED ? 0 : 1;
}
