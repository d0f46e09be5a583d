#include "client/cli/resources.h"

#include <map>
#include <utility>

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

absl::StatusOr<std::vector<v1::Job>> FetchLiveJobs(client::Client& client) {
  return FetchJobs(client, "workspaces/-",
                   "status.state = QUEUED OR status.state = STARTING OR status.state = RUNNING OR "
                   "status.state = PAUSING OR status.state = PREEMPTING OR "
                   "status.state = CANCELLING");
}

absl::Status FillHolders(client::Client& client, const std::vector<v1::Job>& jobs,
                         std::vector<v1::Node>& nodes) {
  std::map<std::pair<std::string, int>, std::string> holders;
  for (const v1::Job& job : jobs) {
    if (job.status().state() == v1::JOB_STATE_QUEUED) continue;
    v1::ListAttemptsRequest request;
    request.set_parent(job.name());
    request.set_page_size(1);  // the newest
    GRAFT_ASSIGN_OR_RETURN(const auto page, client.Call<v1::ListAttemptsResponse>(
                                                client.jobs(), &v1::JobService::Stub::ListAttempts,
                                                request, {.idempotent = true}));
    for (const v1::Attempt& attempt : page.attempts()) {
      if (attempt.state() >= v1::Attempt::STATE_ENDED) continue;
      for (const v1::RankPlacement& rank : attempt.ranks())
        holders[{rank.node(), rank.device_index()}] = attempt.name();
    }
  }
  for (v1::Node& node : nodes) {
    for (v1::Device& device : *node.mutable_devices()) {
      const auto holder = holders.find({node.name(), device.index()});
      if (holder != holders.end()) device.set_attempt(holder->second);
    }
  }
  return absl::OkStatus();
}

std::string FilesetVersion(const client::Client& client, const std::string& word) {
  const size_t at = word.find('@');
  return absl::StrCat(client.Name("filesets", word.substr(0, at)), "/versions/",
                      at == std::string::npos ? "latest" : word.substr(at + 1));
}

}  // namespace graft::cli
