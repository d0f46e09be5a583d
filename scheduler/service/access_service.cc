#include "scheduler/service/access_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/digest.h"
#include "graft/v1/job.pb.h"
#include "rpc/status.h"
#include "scheduler/service/bindings.h"
#include "scheduler/service/lists.h"
#include "scheduler/service/names.h"
#include "scheduler/service/references.h"
#include "scheduler/service/standard.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr absl::Duration kTokenTtl = absl::Hours(24 * 90);
constexpr absl::Duration kLongestTokenTtl = absl::Hours(24 * 366);

std::string UserKey(const std::string& user) { return absl::StrCat("user/", user); }

std::string NewSecret(Random& random) {
  return absl::StrCat("graft_", absl::WebSafeBase64Escape(random.Bytes(32)));
}

std::string OwnId(const rpc::Call& call) {
  const std::string& subject = call.identity->subject;
  return absl::StartsWith(subject, "users/") ? subject.substr(6) : subject;
}

bool IsClusterAdmin(const rpc::Call& call) {
  return call.identity->RoleInCluster() >= rpc::Role::kAdmin;
}

// The user that `name` means to the caller: oneself, or as an admin any.
absl::StatusOr<std::string> MeantUser(const rpc::Call& call, absl::string_view name) {
  if (name == "users/me") return OwnId(call);
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "users/*"));
  if (ids[0] == OwnId(call) || IsClusterAdmin(call)) return ids[0];
  return NoSuchResource(name);
}

// Tokens are read as records without an etag.
absl::StatusOr<v1::Token> ReadToken(const absl::StatusOr<Record>& record, absl::string_view name) {
  if (!record.ok()) return NoSuchResource(name);
  v1::Token token;
  GRAFT_RETURN_IF_ERROR(DecodeResource(record->key, record->value, token));
  return token;
}

// Keeps the token and the way to it from its secret's hash.
void PutToken(Turn& turn, const std::string& user, const std::string& id, const std::string& secret,
              v1::Token& token) {
  token.set_name(absl::StrCat("users/", user, "/tokens/", id));
  *token.mutable_create_time() = ToTimestamp(turn.now());
  if (!token.has_expire_time()) {
    *token.mutable_expire_time() = ToTimestamp(turn.now() + kTokenTtl);
  }
  token.set_hint(secret.substr(6, 4));
  turn.Put(Family::kRecords, absl::StrCat("token/", user, "/", id), EncodeResource(token));
  turn.Put(Family::kRecords, absl::StrCat("token.hash/", Sha256::HexOf(secret)),
           absl::StrCat(user, "/", id));
}

absl::Status SubjectIsFree(Turn& turn, const v1::User& user) {
  if (user.external_subject().empty()) return absl::OkStatus();
  GRAFT_ASSIGN_OR_RETURN(const auto records, turn.List("user/"));
  for (const Record& record : records) {
    v1::User other;
    GRAFT_RETURN_IF_ERROR(DecodeResource(record.key, record.value, other));
    if (other.name() != user.name() && other.external_subject() == user.external_subject()) {
      return ResourceExists(
          absl::StrCat("a user with the external subject ", user.external_subject()));
    }
  }
  return absl::OkStatus();
}

// "w", or "*" for the cluster.
absl::StatusOr<std::string> PlaceOf(const v1::Grant& grant) {
  if (grant.resource() == "cluster") return std::string(rpc::kCluster);
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(grant.resource(), "workspaces/*"));
  return ids[0];
}

// Nobody gives or takes more than he has, and only where he is an admin.
absl::Status MayGive(const rpc::Call& call, const std::string& place) {
  const rpc::Role own = call.identity->RoleIn(place);
  if (own >= rpc::Role::kAdmin) return absl::OkStatus();
  if (own == rpc::Role::kNone) return NoSuchResource(PlaceName(place));
  return rpc::ErrorBuilder(absl::StatusCode::kPermissionDenied,
                           absl::StrCat("giving roles in ", PlaceName(place), " needs admin there"))
      .Reason("ROLE_MISSING")
      .Metadata("role", "admin")
      .Build();
}

