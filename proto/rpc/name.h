// Resource names: "workspaces/{w}/jobs/{j}".
//
//   GRAFT_ASSIGN_OR_RETURN(auto ids, rpc::ParseName("workspaces/{w}/jobs/{j}", request.name()));
//   Lookup(ids[0], ids[1]);
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::rpc {

inline constexpr size_t kMinIdLength = 2;
inline constexpr size_t kMaxIdLength = 63;

// 2 to 63 of a-z, 0-9, '-', '_' and '.', starting with a letter or digit.
bool IsValidId(absl::string_view id);
// INVALID_ARGUMENT (NAME_INVALID) saying what is wrong with `id`; `field` is the request's field.
absl::Status CheckId(absl::string_view id, absl::string_view field);

// The ids in the places of `pattern`'s braces. "{x=*}" takes any segment of up to 128 printable
// characters, such as a version; "{x=-}" an id or "-". INVALID_ARGUMENT (NAME_INVALID) for `field`
// shows the pattern.
absl::StatusOr<std::vector<std::string>> ParseName(absl::string_view pattern,
                                                   absl::string_view text,
                                                   absl::string_view field = "name");

}  // namespace graft::rpc
