// graft.v1.AuthService and AccessService: users, opaque tokens, roles, and the exchange of a token
// for a short-lived one that both services check by themselves.
//
//   user/{u}   token/{u}/{t}   token.hash/{sha256} -> "u/t"   binding/{u}/{workspace or *} -> role
#pragma once

#include <memory>
#include <string>
#include <vector>

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
  AuthService(ServiceContext context, const rpc::TokenSigner& signer)
      : context_(context), signer_(signer) {}
  std::vector<rpc::Service> Bind();

  // Makes users/admin with the role admin in the cluster and a token; answers the token's secret,
  // or nothing when there is a user already.
  static std::string Bootstrap(Turn& turn, Random& random);

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  absl::StatusOr<graft::v1::ExchangeResponse> Exchange(const rpc::Call& call,
                                                       const graft::v1::ExchangeRequest& request);
  absl::StatusOr<graft::v1::GetPublicKeysResponse> GetPublicKeys(
      const rpc::Call& call, const graft::v1::GetPublicKeysRequest& request);
  absl::StatusOr<graft::v1::WhoAmIResponse> WhoAmI(const rpc::Call& call,
                                                   const graft::v1::WhoAmIRequest& request);
  void CreateUser(CallPtr call, const graft::v1::CreateUserRequest& request,
                  rpc::Responder<graft::v1::User> responder);
  absl::StatusOr<graft::v1::User> GetUser(const rpc::Call& call,
                                          const graft::v1::GetUserRequest& request);
  void CreateToken(CallPtr call, const graft::v1::CreateTokenRequest& request,
                   rpc::Responder<graft::v1::CreateTokenResponse> responder);
  void RevokeToken(CallPtr call, const graft::v1::RevokeTokenRequest& request,
                   rpc::Responder<graft::v1::Token> responder);
  void CreateRoleBinding(CallPtr call, const graft::v1::CreateRoleBindingRequest& request,
                         rpc::Responder<graft::v1::RoleBinding> responder);

  const ServiceContext context_;
  const rpc::TokenSigner& signer_;
};

}  // namespace graft::scheduler
