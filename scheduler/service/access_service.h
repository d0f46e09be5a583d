// graft.v1.AccessService: users, their tokens and their roles.
//
//   user/{u}   token/{u}/{t}   token.hash/{sha256} -> "u/t"   binding/... (bindings.h)
#pragma once

#include <memory>
#include <string>

#include "google/protobuf/empty.pb.h"
#include "graft/v1/auth.pb.h"
#include "scheduler/service/mutate.h"

namespace graft::scheduler {

class AccessService {
 public:
  explicit AccessService(const ServiceContext& context) : context_(context) {}
  rpc::Service Bind();

  // Makes users/admin with the role admin in the cluster and a token; answers the token's secret,
  // or nothing when there is a user already.
  static std::string Bootstrap(Turn& turn, Random& random);

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  using Empty = google::protobuf::Empty;
  void CreateUser(CallPtr call, const graft::v1::CreateUserRequest& request,
                  rpc::Responder<graft::v1::User> responder);
  absl::StatusOr<graft::v1::User> GetUser(const rpc::Call& call,
                                          const graft::v1::GetUserRequest& request);
  absl::StatusOr<graft::v1::ListUsersResponse> ListUsers(
      const rpc::Call& call, const graft::v1::ListUsersRequest& request);
  void UpdateUser(CallPtr call, const graft::v1::UpdateUserRequest& request,
                  rpc::Responder<graft::v1::User> responder);
  void DeleteUser(CallPtr call, const graft::v1::DeleteUserRequest& request,
                  rpc::Responder<Empty> responder);
  void CreateToken(CallPtr call, const graft::v1::CreateTokenRequest& request,
                   rpc::Responder<graft::v1::CreateTokenResponse> responder);
  absl::StatusOr<graft::v1::ListTokensResponse> ListTokens(
      const rpc::Call& call, const graft::v1::ListTokensRequest& request);
  void RevokeToken(CallPtr call, const graft::v1::RevokeTokenRequest& request,
                   rpc::Responder<graft::v1::Token> responder);
  void CreateRoleBinding(CallPtr call, const graft::v1::CreateRoleBindingRequest& request,
                         rpc::Responder<graft::v1::RoleBinding> responder);
  absl::StatusOr<graft::v1::ListRoleBindingsResponse> ListRoleBindings(
      const rpc::Call& call, const graft::v1::ListRoleBindingsRequest& request);
  void DeleteRoleBinding(CallPtr call, const graft::v1::DeleteRoleBindingRequest& request,
                         rpc::Responder<Empty> responder);

  const ServiceContext& context_;
};

}  // namespace graft::scheduler