// A token that was made for less than its user may do makes none that may do more.
absl::Status MayHandOut(const rpc::Call& call, const std::map<std::string, rpc::Role>& own,
                        const v1::Token& token) {
  std::map<std::string, rpc::Role> given;
  for (const v1::Grant& grant : token.grants()) {
    GRAFT_ASSIGN_OR_RETURN(const std::string place, PlaceOf(grant));
    given[place] = std::max(given[place], static_cast<rpc::Role>(grant.role()));
  }
  for (const auto& [place, role] : token.grants().empty() ? own : given) {
    if (call.identity->RoleIn(place) >= role) continue;
    return rpc::ErrorBuilder(
               absl::StatusCode::kPermissionDenied,
               absl::StrCat("the token of this call is not ", rpc::RoleName(role), " in ",
                            PlaceName(place), "; name grants that it has itself"))
        .Reason("ROLE_MISSING")
        .Field("token.grants", "are more than the caller's own")
        .Build();
  }
  return absl::OkStatus();
}

}  // namespace

rpc::Service AccessService::Bind() {
  rpc::Service service("graft.v1.AccessService");
  service.Async("CreateUser", this, &AccessService::CreateUser)
      .Unary("GetUser", this, &AccessService::GetUser)
      .Unary("ListUsers", this, &AccessService::ListUsers)
      .Async("UpdateUser", this, &AccessService::UpdateUser)
      .Async("DeleteUser", this, &AccessService::DeleteUser)
      .Async("CreateToken", this, &AccessService::CreateToken)
      .Unary("ListTokens", this, &AccessService::ListTokens)
      .Async("RevokeToken", this, &AccessService::RevokeToken)
      .Async("CreateRoleBinding", this, &AccessService::CreateRoleBinding)
      .Unary("ListRoleBindings", this, &AccessService::ListRoleBindings)
      .Async("DeleteRoleBinding", this, &AccessService::DeleteRoleBinding);
  return service;
}

std::string AccessService::Bootstrap(Turn& turn, Random& random) {
  if (Exists(turn, UserKey("admin"))) return "";
  v1::User user;
  user.set_name("users/admin");
  user.set_kind(v1::User::KIND_HUMAN);
  StampNew(user, turn.now(), "", random.Id(24));
  PutResource(turn, UserKey("admin"), user);
  PutBinding(turn, "admin", std::string(rpc::kCluster), rpc::Role::kAdmin);
  const std::string secret = NewSecret(random);
  v1::Token token;
  token.set_description("made at the first start");
  PutToken(turn, "admin", "first", secret, token);
  return secret;
}

// --- Users ---

void AccessService::CreateUser(CallPtr call, const v1::CreateUserRequest& request,
                               rpc::Responder<v1::User> responder) {
  Mutate<v1::User>(
      context_.control, std::move(responder),
      [call, request, uid = context_.random.Id(24)](Turn& turn) -> absl::StatusOr<v1::User> {
        GRAFT_RETURN_IF_ERROR(CheckId(request.user_id(), "user_id"));
        v1::User user = request.user();
        ClearOutputOnly(user);
        user.set_name(absl::StrCat("users/", request.user_id()));
        if (request.user_id() == "me") return ResourceExists(user.name());
        GRAFT_RETURN_IF_ERROR(SubjectIsFree(turn, user));
        return CreateIn(turn, *call, request, UserKey(request.user_id()), user, {.uid = uid});
      });
}

absl::StatusOr<v1::User> AccessService::GetUser(const rpc::Call& call,
                                                const v1::GetUserRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const std::string user, MeantUser(call, request.name()));
  return ReadResource<v1::User>(context_.store, UserKey(user), request.name());
}

absl::StatusOr<v1::ListUsersResponse> AccessService::ListUsers(
    const rpc::Call& call, const v1::ListUsersRequest& request) {
  static const ListFields kFields{
      .filter = {
          {"name"}, {"kind"}, {"email"}, {"external_subject"}, {"disabled"}, {"create_time"}}};
  GRAFT_ASSIGN_OR_RETURN(
      auto page, ListResources<v1::User>(context_.store, context_.page_tokens,
                                         QueryOf(call, request, "user/"), kFields, VisibleToAll));
  v1::ListUsersResponse response;
  for (v1::User& user : page.resources) *response.add_users() = std::move(user);
  response.set_next_page_token(page.next_page_token);
  return response;
}

