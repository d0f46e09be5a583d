// Lists of the server, all pages of them, and names as people write them.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "base/status_macros.h"
#include "client/graft/client.h"

namespace graft::cli {

inline constexpr int kPageSize = 500;

// Every page of one list; `items` is the response's repeated field.
template <typename Item, typename Response, typename Stub, typename Request>
absl::StatusOr<std::vector<Item>> AllPages(
    client::Client& client, Stub& stub,
    grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*), Request request,
    const google::protobuf::RepeatedPtrField<Item>& (Response::*items)() const) {
  request.set_page_size(kPageSize);
  std::vector<Item> all;
  do {
    GRAFT_ASSIGN_OR_RETURN(const Response page,
                           client.Call<Response>(stub, method, request, {.idempotent = true}));
    all.insert(all.end(), (page.*items)().begin(), (page.*items)().end());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  return all;
}

// `parent`: "workspaces/w", or "workspaces/-" for all that one may see.
absl::StatusOr<std::vector<v1::Job>> FetchJobs(client::Client& client, const std::string& parent,
                                               const std::string& filter);
absl::StatusOr<std::vector<v1::Model>> FetchModels(client::Client& client,
                                                   const std::string& filter);
absl::StatusOr<std::vector<v1::Node>> FetchNodes(client::Client& client);

// Jobs of any workspace that may hold devices or wait for them.
absl::StatusOr<std::vector<v1::Job>> FetchLiveJobs(client::Client& client);
// The attempt of each device that one of `jobs` holds: one call a job that has started.
absl::Status FillHolders(client::Client& client, const std::vector<v1::Job>& jobs,
                         std::vector<v1::Node>& nodes);

// "NAME" or "NAME@VERSION" as a version's whole name; without a version the latest.
std::string FilesetVersion(const client::Client& client, const std::string& word);

// The messages behind a list, as Invocation::PrintList takes them.
template <typename Item>
std::vector<const google::protobuf::Message*> Messages(const std::vector<Item>& items) {
  std::vector<const google::protobuf::Message*> messages;
  for (const Item& item : items) messages.push_back(&item);
  return messages;
}

}  // namespace graft::cli
