#include "scheduler/service/auth_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/digest.h"
#include "rpc/status.h"
#include "scheduler/service/names.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr absl::Duration kAccessTokenTtl = absl::Minutes(10);
constexpr absl::Duration kTokenTtl = absl::Hours(24 * 90);

absl::Status BadToken(absl::string_view reason, absl::string_view message) {
  return rpc::ErrorBuilder(absl::StatusCode::kUnauthenticated, message).Reason(reason).Build();
}

std::string NewSecret(Random& random) {
  return absl::StrCat("graft_", absl::WebSafeBase64Escape(random.Bytes(32)));
}

std::string UserOf(absl::string_view subject) {
  return std::string(absl::StartsWith(subject, "users/") ? subject.substr(6) : subject);
}

// The user that `name` means to the caller: oneself, or as an admin any.
absl::StatusOr<std::string> MeantUser(const rpc::Call& call, absl::string_view name) {
  const std::string me = UserOf(call.identity->subject);
  if (name == "users/me") return me;
  GRAFT_ASSIGN_OR_RETURN(const auto ids, ParseName(name, "users/*"));
  if (ids[0] == me || call.identity->RoleInCluster() >= rpc::Role::kAdmin) return ids[0];
  return NoSuchResource(name);
}

// Tokens read as records have no etag.
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

}  // namespace

SchedulerAuthenticator::SchedulerAuthenticator(Clock& clock, const rpc::TokenSigner& signer,
                                               bool open)
    : verifier_(clock, {.issuer = std::string(kTokenIssuer),
                        .audiences = {"graft"},
                        .keys = {signer.public_key()}}) {
  if (!open) return;
  auto local = std::make_shared<rpc::Identity>();
  local->kind = rpc::IdentityKind::kUser;
  local->subject = "users/admin";
  local->roles[std::string(rpc::kCluster)] = rpc::Role::kAdmin;
  local_ = std::move(local);
}

absl::StatusOr<std::shared_ptr<const rpc::Identity>> SchedulerAuthenticator::Authenticate(
    const rpc::Credentials& credentials) {
  if (local_ != nullptr && credentials.bearer.empty()) return local_;
  return verifier_.Authenticate(credentials);
}

std::vector<rpc::Service> AuthService::Bind() {
  std::vector<rpc::Service> services;
  services.emplace_back("graft.v1.AuthService")
      .Unary("Exchange", this, &AuthService::Exchange)
      .Unary("GetPublicKeys", this, &AuthService::GetPublicKeys)
      .Unary("WhoAmI", this, &AuthService::WhoAmI);
  services.emplace_back("graft.v1.AccessService")
      .Async("CreateUser", this, &AuthService::CreateUser)
      .Unary("GetUser", this, &AuthService::GetUser)
      .Async("CreateToken", this, &AuthService::CreateToken)
      .Async("RevokeToken", this, &AuthService::RevokeToken)
      .Async("CreateRoleBinding", this, &AuthService::CreateRoleBinding);
  return services;
}

std::string AuthService::Bootstrap(Turn& turn, Random& random) {
  if (Exists(turn, "user/admin")) return "";
  v1::User user;
  user.set_name("users/admin");
  user.set_uid(random.Id(24));
  user.set_kind(v1::User::KIND_HUMAN);
  *user.mutable_create_time() = ToTimestamp(turn.now());
  PutResource(turn, "user/admin", user);
  turn.Put(Family::kRecords, absl::StrCat("binding/admin/", rpc::kCluster),
           absl::StrCat(static_cast<int>(rpc::Role::kAdmin)));
  const std::string secret = NewSecret(random);
  v1::Token token;
  token.set_description("made at the first start");
  PutToken(turn, "admin", "first", secret, token);
  return secret;
}

