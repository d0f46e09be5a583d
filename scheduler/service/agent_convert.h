// Between the worker protocol's messages and the core's structs.
#pragma once

#include <string>

#include "graft/agent/v1/agent.pb.h"
#include "scheduler/core/event.h"

namespace graft::scheduler {

Node ToNode(const std::string& name, const graft::agent::v1::Inventory& inventory);
NodeSynced ToSynced(const std::string& node, const graft::agent::v1::SynchronizeRequest& request);
// "w/j" and n of "workspaces/w/jobs/j/attempts/n", or a session's key and 1 of its name; an empty
// key when it is none.
std::pair<JobKey, int> ParseAttemptName(absl::string_view name);
std::string AttemptName(const JobKey& job, int attempt);
// Whether rank 0 is here, which knows of the gang what no other does. True before there are ranks.
bool Leads(const graft::agent::v1::ActualAttempt& actual);

}  // namespace graft::scheduler
