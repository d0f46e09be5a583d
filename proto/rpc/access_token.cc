#include "rpc/access_token.h"

#include <openssl/evp.h>

#include <algorithm>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/bytes.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "rpc/status.h"

namespace graft::rpc {
namespace {

constexpr size_t kKeyBytes = 32;
constexpr size_t kSignatureBytes = 64;
constexpr int64_t kClaimsVersion = 1;

struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
struct FreeDigest {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
using KeyPtr = std::unique_ptr<EVP_PKEY, FreeKey>;
using DigestPtr = std::unique_ptr<EVP_MD_CTX, FreeDigest>;

absl::Status Refused(absl::string_view why, absl::string_view reason = "TOKEN_INVALID") {
  return ErrorBuilder(absl::StatusCode::kUnauthenticated,
                      absl::StrCat("the access token ", why, "; log in again"))
      .Reason(reason)
      .Build();
}

absl::string_view KindName(IdentityKind kind) {
  switch (kind) {
    case IdentityKind::kScheduler:
      return "scheduler";
    case IdentityKind::kWorker:
      return "worker";
    default:
      return "user";
  }
}

Json ClaimsToJson(const TokenClaims& claims, const std::string& key_id) {
  Json json = Json::MakeObject();
  json.Set("v", kClaimsVersion).Set("kid", key_id).Set("iss", claims.issuer);
  json.Set("aud", claims.audience).Set("kind", KindName(claims.kind)).Set("sub", claims.subject);
  Json roles = Json::MakeObject();
  for (const auto& [workspace, role] : claims.roles) {
    roles.Set(workspace, static_cast<int>(role));
  }
  json.Set("roles", std::move(roles)).Set("jti", claims.jti);
  json.Set("exp", absl::ToUnixSeconds(claims.expires));
  if (claims.capability) {
    Json capability = Json::MakeObject();
    Json versions = Json::MakeArray();
    for (const std::string& version : claims.capability->read_versions) versions.Append(version);
    capability.Set("read", std::move(versions)).Set("upload", claims.capability->upload_session);
    capability.Set("attempt", claims.capability->attempt).Set("epoch", claims.capability->epoch);
    json.Set("cap", std::move(capability));
  }
  return json;
}

Identity IdentityFromJson(const Json& json) {
  Identity identity;
  const std::string kind = json.GetString("kind");
  identity.kind = kind == "worker"      ? IdentityKind::kWorker
                  : kind == "scheduler" ? IdentityKind::kScheduler
                                        : IdentityKind::kUser;
  identity.subject = json.GetString("sub");
  identity.jti = json.GetString("jti");
  identity.expires = absl::FromUnixSeconds(json.GetInt("exp"));
  if (const Json* roles = json.Find("roles"); roles != nullptr && roles->is_object()) {
    for (const auto& [workspace, role] : roles->as_object()) {
      if (!role.is_int() || role.as_int() < 0 || role.as_int() > 4) continue;
      identity.roles[workspace] = static_cast<Role>(role.as_int());
    }
  }
  if (const Json* cap = json.Find("cap"); cap != nullptr && cap->is_object()) {
    Capability capability;
    if (const Json* read = cap->Find("read"); read != nullptr && read->is_array()) {
      for (const Json& version : read->as_array()) {
        if (version.is_string()) capability.read_versions.push_back(version.as_string());
      }
    }
    capability.upload_session = cap->GetString("upload");
    capability.attempt = cap->GetString("attempt");
    capability.epoch = cap->GetInt("epoch");
    identity.capability = std::move(capability);
  }
  return identity;
}

bool VerifySignature(const std::string& key, absl::string_view message,
                     absl::string_view signature) {
  const KeyPtr pkey(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr, Bytes(key), key.size()));
  const DigestPtr context(EVP_MD_CTX_new());
  return pkey != nullptr && context != nullptr && signature.size() == kSignatureBytes &&
         EVP_DigestVerifyInit(context.get(), nullptr, nullptr, nullptr, pkey.get()) == 1 &&
         EVP_DigestVerify(context.get(), Bytes(signature), signature.size(), Bytes(message),
                          message.size()) == 1;
}

}  // namespace

absl::StatusOr<TokenSigner> TokenSigner::FromSeed(absl::string_view seed) {
  if (seed.size() != kKeyBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("a signing key has ", kKeyBytes, " bytes, this one has ", seed.size()));
  }
  const KeyPtr key(
      EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, Bytes(seed), seed.size()));
  PublicKey public_key;
  public_key.raw.resize(kKeyBytes);
  size_t length = kKeyBytes;
  if (key == nullptr ||
      EVP_PKEY_get_raw_public_key(key.get(), reinterpret_cast<uint8_t*>(&public_key.raw[0]),
                                  &length) != 1) {
    return absl::InternalError("OpenSSL cannot make an Ed25519 key");
  }
  public_key.id = Sha256::HexOf(public_key.raw).substr(0, 16);
  return TokenSigner(std::string(seed), std::move(public_key));
}

