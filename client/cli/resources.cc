#include "client/cli/resources.h"

#include "absl/strings/str_cat.h"

namespace graft::cli {

absl::StatusOr<std::vector<v1::Job>> FetchJobs(client::Client& client, const std::string& parent,
                                               const std::string& filter) {
  v1::ListJobsRequest request;
  request.set_parent(parent);
  request.set_filter(filter);
  return AllPages(client, client.jobs(), &v1::JobService::Stub::ListJobs, std::move(request),
                  &v1::ListJobsResponse::jobs);
}

absl::StatusOr<std::vector<v1::Model>> FetchModels(client::Client& client,
                                                   const std::string& filter) {
  v1::ListModelsRequest request;
  request.set_parent(client.workspace());
  request.set_filter(filter);
  return AllPages(client, client.models(), &v1::ModelService::Stub::ListModels, std::move(request),
                  &v1::ListModelsResponse::models);
}

absl::StatusOr<std::vector<v1::Node>> FetchNodes(client::Client& client) {
  return AllPages(client, client.nodes(), &v1::NodeService::Stub::ListNodes, v1::ListNodesRequest(),
                  &v1::ListNodesResponse::nodes);
}

std::string FilesetVersion(const client::Client& client, const std::string& word) {
  const size_t at = word.find('@');
  return absl::StrCat(client.Name("filesets", word.substr(0, at)), "/versions/",
                      at == std::string::npos ? "latest" : word.substr(at + 1));
}

}  // namespace graft::cli
