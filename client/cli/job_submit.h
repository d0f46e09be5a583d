// What every command that makes a job shares: its flags, and what is said of the job that was made.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/cli/command.h"

namespace graft::cli {

// --name, --set, --watch and --dry-run.
struct SubmitFlags {
  std::string name;
  std::vector<std::string> sets;
  bool watch = false, dry_run = false;

  void Declare(FlagSet& flags, absl::string_view set_help);
};

// Each PATH=VALUE of --set; the paths go to `paths` where one is given.
absl::Status ApplySets(const std::vector<std::string>& sets, google::protobuf::Message& message,
                       std::vector<std::string>* paths = nullptr);

// References in a spec as users write them, made whole.
void MakeNamesWhole(const client::Client& client, v1::JobSpec& spec);

// Creates the job in the context's workspace, and shows or follows it.
absl::Status Submit(Invocation& invocation, client::Client& client, v1::CreateJobRequest request,
                    const SubmitFlags& flags);

// Its warnings, then the new job: its name, or its life until it ends (--watch).
absl::Status ShowNewJob(Invocation& invocation, client::Client& client, const v1::Job& job,
                        const SubmitFlags& flags);

}  // namespace graft::cli