absl::StatusOr<std::string> TokenSigner::Sign(const TokenClaims& claims) const {
  const std::string payload =
      absl::WebSafeBase64Escape(ClaimsToJson(claims, public_key_.id).Dump());
  const KeyPtr key(
      EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, nullptr, Bytes(seed_), seed_.size()));
  const DigestPtr context(EVP_MD_CTX_new());
  std::string signature(kSignatureBytes, '\0');
  size_t length = signature.size();
  if (key == nullptr || context == nullptr ||
      EVP_DigestSignInit(context.get(), nullptr, nullptr, nullptr, key.get()) != 1 ||
      EVP_DigestSign(context.get(), reinterpret_cast<uint8_t*>(&signature[0]), &length,
                     Bytes(payload), payload.size()) != 1) {
    return absl::InternalError("OpenSSL cannot sign with Ed25519");
  }
  return absl::StrCat(payload, ".", absl::WebSafeBase64Escape(signature));
}

void TokenVerifier::SetKeys(std::vector<PublicKey> keys) {
  MutexLock lock(mu_);
  options_.keys = std::move(keys);
  remembered_.clear();
}

void TokenVerifier::Revoke(absl::string_view jti) {
  MutexLock lock(mu_);
  revoked_.insert(std::string(jti));
}

absl::StatusOr<std::shared_ptr<const Identity>> TokenVerifier::Authenticate(
    const Credentials& credentials) {
  if (credentials.bearer.empty()) {
    MutexLock lock(mu_);
    for (const std::string& name : credentials.peer_names) {
      const auto it = options_.peers.find(name);
      if (it != options_.peers.end()) return std::make_shared<const Identity>(it->second);
    }
    return std::make_shared<const Identity>();
  }
  if (credentials.bearer.size() > kMaxTokenBytes) return Refused("is too long");
  std::shared_ptr<const Identity> identity;
  {
    MutexLock lock(mu_);
    const auto it = remembered_.find(credentials.bearer);
    if (it != remembered_.end()) identity = it->second;
  }
  const bool known = identity != nullptr;
  if (!known) {
    GRAFT_ASSIGN_OR_RETURN(identity, Verify(credentials.bearer));
  }
  // A wall clock that jumps must cost no running job its worker: it is refused only when the clock
  // that does not jump says so too.
  const absl::Time wall = clock_.WallNow();
  const absl::Time now =
      identity->kind == IdentityKind::kWorker ? std::min(wall, clock_.Now()) : wall;
  MutexLock lock(mu_);
  if (now > identity->expires + kLeeway) {
    remembered_.erase(credentials.bearer);
    return Refused("has expired", "TOKEN_EXPIRED");
  }
  if (revoked_.count(identity->jti) != 0) return Refused("was revoked");
  if (!known) {
    if (remembered_.size() >= kMaxRemembered) remembered_.clear();
    remembered_.emplace(credentials.bearer, identity);
  }
  return identity;
}

absl::StatusOr<std::shared_ptr<const Identity>> TokenVerifier::Verify(absl::string_view token) {
  const size_t dot = token.find('.');
  std::string payload, signature;
  if (dot == absl::string_view::npos ||
      !absl::WebSafeBase64Unescape(token.substr(0, dot), &payload) ||
      !absl::WebSafeBase64Unescape(token.substr(dot + 1), &signature)) {
    return Refused("is malformed");
  }
  const absl::StatusOr<Json> json = Json::Parse(payload, {.max_depth = 4});
  if (!json.ok() || !json->is_object() || json->GetInt("v") != kClaimsVersion) {
    return Refused("is malformed");
  }
  std::string key;
  {
    MutexLock lock(mu_);
    for (const PublicKey& live : options_.keys) {
      if (live.id == json->GetString("kid")) key = live.raw;
    }
    if (key.empty()) return Refused("is signed with an unknown key");
    const auto& audiences = options_.audiences;
    if (json->GetString("iss") != options_.issuer ||
        std::find(audiences.begin(), audiences.end(), json->GetString("aud")) == audiences.end()) {
      return Refused("is for another service");
    }
  }
  if (!VerifySignature(key, token.substr(0, dot), signature))
    return Refused("has a wrong signature");
  return std::make_shared<const Identity>(IdentityFromJson(*json));
}

}  // namespace graft::rpc
