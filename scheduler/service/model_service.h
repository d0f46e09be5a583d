// graft.v1.ModelService: models, read as soon as they are linked, and the adapters under them.
#pragma once

#include <memory>
#include <string>

#include "google/protobuf/empty.pb.h"
#include "graft/v1/model.pb.h"
#include "scheduler/service/mutate.h"
#include "worker/spec/load.h"

namespace graft::scheduler {

// What worker/spec read, as the API says it.
graft::v1::ModelSpec ToApi(const spec::ModelDescription& model);

class ModelService {
 public:
  explicit ModelService(ServiceContext context) : context_(context) {}
  rpc::Service Bind();

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  void CreateModel(CallPtr call, const graft::v1::CreateModelRequest& request,
                   rpc::Responder<graft::v1::Model> responder);
  absl::StatusOr<graft::v1::Model> GetModel(const rpc::Call& call,
                                            const graft::v1::GetModelRequest& request);
  absl::StatusOr<graft::v1::ListModelsResponse> ListModels(
      const rpc::Call& call, const graft::v1::ListModelsRequest& request);
  void DeleteModel(CallPtr call, const graft::v1::DeleteModelRequest& request,
                   rpc::Responder<google::protobuf::Empty> responder);
  absl::StatusOr<graft::v1::Adapter> GetAdapter(const rpc::Call& call,
                                                const graft::v1::GetAdapterRequest& request);
  absl::StatusOr<graft::v1::ListAdaptersResponse> ListAdapters(
      const rpc::Call& call, const graft::v1::ListAdaptersRequest& request);
  void DeleteAdapter(CallPtr call, const graft::v1::DeleteAdapterRequest& request,
                     rpc::Responder<google::protobuf::Empty> responder);
  void EnableAdapter(CallPtr call, const graft::v1::EnableAdapterRequest& request,
                     rpc::Responder<graft::v1::Adapter> responder);
  void DisableAdapter(CallPtr call, const graft::v1::DisableAdapterRequest& request,
                      rpc::Responder<graft::v1::Adapter> responder);

  // Blocking: resolves and reads the model's files.
  absl::StatusOr<graft::v1::Model> Link(const rpc::Call& call,
                                        const graft::v1::CreateModelRequest& request,
                                        std::string* digest);
  void SetEnabled(CallPtr call, const std::string& name, const std::string& etag, bool enabled,
                  rpc::Responder<graft::v1::Adapter> responder);

  const ServiceContext context_;
};

}  // namespace graft::scheduler
