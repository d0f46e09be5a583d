// Who refers to what, for the rule that nothing in use is deleted.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "graft/v1/job.pb.h"
#include "scheduler/service/turn.h"

namespace graft::scheduler {

// Names of the jobs that are not over and for which `uses` holds.
std::vector<std::string> LiveJobsThat(Turn& turn,
                                      const std::function<bool(const graft::v1::Job&)>& uses);

// Whether any text field in `message` is `name`, or a name below it.
bool Mentions(const google::protobuf::Message& message, absl::string_view name);

inline constexpr size_t kMaxHolders = 20;

// FAILED_PRECONDITION (RESOURCE_IN_USE) with the first kMaxHolders of `holders`, which is not
// empty.
absl::Status InUse(absl::string_view name, const std::vector<std::string>& holders);

}  // namespace graft::scheduler
