// graft.v1.SecretService: values that are written and never read back.
//
//   secret/{w}/{s}         the resource without its value
//   secret.value/{w}/{s}   the value, sealed with the data key for this very name
#pragma once

#include <memory>
#include <string>

#include "google/protobuf/empty.pb.h"
#include "graft/v1/secret.pb.h"
#include "scheduler/service/mutate.h"

namespace graft::scheduler {

class SecretService {
 public:
  explicit SecretService(const ServiceContext& context) : context_(context) {}
  rpc::Service Bind();

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  void CreateSecret(CallPtr call, const graft::v1::CreateSecretRequest& request,
                    rpc::Responder<graft::v1::Secret> responder);
  absl::StatusOr<graft::v1::Secret> GetSecret(const rpc::Call& call,
                                              const graft::v1::GetSecretRequest& request);
  absl::StatusOr<graft::v1::ListSecretsResponse> ListSecrets(
      const rpc::Call& call, const graft::v1::ListSecretsRequest& request);
  void UpdateSecret(CallPtr call, const graft::v1::UpdateSecretRequest& request,
                    rpc::Responder<graft::v1::Secret> responder);
  void DeleteSecret(CallPtr call, const graft::v1::DeleteSecretRequest& request,
                    rpc::Responder<google::protobuf::Empty> responder);

  const ServiceContext& context_;
};

// For integrations on the scheduler's side. NOT_FOUND, DATA_LOSS.
absl::StatusOr<std::string> OpenSecret(const Store& store, absl::string_view data_key,
                                       const std::string& name);

}  // namespace graft::scheduler
