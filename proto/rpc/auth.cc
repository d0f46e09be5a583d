#include "rpc/auth.h"

#include <algorithm>
#include <array>

#include "absl/strings/str_cat.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/descriptor.pb.h"
#include "google/protobuf/unknown_field_set.h"
#include "rpc/status.h"

namespace graft::rpc {
namespace {

constexpr std::array<absl::string_view, 5> kRoleNames = {"none", "viewer", "user", "operator",
                                                         "admin"};
// graft.v1.access, read by its number so that this library needs no generated API.
constexpr int kAccessOption = 50602;
constexpr int kScopeField = 1;
constexpr int kRoleField = 2;
constexpr int kCapabilityField = 3;

absl::Status Denied(absl::string_view what) {
  return ErrorBuilder(absl::StatusCode::kPermissionDenied, what).Reason("ROLE_MISSING").Build();
}

absl::Status CheckRole(const AccessRule& rule, Role held, absl::string_view where) {
  if (held >= rule.role) return absl::OkStatus();
  return Denied(absl::StrCat("this needs the role ", RoleName(rule.role), " in ", where,
                             "; yours is ", RoleName(held), "; ask an administrator for it"));
}

absl::Status CheckWorkspace(const AccessRule& rule, const Identity& identity,
                            absl::string_view workspace) {
  if (workspace == kAnyWorkspace && rule.role == Role::kViewer) return absl::OkStatus();
  const Role held = identity.RoleIn(workspace);
  if (held == Role::kNone && rule.role != Role::kNone) {
    return ErrorBuilder(absl::StatusCode::kNotFound,
                        absl::StrCat("workspace '", workspace, "' was not found"))
        .Reason("RESOURCE_NOT_FOUND")
        .Build();
  }
  return CheckRole(rule, held, absl::StrCat("workspace '", workspace, "'"));
}

}  // namespace

absl::string_view RoleName(Role role) { return kRoleNames[static_cast<size_t>(role)]; }

absl::StatusOr<Role> ParseRole(absl::string_view name) {
  for (size_t i = 0; i < kRoleNames.size(); ++i) {
    if (name == kRoleNames[i]) return static_cast<Role>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("'", name, "' is no role; roles are viewer, user, operator and admin"));
}

Role Identity::RoleIn(absl::string_view workspace) const {
  const auto it = roles.find(std::string(workspace));
  return std::max(it == roles.end() ? Role::kNone : it->second, RoleInCluster());
}

Role Identity::RoleInCluster() const {
  const auto it = roles.find(std::string(kCluster));
  return it == roles.end() ? Role::kNone : it->second;
}

absl::StatusOr<AccessRule> AccessRuleOf(const google::protobuf::MethodDescriptor& method) {
  google::protobuf::UnknownFieldSet options, access;
  AccessRule rule;
  if (options.ParseFromString(method.options().SerializeAsString())) {
    for (int i = 0; i < options.field_count(); ++i) {
      const auto& field = options.field(i);
      if (field.number() != kAccessOption ||
          field.type() != google::protobuf::UnknownField::TYPE_LENGTH_DELIMITED) {
        continue;
      }
      if (!access.ParseFromString(field.length_delimited())) access.Clear();
    }
  }
  for (int i = 0; i < access.field_count(); ++i) {
    const auto& field = access.field(i);
    if (field.type() != google::protobuf::UnknownField::TYPE_VARINT) continue;
    const uint64_t value = field.varint();
    if (field.number() == kScopeField && value <= static_cast<uint64_t>(Scope::kWorker)) {
      rule.scope = static_cast<Scope>(value);
    } else if (field.number() == kRoleField && value <= static_cast<uint64_t>(Role::kAdmin)) {
      rule.role = static_cast<Role>(value);
    } else if (field.number() == kCapabilityField) {
      rule.capability = value != 0;
    }
  }
  const bool needs_role = rule.scope == Scope::kWorkspace || rule.scope == Scope::kCluster;
  if (rule.scope == Scope::kUnspecified || (needs_role && rule.role == Role::kNone)) {
    return absl::FailedPreconditionError(
        absl::StrCat("method ", method.full_name(),
                     " has no access rule; give it an `access` option with a scope and a role"));
  }
  return rule;
}

absl::Status CheckAccess(const AccessRule& rule, const Identity& identity,
                         absl::string_view workspace) {
  if (rule.scope == Scope::kPublic) return absl::OkStatus();
  if (identity.kind == IdentityKind::kAnonymous) {
    return ErrorBuilder(absl::StatusCode::kUnauthenticated,
                        "this call needs a token; `graft context list` shows which one is used")
        .Reason("CREDENTIALS_MISSING")
        .Build();
  }
  if (rule.capability && identity.capability.has_value()) return absl::OkStatus();
  switch (rule.scope) {
    case Scope::kWorkspace:
      return CheckWorkspace(rule, identity, workspace);
    case Scope::kCluster:
      return CheckRole(rule, identity.RoleInCluster(), "the cluster");
    case Scope::kAuthenticated:
      return absl::OkStatus();
    case Scope::kScheduler:
      if (identity.kind == IdentityKind::kScheduler) return absl::OkStatus();
      return Denied("only the scheduler may call this");
    case Scope::kWorker:
      if (identity.kind == IdentityKind::kWorker) return absl::OkStatus();
      return Denied("only a worker may call this");
    case Scope::kPublic:
    case Scope::kUnspecified:
      break;
  }
  return Denied("this method has no access rule");
}

}  // namespace graft::rpc