void AccessService::UpdateUser(CallPtr call, const v1::UpdateUserRequest& request,
                               rpc::Responder<v1::User> responder) {
  Mutate<v1::User>(context_.control, std::move(responder),
                   [call, request](Turn& turn) -> absl::StatusOr<v1::User> {
                     GRAFT_ASSIGN_OR_RETURN(const auto ids,
                                            ParseName(request.user().name(), "users/*"));
                     const auto check = [&](v1::User& user) -> absl::Status {
                       GRAFT_RETURN_IF_ERROR(SubjectIsFree(turn, user));
                       return user.disabled() ? CheckNotLastAdmin(turn, ids[0]) : absl::OkStatus();
                     };
                     return UpdateIn<v1::User>(turn, *call, UserKey(ids[0]), request.user(),
                                               request.update_mask(), check);
                   });
}

void AccessService::DeleteUser(CallPtr call, const v1::DeleteUserRequest& request,
                               rpc::Responder<Empty> responder) {
  Mutate<Empty>(
      context_.control, std::move(responder), [call, request](Turn& turn) -> absl::StatusOr<Empty> {
        GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(request.name(), "users/*"));
        GRAFT_RETURN_IF_ERROR(
            ReadResource<v1::User>(turn, UserKey(ids[0]), request.name()).status());
        GRAFT_RETURN_IF_ERROR(CheckNotLastAdmin(turn, ids[0]));
        const auto jobs =
            LiveJobsThat(turn, [&](const v1::Job& job) { return job.creator() == request.name(); });
        if (!jobs.empty()) return InUse(request.name(), jobs);
        GRAFT_RETURN_IF_ERROR(
            DeleteIn<v1::User>(turn, *call, UserKey(ids[0]), request.name(), request.etag())
                .status());
        GRAFT_ASSIGN_OR_RETURN(const auto tokens, turn.List(absl::StrCat("token/", ids[0], "/")));
        for (const Record& token : tokens) turn.Remove(Family::kRecords, token.key);
        const std::string prefix = absl::StrCat("binding/", ids[0], "/");
        GRAFT_ASSIGN_OR_RETURN(const auto bindings, turn.List(prefix));
        for (const Record& binding : bindings) {
          RemoveBinding(turn, ids[0], binding.key.substr(prefix.size()));
        }
        return Empty();
      });
}

// --- Tokens ---

void AccessService::CreateToken(CallPtr call, const v1::CreateTokenRequest& request,
                                rpc::Responder<v1::CreateTokenResponse> responder) {
  const absl::StatusOr<std::string> user = MeantUser(*call, request.parent());
  if (!user.ok()) return responder.Answer(user.status());
  const std::string id = request.token_id().empty() ? context_.random.Id(8) : request.token_id();
  const std::string secret = NewSecret(context_.random);
  Mutate<v1::CreateTokenResponse>(
      context_.control, std::move(responder),
      [=, this, user = *user](Turn& turn) -> absl::StatusOr<v1::CreateTokenResponse> {
        GRAFT_RETURN_IF_ERROR(CheckId(id, "token_id"));
        if (!Exists(turn, UserKey(user))) return NoSuchResource(request.parent());
        GRAFT_ASSIGN_OR_RETURN(const auto own, RolesOf(context_.store, user, turn.now()));
        GRAFT_RETURN_IF_ERROR(MayHandOut(*call, own, request.token()));
        if (Exists(turn, absl::StrCat("token/", user, "/", id))) {
          return ResourceExists(absl::StrCat("users/", user, "/tokens/", id));
        }
        const absl::Time expires = FromTimestamp(request.token().expire_time());
        const bool bad = request.token().has_expire_time() &&
                         (expires <= turn.now() || expires > turn.now() + kLongestTokenTtl);
        if (bad) {
          return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                                   "token.expire_time must lie ahead, by 366 days at most")
              .Reason("FIELD_INVALID")
              .Field("token.expire_time", "is out of bounds")
              .Build();
        }
        v1::CreateTokenResponse response;
        *response.mutable_token() = request.token();
        ClearOutputOnly(*response.mutable_token());
        PutToken(turn, user, id, secret, *response.mutable_token());
        response.set_secret(secret);
        AuditCall(turn, *call, response.token().name());
        return response;
      });
}

