// Who calls, and what a caller may do.
//
// An Authenticator turns the credentials of a call (bearer token, verified client certificate) into
// an Identity; the server then asks the method's AccessRule. The rules come from the contract's
// method option `access`, so that a method without a rule keeps the server from starting.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace google::protobuf {
class MethodDescriptor;
}  // namespace google::protobuf

namespace graft::rpc {

// Each includes the ones before it. The numbers are graft.v1.Role's.
enum class Role { kNone = 0, kViewer = 1, kUser = 2, kOperator = 3, kAdmin = 4 };
// The numbers are graft.v1.Access.Scope's.
enum class Scope {
  kUnspecified = 0,
  kWorkspace = 1,
  kCluster = 2,
  kAuthenticated = 3,
  kPublic = 4,
  kScheduler = 5,
  kWorker = 6,
};
enum class IdentityKind { kAnonymous, kUser, kScheduler, kWorker };

absl::string_view RoleName(Role role);
absl::StatusOr<Role> ParseRole(absl::string_view name);

// The workspace key under which a role in the whole cluster is held.
inline constexpr absl::string_view kCluster = "*";
// The parent "workspaces/-" of a list. It passes CheckAccess for methods of viewers; the method
// gives what stands in workspaces where the caller's role suffices.
inline constexpr absl::string_view kAnyWorkspace = "-";

// What a worker may touch at the fileservice, for one attempt of one job.
struct Capability {
  std::vector<std::string> read_versions;
  std::string upload_session;  // empty: none
  std::string attempt;
  int64_t epoch = 0;
};

struct Identity {
  IdentityKind kind = IdentityKind::kAnonymous;
  std::string subject;
  std::map<std::string, Role> roles;  // by workspace; kCluster for all
  std::string jti;
  absl::Time expires = absl::InfiniteFuture();
  std::optional<Capability> capability;

  // The better of the role held in `workspace` and that held in the cluster.
  Role RoleIn(absl::string_view workspace) const;
  Role RoleInCluster() const;
};

struct Credentials {
  absl::string_view bearer;             // without "Bearer "; empty: none
  std::vector<std::string> peer_names;  // DNS and URI names of a verified client certificate
};

// Thread-safe; called on every call that is not public.
class Authenticator {
 public:
  virtual ~Authenticator() = default;
  // UNAUTHENTICATED with a reason when the credentials are missing, wrong, expired or revoked.
  virtual absl::StatusOr<std::shared_ptr<const Identity>> Authenticate(
      const Credentials& credentials) = 0;
};

struct AccessRule {
  Scope scope = Scope::kUnspecified;
  Role role = Role::kNone;
  bool capability = false;  // a worker's capability suffices too; the method checks what it covers
};

// The rule in the method's options; FAILED_PRECONDITION names a method that has none.
absl::StatusOr<AccessRule> AccessRuleOf(const google::protobuf::MethodDescriptor& method);

// OK where `identity` satisfies `rule`; `workspace` is that of the resource named by the request
// (empty outside of kWorkspace). A caller without any role in the workspace gets NOT_FOUND, so that
// nobody learns what exists there; too low a role is PERMISSION_DENIED.
absl::Status CheckAccess(const AccessRule& rule, const Identity& identity,
                         absl::string_view workspace);

}  // namespace graft::rpc