absl::StatusOr<v1::ExchangeResponse> AuthService::Exchange(const rpc::Call&,
                                                           const v1::ExchangeRequest& request) {
  if (request.credential_case() == v1::ExchangeRequest::kOidcToken) {
    return rpc::ErrorBuilder(absl::StatusCode::kUnimplemented, "OIDC is not in this build")
        .Reason("FEATURE_UNAVAILABLE")
        .Metadata("feature", "oidc")
        .Build();
  }
  if (request.token().empty()) {
    return BadToken("CREDENTIALS_MISSING",
                    "no token was sent; `graft context list` shows which one is used");
  }
  const absl::StatusOr<Record> way = context_.store.Get(
      Family::kRecords, absl::StrCat("token.hash/", Sha256::HexOf(request.token())));
  if (!way.ok()) return BadToken("TOKEN_INVALID", "the token is unknown");
  const std::string user = way->value.substr(0, way->value.find('/'));
  GRAFT_ASSIGN_OR_RETURN(
      const v1::Token token,
      ReadToken(context_.store.Get(Family::kRecords, absl::StrCat("token/", way->value)), "token"));
  if (token.has_revoke_time()) return BadToken("TOKEN_INVALID", "the token was revoked");
  const absl::Time now = context_.clock.WallNow();
  if (FromTimestamp(token.expire_time()) <= now) {
    return BadToken("TOKEN_EXPIRED", "the token has expired; ask an administrator for another");
  }
  GRAFT_ASSIGN_OR_RETURN(const v1::User body,
                         ReadResource<v1::User>(context_.store, absl::StrCat("user/", user),
                                                absl::StrCat("users/", user)));
  if (body.disabled()) {
    return absl::PermissionDeniedError(absl::StrCat("users/", user, " is disabled"));
  }
  rpc::TokenClaims claims{.issuer = std::string(kTokenIssuer),
                          .audience = "graft",
                          .subject = absl::StrCat("users/", user),
                          .jti = context_.random.Id(),
                          .expires = now + kAccessTokenTtl};
  const std::string prefix = absl::StrCat("binding/", user, "/");
  GRAFT_ASSIGN_OR_RETURN(const ListResult bindings, context_.store.List({.prefix = prefix}));
  for (const Record& binding : bindings.records) {
    int role = 0;
    if (!absl::SimpleAtoi(binding.value, &role)) continue;
    claims.roles[binding.key.substr(prefix.size())] = static_cast<rpc::Role>(role);
  }
  for (const v1::Grant& grant : token.grants()) {
    // A token with grants has those alone, and none above its user's own.
    if (&grant == &token.grants(0)) claims.roles.clear();
    const std::string place = grant.resource() == "cluster"
                                  ? std::string(rpc::kCluster)
                                  : grant.resource().substr(grant.resource().find('/') + 1);
    int own = 0;
    for (const Record& binding : bindings.records) {
      const std::string at = binding.key.substr(prefix.size());
      int role = 0;
      if ((at == place || at == rpc::kCluster) && absl::SimpleAtoi(binding.value, &role)) {
        own = std::max(own, role);
      }
    }
    claims.roles[place] = static_cast<rpc::Role>(std::min(own, static_cast<int>(grant.role())));
  }
  v1::ExchangeResponse response;
  GRAFT_ASSIGN_OR_RETURN(*response.mutable_access_token(), signer_.Sign(claims));
  *response.mutable_expire_time() = ToTimestamp(claims.expires);
  return response;
}

absl::StatusOr<v1::GetPublicKeysResponse> AuthService::GetPublicKeys(
    const rpc::Call&, const v1::GetPublicKeysRequest&) {
  v1::GetPublicKeysResponse response;
  v1::PublicKey& key = *response.add_keys();
  key.set_key_id(signer_.public_key().id);
  key.set_key(signer_.public_key().raw);
  response.mutable_max_age()->set_seconds(300);
  response.set_issuer(std::string(kTokenIssuer));
  return response;
}

absl::StatusOr<v1::WhoAmIResponse> AuthService::WhoAmI(const rpc::Call& call,
                                                       const v1::WhoAmIRequest&) {
  v1::WhoAmIResponse response;
  response.set_subject(call.identity->subject);
  for (const auto& [place, role] : call.identity->roles) {
    v1::Grant& grant = *response.add_grants();
    grant.set_resource(place == rpc::kCluster ? "cluster" : absl::StrCat("workspaces/", place));
    grant.set_role(static_cast<v1::Role>(role));
  }
  if (call.identity->expires != absl::InfiniteFuture()) {
    *response.mutable_expire_time() = ToTimestamp(call.identity->expires);
  }
  return response;
}

