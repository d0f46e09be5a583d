#include "fileservice/service/access.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

absl::Status NotCovered(absl::string_view resource) {
  return rpc::ErrorBuilder(absl::StatusCode::kPermissionDenied,
                           absl::StrCat("the capability does not cover ", resource))
      .Reason("CAPABILITY_INSUFFICIENT")
      .Metadata("resource", resource)
      .Build();
}

}  // namespace

std::string SessionName(const SessionRecord& session) {
  return absl::StrCat(FilesetName{session.workspace, session.fileset}.ToString(), "/uploads/",
                      session.id);
}

bool MayRead(const rpc::Call& call, const std::string& workspace) {
  return call.identity->RoleIn(workspace) >= rpc::Role::kViewer ||
         call.identity->kind == rpc::IdentityKind::kScheduler;
}

absl::StatusOr<ResolvedVersion> ReadableVersion(const Catalog& catalog, const rpc::Call& call,
                                                absl::string_view name) {
  GRAFT_ASSIGN_OR_RETURN(const ChildName child, ParseChildName(name, "versions"));
  GRAFT_RETURN_IF_ERROR(call.CheckWorkspace(child.fileset.workspace));
  GRAFT_ASSIGN_OR_RETURN(ResolvedVersion version, catalog.Resolve(child.fileset, child.id));
  if (call.identity->capability.has_value()) {
    const auto& covered = call.identity->capability->read_versions;
    if (std::find(covered.begin(), covered.end(), version.name()) == covered.end()) {
      return NotCovered(name);
    }
  }
  return version;
}

absl::StatusOr<SessionRecord> KnownSession(const Catalog& catalog, const rpc::Call& call,
                                           absl::string_view name) {
  GRAFT_ASSIGN_OR_RETURN(const ChildName child, ParseChildName(name, "uploads"));
  GRAFT_RETURN_IF_ERROR(call.CheckWorkspace(child.fileset.workspace));
  if (call.identity->capability.has_value() && call.identity->capability->upload_session != name) {
    return NotCovered(name);
  }
  GRAFT_ASSIGN_OR_RETURN(SessionRecord session, catalog.GetSession(child.id));
  if (session.workspace != child.fileset.workspace || session.fileset != child.fileset.fileset) {
    return NotFoundNamed(name);
  }
  return session;
}

absl::StatusOr<SessionRecord> UsableSession(Catalog& catalog, const rpc::Call& call,
                                            absl::string_view name) {
  GRAFT_ASSIGN_OR_RETURN(const SessionRecord session, KnownSession(catalog, call, name));
  return catalog.UseSession(session.id);
}

absl::Status CheckFence(const rpc::Call& call, const SessionRecord& session) {
  if (!session.fenced || call.identity->kind == rpc::IdentityKind::kScheduler) {
    return absl::OkStatus();
  }
  return rpc::ErrorBuilder(
             absl::StatusCode::kFailedPrecondition,
             absl::StrCat("only the scheduler publishes or aborts session ", session.id))
      .Reason("SESSION_FENCED")
      .Metadata("session", session.id)
      .Build();
}

}  // namespace graft::fileservice
