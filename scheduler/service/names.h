// Resource names and ids.
//
//   GRAFT_ASSIGN_OR_RETURN(auto ids, ParseName(request.name(), "workspaces/*/jobs/*"));
//   // ids = {"support", "tickets-1"}
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::scheduler {

inline constexpr char kJobName[] = "workspaces/*/jobs/*";

// The parts that stand at the pattern's `*`, each a valid id (or `-`, where `allow_any`).
// INVALID_ARGUMENT with the pattern otherwise.
absl::StatusOr<std::vector<std::string>> ParseName(absl::string_view name,
                                                   absl::string_view pattern,
                                                   bool allow_any = false);
// 2 to 63 characters of [a-z0-9._-], the first a letter or digit.
absl::Status CheckId(absl::string_view id, absl::string_view field);

}  // namespace graft::scheduler
