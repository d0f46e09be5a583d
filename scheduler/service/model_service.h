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
  explicit ModelService(const ServiceContext& context) : context_(context) {}
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

  void UpdateModel(CallPtr call, const graft::v1::UpdateModelRequest& request,
                   rpc::Responder<graft::v1::Model> responder);
  void CreateAdapter(CallPtr call, const graft::v1::CreateAdapterRequest& request,
                     rpc::Responder<graft::v1::Adapter> responder);
  void UpdateAdapter(CallPtr call, const graft::v1::UpdateAdapterRequest& request,
                     rpc::Responder<graft::v1::Adapter> responder);

  // What the files of a fileset version say.
  struct LinkedModel {
    std::string version;
    std::string digest;
    graft::v1::ModelSpec spec;
  };
  struct LinkedAdapter {
    std::string version;
    std::string digest;
    graft::v1::Adapter facts;  // the fields that are read from the files
  };
  // Blocking. `what` is the request's field.
  absl::StatusOr<FilesetVersion> ResolveFor(const rpc::Call& call, const std::string& fileset,
                                            absl::string_view what);
  // Blocking: resolves, reads and, unless only asked, pins for `holder`.
  absl::StatusOr<LinkedModel> ReadFiles(const rpc::Call& call, const std::string& fileset,
                                        const std::string& holder, bool validate_only);
  // Blocking: whether the adapter's files fit the base, tensor by tensor.
  absl::StatusOr<LinkedAdapter> CheckFiles(const rpc::Call& call, const std::string& base_name,
                                           const std::string& fileset);
  void SetEnabled(CallPtr call, const std::string& name, const std::string& etag, bool enabled,
                  rpc::Responder<graft::v1::Adapter> responder);

  const ServiceContext& context_;
};

}  // namespace graft::scheduler