absl::StatusOr<v1::ListTokensResponse> AccessService::ListTokens(
    const rpc::Call& call, const v1::ListTokensRequest& request) {
  ListQuery query = QueryOf(call, request, "token/");
  if (request.parent() == "users/-") {
    if (!IsClusterAdmin(call)) return NoSuchResource(request.parent());
  } else {
    GRAFT_ASSIGN_OR_RETURN(const std::string user, MeantUser(call, request.parent()));
    absl::StrAppend(&query.prefix, user, "/");
  }
  static const ListFields kFields{.order = {"create_time"}};
  query.order_by = "create_time desc";
  GRAFT_ASSIGN_OR_RETURN(
      auto page, ListLoaded<v1::Token>(context_.store, context_.page_tokens, query, kFields,
                                       [](const Record& record) -> absl::StatusOr<MessagePtr> {
                                         GRAFT_ASSIGN_OR_RETURN(v1::Token token,
                                                                ReadToken(record, ""));
                                         return std::make_unique<v1::Token>(std::move(token));
                                       }));
  v1::ListTokensResponse response;
  for (v1::Token& token : page.resources) *response.add_tokens() = std::move(token);
  response.set_next_page_token(page.next_page_token);
  return response;
}

void AccessService::RevokeToken(CallPtr call, const v1::RevokeTokenRequest& request,
                                rpc::Responder<v1::Token> responder) {
  const std::string& name = request.name();
  const absl::StatusOr<std::string> user = MeantUser(*call, name.substr(0, name.find("/tokens/")));
  if (!user.ok()) return responder.Answer(user.status());
  Mutate<v1::Token>(
      context_.control, std::move(responder),
      [call, name, user = *user](Turn& turn) -> absl::StatusOr<v1::Token> {
        const std::string key = absl::StrCat("token/", user, "/", name.substr(name.rfind('/') + 1));
        GRAFT_ASSIGN_OR_RETURN(v1::Token token, ReadToken(turn.Get(Family::kRecords, key), name));
        if (token.has_revoke_time()) return token;
        *token.mutable_revoke_time() = ToTimestamp(turn.now());
        turn.Put(Family::kRecords, key, EncodeResource(token));
        AuditCall(turn, *call, token.name());
        return token;
      });
}

// --- Roles ---

void AccessService::CreateRoleBinding(CallPtr call, const v1::CreateRoleBindingRequest& request,
                                      rpc::Responder<v1::RoleBinding> responder) {
  Mutate<v1::RoleBinding>(
      context_.control, std::move(responder),
      [call, request](Turn& turn) -> absl::StatusOr<v1::RoleBinding> {
        const v1::RoleBinding& sent = request.role_binding();
        if (absl::StartsWith(sent.member(), "group:")) {
          return rpc::FeatureUnavailable("oidc",
                                         "groups of an OIDC provider are not in this build");
        }
        GRAFT_ASSIGN_OR_RETURN(const auto user, ParseName(sent.member(), "users/*"));
        GRAFT_ASSIGN_OR_RETURN(const std::string place, PlaceOf(sent.grant()));
        GRAFT_RETURN_IF_ERROR(MayGive(*call, place));
        const int role = sent.grant().role();
        if (role < v1::ROLE_VIEWER || role > v1::ROLE_ADMIN) {
          return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument,
                                   "role_binding.grant.role is none")
              .Reason("FIELD_REQUIRED")
              .Field("role_binding.grant.role", "is missing")
              .Build();
        }
        if (!request.role_binding_id().empty()) {
          GRAFT_RETURN_IF_ERROR(CheckId(request.role_binding_id(), "role_binding_id"));
        }
        v1::RoleBinding binding;
        GRAFT_ASSIGN_OR_RETURN(const bool replayed,
                               Replay(turn, call->identity->subject, call->method,
                                      request.request_id(), request, binding));
        if (replayed) return binding;
        if (!Exists(turn, UserKey(user[0]))) return NoSuchResource(sent.member());
        if (place != rpc::kCluster) GRAFT_RETURN_IF_ERROR(CheckWorkspaceOpen(turn, place));
        if (Exists(turn, absl::StrCat("binding/", user[0], "/", place)) ||
            (!request.role_binding_id().empty() &&
             Exists(turn, absl::StrCat("binding.name/", request.role_binding_id())))) {
          return ResourceExists(
              absl::StrCat("a role of ", sent.member(), " in ", sent.grant().resource()));
        }
        binding = PutBinding(
            turn, user[0], place, static_cast<rpc::Role>(role), request.role_binding_id(),
            sent.has_expire_time() ? FromTimestamp(sent.expire_time()) : absl::InfiniteFuture());
        RememberRequest(turn, call->identity->subject, call->method, request.request_id(), request,
                        binding);
        AuditCall(turn, *call, binding.name(), v1::Role_Name(binding.grant().role()));
        return binding;
      });
}

