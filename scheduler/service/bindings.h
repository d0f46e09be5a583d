// Who holds which role where.
//
//   binding/{user}/{workspace, or * for the cluster} -> graft.v1.RoleBinding
//   binding.name/{binding} -> "user/place"
#pragma once

#include <map>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "graft/v1/auth.pb.h"
#include "rpc/auth.h"
#include "scheduler/service/turn.h"

namespace graft::scheduler {

// Gives the role, under a binding's name that is made from user and place unless `id` says
// otherwise. Replaces what the user held there.
graft::v1::RoleBinding PutBinding(Turn& turn, const std::string& user, const std::string& place,
                                  rpc::Role role, const std::string& id = "",
                                  absl::Time expires = absl::InfiniteFuture());
void RemoveBinding(Turn& turn, const std::string& user, const std::string& place);

absl::StatusOr<graft::v1::RoleBinding> DecodeBinding(const Record& record);
// "workspaces/w" or "cluster" of a key's place.
std::string PlaceName(absl::string_view place);

// The roles that a user holds at `now`, by place.
absl::StatusOr<std::map<std::string, rpc::Role>> RolesOf(const Store& store,
                                                         const std::string& user, absl::Time now);

// FAILED_PRECONDITION (LAST_ADMIN) when nobody but `user` is an administrator of the cluster.
absl::Status CheckNotLastAdmin(Turn& turn, const std::string& user);

}  // namespace graft::scheduler
