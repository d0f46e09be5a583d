#include "scheduler/service/auth_service.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/digest.h"
#include "rpc/status.h"
#include "scheduler/service/bindings.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

constexpr absl::Duration kAccessTokenTtl = absl::Minutes(10);
constexpr size_t kMostRemembered = 100'000;

absl::Status BadToken(absl::string_view reason, absl::string_view message) {
  return rpc::ErrorBuilder(absl::StatusCode::kUnauthenticated, message).Reason(reason).Build();
}

// Tokens are read as records without an etag.
absl::StatusOr<v1::Token> TokenOf(const Store& store, const std::string& way) {
  GRAFT_ASSIGN_OR_RETURN(const Record record,
                         store.Get(Family::kRecords, absl::StrCat("token/", way)));
  v1::Token token;
  GRAFT_RETURN_IF_ERROR(DecodeResource(record.key, record.value, token));
  return token;
}

// The roles that a token's bearer has: those of its user, within the token's grants.
std::map<std::string, rpc::Role> Bounded(const std::map<std::string, rpc::Role>& own,
                                         const v1::Token& token) {
  if (token.grants().empty()) return own;
  std::map<std::string, rpc::Role> roles;
  const auto held = [&](const std::string& place) {
    const auto it = own.find(place);
    return it == own.end() ? rpc::Role::kNone : it->second;
  };
  for (const v1::Grant& grant : token.grants()) {
    const std::string cluster(rpc::kCluster);
    const std::string place = grant.resource() == "cluster"
                                  ? cluster
                                  : grant.resource().substr(grant.resource().find('/') + 1);
    roles[place] =
        std::min(std::max(held(place), held(cluster)), static_cast<rpc::Role>(grant.role()));
  }
  return roles;
}

// The roles that the opaque token "user/id" gives now.
absl::StatusOr<std::map<std::string, rpc::Role>> RolesOfToken(const Store& store,
                                                              const std::string& way,
                                                              absl::Time now) {
  const std::string user = way.substr(0, way.find('/'));
  const absl::StatusOr<v1::Token> found = TokenOf(store, way);
  if (!found.ok()) return BadToken("TOKEN_INVALID", "the token's user is gone");
  if (found->has_revoke_time()) return BadToken("TOKEN_INVALID", "the token was revoked");
  if (FromTimestamp(found->expire_time()) <= now) {
    return BadToken("TOKEN_EXPIRED", "the token has expired; ask an administrator for another");
  }
  GRAFT_ASSIGN_OR_RETURN(
      const v1::User body,
      ReadResource<v1::User>(store, absl::StrCat("user/", user), absl::StrCat("users/", user)));
  if (body.disabled()) {
    return absl::PermissionDeniedError(absl::StrCat("users/", user, " is disabled"));
  }
  GRAFT_ASSIGN_OR_RETURN(const auto own, RolesOf(store, user, now));
  return Bounded(own, *found);
}

// Of an access token's id, which is "user/id/" and what is drawn: the opaque token that it was
// exchanged for. Empty: of none.
std::string WayOf(absl::string_view jti) {
  const size_t end = jti.rfind('/');
  return end == absl::string_view::npos ? "" : std::string(jti.substr(0, end));
}

}  // namespace

SchedulerAuthenticator::SchedulerAuthenticator(Clock& clock, const rpc::TokenSigner& signer,
                                               const Store& store, Options options)
    : clock_(clock),
      store_(store),
      access_changes_(*options.access_changes),
      verifier_(clock, {.issuer = std::string(kTokenIssuer),
                        .audiences = {"graft"},
                        .keys = {signer.public_key()}}) {
  if (!options.open) return;
  auto local = std::make_shared<rpc::Identity>();
  local->kind = rpc::IdentityKind::kUser;
  local->subject = "users/admin";
  local->roles[std::string(rpc::kCluster)] = rpc::Role::kAdmin;
  local_ = std::move(local);
}

absl::StatusOr<std::shared_ptr<const rpc::Identity>> SchedulerAuthenticator::Authenticate(
    const rpc::Credentials& credentials) {
  if (local_ != nullptr && credentials.bearer.empty()) return local_;
  GRAFT_ASSIGN_OR_RETURN(auto identity, verifier_.Authenticate(credentials));
  GRAFT_RETURN_IF_ERROR(CheckStands(*identity));
  return identity;
}

absl::Status SchedulerAuthenticator::CheckStands(const rpc::Identity& identity) {
  const std::string way = WayOf(identity.jti);
  if (way.empty()) return absl::OkStatus();
  const uint64_t changes = access_changes_;  // before the store is read
  {
    MutexLock lock(mu_);
    const auto it = stands_.find(identity.jti);
    if (it != stands_.end() && it->second == changes) return absl::OkStatus();
  }
  GRAFT_ASSIGN_OR_RETURN(const auto roles, RolesOfToken(store_, way, clock_.WallNow()));
  if (roles != identity.roles) {
    return BadToken("TOKEN_EXPIRED", "the roles of its user have changed; exchange the token anew");
  }
  MutexLock lock(mu_);
  if (stands_.size() >= kMostRemembered) stands_.clear();
  stands_[identity.jti] = changes;
  return absl::OkStatus();
}

rpc::Service AuthService::Bind() {
  rpc::Service service("graft.v1.AuthService");
  service.Unary("Exchange", this, &AuthService::Exchange)
      .Unary("GetPublicKeys", this, &AuthService::GetPublicKeys)
      .Unary("WhoAmI", this, &AuthService::WhoAmI);
  return service;
}

absl::StatusOr<v1::ExchangeResponse> AuthService::Exchange(const rpc::Call&,
                                                           const v1::ExchangeRequest& request) {
  if (request.credential_case() == v1::ExchangeRequest::kOidcToken) {
    return rpc::FeatureUnavailable("oidc", "OIDC is not in this build");
  }
  if (request.token().empty()) {
    return BadToken("CREDENTIALS_MISSING",
                    "no token was sent; `graft context list` shows which one is used");
  }
  const absl::StatusOr<Record> way = context_.store.Get(
      Family::kRecords, absl::StrCat("token.hash/", Sha256::HexOf(request.token())));
  if (!way.ok()) return BadToken("TOKEN_INVALID", "the token is unknown");
  const absl::Time now = context_.clock.WallNow();
  rpc::TokenClaims claims{
      .issuer = std::string(kTokenIssuer),
      .audience = "graft",
      .subject = absl::StrCat("users/", way->value.substr(0, way->value.find('/'))),
      .jti = absl::StrCat(way->value, "/", context_.random.Id()),
      .expires = now + kAccessTokenTtl};
  GRAFT_ASSIGN_OR_RETURN(claims.roles, RolesOfToken(context_.store, way->value, now));
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

}  // namespace graft::scheduler
