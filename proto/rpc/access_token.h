// The access tokens that the scheduler signs and both services check without asking it.
//
// A token is base64url(claims as JSON) "." base64url(Ed25519 signature of the first part). There is
// one algorithm, so nothing in a token chooses it; `kid` in the claims picks the key. Two keys are
// live at a time: a new one is published before it signs, the old one until its last token expires.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "rpc/auth.h"

namespace graft::rpc {

struct TokenClaims {
  std::string issuer;    // "graft-scheduler"
  std::string audience;  // "graft", or "fileservice" for a worker's capability
  IdentityKind kind = IdentityKind::kUser;
  std::string subject;
  std::map<std::string, Role> roles;  // by workspace; kCluster for all
  std::string jti;
  absl::Time expires;
  std::optional<Capability> capability;
};

struct PublicKey {
  std::string id;
  std::string raw;  // 32 bytes
  bool operator==(const PublicKey& other) const { return id == other.id && raw == other.raw; }
};

// An Ed25519 key pair. Copies share nothing; `seed` is the secret, 32 bytes.
class TokenSigner {
 public:
  // INVALID_ARGUMENT unless `seed` has 32 bytes. The id is the start of the public key's hash.
  static absl::StatusOr<TokenSigner> FromSeed(absl::string_view seed);

  const PublicKey& public_key() const { return public_key_; }
  absl::StatusOr<std::string> Sign(const TokenClaims& claims) const;

 private:
  TokenSigner(std::string seed, PublicKey key)
      : seed_(std::move(seed)), public_key_(std::move(key)) {}
  std::string seed_;
  PublicKey public_key_;
};

// Verifies tokens and turns them into identities. A signature costs 0.1 ms, so verified tokens are
// remembered until they expire. Thread-safe.
class TokenVerifier final : public Authenticator {
 public:
  static constexpr size_t kMaxRemembered = 16384;
  static constexpr size_t kMaxTokenBytes = 16 << 10;
  // How far the clocks of two machines may differ.
  static constexpr absl::Duration kLeeway = absl::Seconds(30);

  struct Options {
    std::string issuer;
    std::vector<std::string> audiences;  // any of them
    std::vector<PublicKey> keys;
    // Names of client certificates that are identities without a token, such as the scheduler's.
    std::map<std::string, Identity> peers;
  };
  TokenVerifier(Clock& clock, Options options) : clock_(clock), options_(std::move(options)) {}

  absl::StatusOr<std::shared_ptr<const Identity>> Authenticate(
      const Credentials& credentials) override;
  // Replaces the live keys; tokens of a key that is gone are refused from now on.
  void SetKeys(std::vector<PublicKey> keys);
  // Refuses the token with this id from now on.
  void Revoke(absl::string_view jti);

 private:
  absl::StatusOr<std::shared_ptr<const Identity>> Verify(absl::string_view token);

  Clock& clock_;
  Mutex mu_;
  Options options_ GRAFT_GUARDED_BY(mu_);
  std::set<std::string> revoked_ GRAFT_GUARDED_BY(mu_);
  // Shared with the calls in flight.
  absl::flat_hash_map<std::string, std::shared_ptr<const Identity>> remembered_
      GRAFT_GUARDED_BY(mu_);
};

}  // namespace graft::rpc