absl::StatusOr<v1::ListRoleBindingsResponse> AccessService::ListRoleBindings(
    const rpc::Call& call, const v1::ListRoleBindingsRequest& request) {
  static const ListFields kFields{.filter = {{"member"}, {"grant.resource"}, {"grant.role"}},
                                  .order = {"name"}};
  ListQuery query = QueryOf(call, request, "binding/");
  query.order_by = "name";
  // One's own, and those of places where one is an admin.
  const auto load = [&](const Record& record) -> absl::StatusOr<MessagePtr> {
    const std::vector<std::string> parts = absl::StrSplit(record.key, '/');
    const bool visible =
        parts[1] == OwnId(call) || call.identity->RoleIn(parts[2]) >= rpc::Role::kAdmin;
    if (!visible) return nullptr;
    GRAFT_ASSIGN_OR_RETURN(v1::RoleBinding binding, DecodeBinding(record));
    return std::make_unique<v1::RoleBinding>(std::move(binding));
  };
  GRAFT_ASSIGN_OR_RETURN(
      auto page,
      ListLoaded<v1::RoleBinding>(context_.store, context_.page_tokens, query, kFields, load));
  v1::ListRoleBindingsResponse response;
  for (v1::RoleBinding& one : page.resources) *response.add_role_bindings() = std::move(one);
  response.set_next_page_token(page.next_page_token);
  return response;
}

void AccessService::DeleteRoleBinding(CallPtr call, const v1::DeleteRoleBindingRequest& request,
                                      rpc::Responder<Empty> responder) {
  Mutate<Empty>(
      context_.control, std::move(responder), [call, request](Turn& turn) -> absl::StatusOr<Empty> {
        const std::string& name = request.name();
        GRAFT_RETURN_IF_ERROR(ParseName(name, "roleBindings/*").status());
        const auto way = turn.Get(Family::kRecords,
                                  absl::StrCat("binding.name/", name.substr(name.find('/') + 1)));
        if (!way.ok()) return NoSuchResource(name);
        const std::pair<std::string, std::string> parts =
            absl::StrSplit(way->value, absl::MaxSplits('/', 1));
        const absl::Status may = MayGive(*call, parts.second);
        if (!may.ok()) return absl::IsNotFound(may) ? NoSuchResource(name) : may;
        GRAFT_ASSIGN_OR_RETURN(const Record record,
                               turn.Get(Family::kRecords, absl::StrCat("binding/", way->value)));
        GRAFT_ASSIGN_OR_RETURN(const v1::RoleBinding binding, DecodeBinding(record));
        GRAFT_RETURN_IF_ERROR(CheckEtag(name, request.etag(), binding.etag()));
        if (parts.second == rpc::kCluster && binding.grant().role() == v1::ROLE_ADMIN) {
          GRAFT_RETURN_IF_ERROR(CheckNotLastAdmin(turn, parts.first));
        }
        RemoveBinding(turn, parts.first, parts.second);
        AuditCall(turn, *call, name);
        return Empty();
      });
}

}  // namespace graft::scheduler
