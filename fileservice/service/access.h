// What a caller may touch beyond the method's own rule: a worker's capability names the versions
// that it may read and the one session that it may fill.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "fileservice/catalog/catalog.h"
#include "rpc/call.h"

namespace graft::fileservice {

std::string SessionName(const SessionRecord& session);

// Whether the caller may see what is in the workspace.
bool MayRead(const rpc::Call& call, const std::string& workspace);
// The version that `name` means, if the caller may read it. NOT_FOUND hides what it may not know.
absl::StatusOr<ResolvedVersion> ReadableVersion(const Catalog& catalog, const rpc::Call& call,
                                                absl::string_view name);
// The open session of this full name, if the caller may use it.
absl::StatusOr<SessionRecord> UsableSession(Catalog& catalog, const rpc::Call& call,
                                            absl::string_view name);
// The same, whatever its state.
absl::StatusOr<SessionRecord> KnownSession(const Catalog& catalog, const rpc::Call& call,
                                           absl::string_view name);
// FAILED_PRECONDITION (SESSION_FENCED) where only the scheduler may go on.
absl::Status CheckFence(const rpc::Call& call, const SessionRecord& session);

}  // namespace graft::fileservice
