// graft.v1.TemplateService: presets and limits for jobs, in immutable versions.
//
//   template/{w}/{t}   template.version/{w}/{t}/{number, inverted: newest first}
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "google/protobuf/empty.pb.h"
#include "graft/v1/job.pb.h"
#include "graft/v1/template.pb.h"
#include "scheduler/service/mutate.h"

namespace graft::scheduler {

class TemplateService {
 public:
  explicit TemplateService(const ServiceContext& context) : context_(context) {}
  rpc::Service Bind();

 private:
  using CallPtr = std::shared_ptr<rpc::Call>;
  void CreateTemplate(CallPtr call, const graft::v1::CreateTemplateRequest& request,
                      rpc::Responder<graft::v1::Template> responder);
  absl::StatusOr<graft::v1::Template> GetTemplate(const rpc::Call& call,
                                                  const graft::v1::GetTemplateRequest& request);
  absl::StatusOr<graft::v1::ListTemplatesResponse> ListTemplates(
      const rpc::Call& call, const graft::v1::ListTemplatesRequest& request);
  void UpdateTemplate(CallPtr call, const graft::v1::UpdateTemplateRequest& request,
                      rpc::Responder<graft::v1::Template> responder);
  void DeleteTemplate(CallPtr call, const graft::v1::DeleteTemplateRequest& request,
                      rpc::Responder<google::protobuf::Empty> responder);
  void CreateTemplateVersion(CallPtr call, const graft::v1::CreateTemplateVersionRequest& request,
                             rpc::Responder<graft::v1::TemplateVersion> responder);
  absl::StatusOr<graft::v1::TemplateVersion> GetTemplateVersion(
      const rpc::Call& call, const graft::v1::GetTemplateVersionRequest& request);
  absl::StatusOr<graft::v1::ListTemplateVersionsResponse> ListTemplateVersions(
      const rpc::Call& call, const graft::v1::ListTemplateVersionsRequest& request);
  void DeprecateTemplateVersion(CallPtr call,
                                const graft::v1::DeprecateTemplateVersionRequest& request,
                                rpc::Responder<graft::v1::TemplateVersion> responder);

  const ServiceContext& context_;
};

using Violations = std::vector<graft::v1::ValidateJobResponse::Violation>;

// Fills what `spec` leaves absent from the preset of the template version that it names, and tells
// of locked fields that it sets. Answers the version, or nullptr where the spec names none, or none
// that a job of `workspace` may use (then there is a violation that names those it may).
std::unique_ptr<graft::v1::TemplateVersion> ApplyTemplate(const Store& store,
                                                          const std::string& workspace,
                                                          graft::v1::JobSpec& spec,
                                                          Violations& violations);
// What of the resolved spec lies outside of the template's limits.
void CheckLimits(const graft::v1::TemplateLimits& limits, const graft::v1::JobSpec& resolved,
                 Violations& violations);

}  // namespace graft::scheduler
