// graft.v1.AuthService: who calls, and the exchange of an opaque token for a short-lived one that
// both services check by themselves.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "base/mutex.h"
#include "graft/v1/auth.pb.h"
#include "rpc/access_token.h"
#include "scheduler/service/mutate.h"

namespace graft::scheduler {

// What tokens name as their issuer; the fileservice expects it.
inline constexpr absl::string_view kTokenIssuer = "graft-scheduler";

// Checks tokens; without one the caller is a local administrator where `open` is set, which is for
// plaintext on loopback alone.
//
// A user's access token stands for the opaque token that it was exchanged for: once that is
// revoked, its user deleted or disabled, or their roles are others, it is refused at once, so that
// the client exchanges anew. That is looked up for each access token when it is first seen and
// after every change of users, tokens or roles, which `access_changes` counts.
class SchedulerAuthenticator final : public rpc::Authenticator {
 public:
  struct Options {
    bool open = false;
    const std::atomic<uint64_t>* access_changes = nullptr;
  };
  // All must outlive it.
  SchedulerAuthenticator(Clock& clock, const rpc::TokenSigner& signer, const Store& store,
                         Options options);
  absl::StatusOr<std::shared_ptr<const rpc::Identity>> Authenticate(
      const rpc::Credentials& credentials) override;

 private:
  absl::Status CheckStands(const rpc::Identity& identity);

  Clock& clock_;
  const Store& store_;
  const std::atomic<uint64_t>& access_changes_;
  rpc::TokenVerifier verifier_;
  Mutex mu_;
  // By jti, the count of changes after which it was found to stand.
  absl::flat_hash_map<std::string, uint64_t> stands_ GRAFT_GUARDED_BY(mu_);
  std::shared_ptr<const rpc::Identity> local_;  // shared with the calls in flight; null: none
};

class AuthService {
 public:
  AuthService(const ServiceContext& context, const rpc::TokenSigner& signer)
      : context_(context), signer_(signer) {}
  rpc::Service Bind();

 private:
  absl::StatusOr<graft::v1::ExchangeResponse> Exchange(const rpc::Call& call,
                                                       const graft::v1::ExchangeRequest& request);
  absl::StatusOr<graft::v1::GetPublicKeysResponse> GetPublicKeys(
      const rpc::Call& call, const graft::v1::GetPublicKeysRequest& request);
  absl::StatusOr<graft::v1::WhoAmIResponse> WhoAmI(const rpc::Call& call,
                                                   const graft::v1::WhoAmIRequest& request);

  const ServiceContext& context_;
  const rpc::TokenSigner& signer_;
};

}  // namespace graft::scheduler