void AuthService::CreateUser(CallPtr call, const v1::CreateUserRequest& request,
                             rpc::Responder<v1::User> responder) {
  Mutate<v1::User>(
      context_.control, std::move(responder),
      [call, request, uid = context_.random.Id(24)](Turn& turn) -> absl::StatusOr<v1::User> {
        GRAFT_RETURN_IF_ERROR(CheckId(request.user_id(), "user_id"));
        v1::User user = request.user();
        GRAFT_ASSIGN_OR_RETURN(const bool replayed,
                               Replay(turn, call->identity->subject, call->method,
                                      request.request_id(), request, user));
        if (replayed) return user;
        user.set_name(absl::StrCat("users/", request.user_id()));
        const std::string key = absl::StrCat("user/", request.user_id());
        if (Exists(turn, key) || request.user_id() == "me") return ResourceExists(user.name());
        user.set_uid(uid);
        *user.mutable_create_time() = ToTimestamp(turn.now());
        PutResource(turn, key, user);
        RememberRequest(turn, call->identity->subject, call->method, request.request_id(), request,
                        user);
        AuditCall(turn, *call, user.name());
        return user;
      });
}

absl::StatusOr<v1::User> AuthService::GetUser(const rpc::Call& call,
                                              const v1::GetUserRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const std::string user, MeantUser(call, request.name()));
  return ReadResource<v1::User>(context_.store, absl::StrCat("user/", user), request.name());
}

void AuthService::CreateToken(CallPtr call, const v1::CreateTokenRequest& request,
                              rpc::Responder<v1::CreateTokenResponse> responder) {
  const absl::StatusOr<std::string> user = MeantUser(*call, request.parent());
  if (!user.ok()) return responder.Answer(user.status());
  const std::string id = request.token_id().empty() ? context_.random.Id(8) : request.token_id();
  const std::string secret = NewSecret(context_.random);
  Mutate<v1::CreateTokenResponse>(
      context_.control, std::move(responder),
      [=, user = *user](Turn& turn) -> absl::StatusOr<v1::CreateTokenResponse> {
        GRAFT_RETURN_IF_ERROR(CheckId(id, "token_id"));
        if (!Exists(turn, absl::StrCat("user/", user))) return NoSuchResource(request.parent());
        if (Exists(turn, absl::StrCat("token/", user, "/", id))) {
          return ResourceExists(absl::StrCat("users/", user, "/tokens/", id));
        }
        v1::CreateTokenResponse response;
        *response.mutable_token() = request.token();
        PutToken(turn, user, id, secret, *response.mutable_token());
        response.set_secret(secret);
        AuditCall(turn, *call, response.token().name());
        return response;
      });
}

void AuthService::RevokeToken(CallPtr call, const v1::RevokeTokenRequest& request,
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
        AuditCall(turn, *call, name);
        return token;
      });
}

void AuthService::CreateRoleBinding(CallPtr call, const v1::CreateRoleBindingRequest& request,
                                    rpc::Responder<v1::RoleBinding> responder) {
  const v1::Grant& grant = request.role_binding().grant();
  const bool cluster = grant.resource() == "cluster";
  const auto user = ParseName(request.role_binding().member(), "users/*");
  if (!user.ok()) return responder.Answer(user.status());
  const auto workspace = ParseName(grant.resource(), "workspaces/*");
  if (!cluster && !workspace.ok()) return responder.Answer(workspace.status());
  const std::string place = cluster ? std::string(rpc::kCluster) : (*workspace)[0];
  // Nobody gives more than he has, and only where he is an admin.
  const rpc::Role own = cluster ? call->identity->RoleInCluster() : call->identity->RoleIn(place);
  if (own < rpc::Role::kAdmin) {
    return responder.Answer(
        own == rpc::Role::kNone
            ? NoSuchResource(grant.resource())
            : rpc::ErrorBuilder(absl::StatusCode::kPermissionDenied,
                                absl::StrCat("giving roles in ", grant.resource(), " needs admin"))
                  .Reason("ROLE_MISSING")
                  .Metadata("role", "admin")
                  .Build());
  }
  Mutate<v1::RoleBinding>(
      context_.control, std::move(responder),
      [=, user = (*user)[0]](Turn& turn) -> absl::StatusOr<v1::RoleBinding> {
        if (!Exists(turn, absl::StrCat("user/", user))) {
          return NoSuchResource(absl::StrCat("users/", user));
        }
        v1::RoleBinding binding = request.role_binding();
        binding.set_name(absl::StrCat("roleBindings/", user, "-", cluster ? "cluster" : place));
        *binding.mutable_create_time() = ToTimestamp(turn.now());
        const std::string key = absl::StrCat("binding/", user, "/", place);
        if (Exists(turn, key)) return ResourceExists(binding.name());
        turn.Put(Family::kRecords, key, absl::StrCat(static_cast<int>(binding.grant().role())));
        AuditCall(turn, *call, binding.name(), v1::Role_Name(binding.grant().role()));
        return binding;
      });
}

}  // namespace graft::scheduler
