// How a job is shown: its row, its page, and the live view that follows it to its end.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cli/command.h"
#include "client/cli/terminal.h"
#include "client/graft/client.h"

namespace graft::cli {

std::string JobStateWord(v1::JobState state);
// The same in its colour.
std::string PaintState(const Terminal& terminal, v1::JobState state);
bool IsTerminal(v1::JobState state);
absl::StatusOr<v1::Job> FetchJob(client::Client& client, const std::string& name);
// With the field that it is about.
std::string WarningText(const v1::Warning& warning);
std::string JobTable(const Terminal& terminal, const std::vector<v1::Job>& jobs);
std::string JobPage(const Terminal& terminal, const v1::Job& job);

// Follows the job until it ends or is paused: redrawn with its loss curve on a terminal, a line for
// each change elsewhere. Ctrl-C leaves the job running (CANCELLED). ABORTED when the job failed or
// was cancelled.
absl::Status FollowJob(Invocation& invocation, client::Client& client, const std::string& name);

}  // namespace graft::cli
