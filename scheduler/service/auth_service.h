// graft.v1.AuthService: who calls, and the exchange of an opaque token for a short-lived one that
// both services check by themselves.
#pragma once

#include <memory>
#include <string>

#include "graft/v1/auth.pb.h"
#include "rpc/access_token.h"
#include "scheduler/service/mutate.h"

namespace graft::scheduler {

// What tokens name as their issuer; the fileservice expects it.
inline constexpr absl::string_view kTokenIssuer = "graft-scheduler";

// Checks tokens; without one the caller is a local administrator where `open` is set, which is for
// plaintext on loopback alone.
class SchedulerAuthenticator final : public rpc::Authenticator {
 public:
  SchedulerAuthenticator(Clock& clock, const rpc::TokenSigner& signer, bool open);
  absl::StatusOr<std::shared_ptr<const rpc::Identity>> Authenticate(
      const rpc::Credentials& credentials) override;

 private:
  rpc::TokenVerifier verifier_;
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
