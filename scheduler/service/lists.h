// Lists of resources, the same for each kind: the contract's filter and order are evaluated in the
// scan of the store, pages are told apart by tokens that belong to one query, and read masks are
// obeyed.
//
//   static const ListFields kFields{.filter = {{"name"}, {"labels"}, {"end_time",
//   "status.end_time"}},
//                                   .order = {"name", "create_time"}};
//   GRAFT_ASSIGN_OR_RETURN(auto page, ListResources<v1::Model>(context, query, kFields, visible));
#pragma once

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "google/protobuf/field_mask.pb.h"
#include "google/protobuf/message.h"
#include "rpc/call.h"
#include "rpc/filter.h"
#include "rpc/page_token.h"
#include "scheduler/service/resources.h"
#include "scheduler/store/store.h"

namespace graft::scheduler {

// A field that a filter may name. Maps take their keys behind a dot (labels.team); an enum's values
// are named without their prefix; a message with a oneof is named after the case that is set.
struct ListField {
  std::string name;
  std::string path = name;  // in the resource
};
struct ListFields {
  std::vector<ListField> filter;
  std::vector<std::string> order;  // paths that order_by may name
};

// What a request asks for. Page tokens belong to `method`, `parent`, filter and order together.
struct ListQuery {
  std::string method;
  std::string parent;
  std::string prefix;       // of the keys that are looked through
  std::string also_prefix;  // looked through too, where order_by is given
  int page_size = 0;
  std::string page_token;
  std::string filter;
  std::string order_by;
  Family family = Family::kRecords;
};

using MessagePtr = std::unique_ptr<google::protobuf::Message>;
struct MessagePage {
  std::vector<MessagePtr> resources;
  std::string next_page_token;
  int64_t revision = 0;  // of the first page
};
// The resource of a record; nullptr where the caller may not see it, or it is gone.
using LoadRecord = std::function<absl::StatusOr<MessagePtr>(const Record&)>;

// In the order of the keys, or as order_by says.
absl::StatusOr<MessagePage> ListMessages(const Store& store, const rpc::PageTokenCodec& tokens,
                                         const ListQuery& query, const ListFields& fields,
                                         const google::protobuf::Descriptor& type,
                                         const LoadRecord& load);

template <typename T>
struct ResourcePage {
  std::vector<T> resources;
  std::string next_page_token;
  int64_t revision = 0;
};

// `load` as above, with a T.
template <typename T, typename Load>
absl::StatusOr<ResourcePage<T>> ListLoaded(const Store& store, const rpc::PageTokenCodec& tokens,
                                           const ListQuery& query, const ListFields& fields,
                                           const Load& load) {
  GRAFT_ASSIGN_OR_RETURN(MessagePage page,
                         ListMessages(store, tokens, query, fields, *T::descriptor(), load));
  ResourcePage<T> typed{.next_page_token = std::move(page.next_page_token),
                        .revision = page.revision};
  for (MessagePtr& one : page.resources) {
    typed.resources.push_back(std::move(static_cast<T&>(*one)));
  }
  return typed;
}

// Records that are resources themselves; `visible` decides by the key.
template <typename T>
absl::StatusOr<ResourcePage<T>> ListResources(const Store& store, const rpc::PageTokenCodec& tokens,
                                              const ListQuery& query, const ListFields& fields,
                                              const std::function<bool(const Record&)>& visible) {
  return ListLoaded<T>(store, tokens, query, fields,
                       [&](const Record& record) -> absl::StatusOr<MessagePtr> {
                         if (!visible(record)) return nullptr;
                         GRAFT_ASSIGN_OR_RETURN(T resource, ToResource<T>(record));
                         return std::make_unique<T>(std::move(resource));
                       });
}

// The usual query: `prefix` is of all workspaces, `ids[0]` the workspace asked for, or "-".
template <typename Request>
ListQuery QueryOf(const rpc::Call& call, const Request& request, std::string prefix,
                  const std::vector<std::string>& ids = {}) {
  ListQuery query{.method = call.method,
                  .prefix = std::move(prefix),
                  .page_size = request.page_size(),
                  .page_token = request.page_token()};
  if constexpr (requires { request.parent(); }) query.parent = request.parent();
  if constexpr (requires { request.filter(); }) query.filter = request.filter();
  if constexpr (requires { request.order_by(); }) query.order_by = request.order_by();
  for (const std::string& id : ids) {
    if (id == "-") break;
    absl::StrAppend(&query.prefix, id, "/");
  }
  return query;
}

// Whether the caller may see a record whose key is "kind/{workspace}/...".
inline std::function<bool(const Record&)> VisibleTo(const rpc::Call& call) {
  return [&call](const Record& record) {
    const size_t begin = record.key.find('/') + 1;
    const size_t end = std::min(record.key.find('/', begin), record.key.size());
    return call.identity->RoleIn(record.key.substr(begin, end - begin)) >= rpc::Role::kViewer;
  };
}
inline bool VisibleToAll(const Record&) { return true; }

// The filter of a watch or of a list that is no scan.
absl::StatusOr<rpc::Filter> ParseFilter(absl::string_view text, const ListFields& fields,
                                        const google::protobuf::Descriptor& type);
bool Matches(const rpc::Filter& filter, const ListFields& fields,
             const google::protobuf::Message& resource);

// Leaves only the fields of the mask; an empty mask leaves all. INVALID_ARGUMENT
// (FIELD_MASK_INVALID) for a path that the type lacks.
absl::Status CheckReadMask(const google::protobuf::FieldMask& mask,
                           const google::protobuf::Descriptor& type);
void ApplyReadMask(const google::protobuf::FieldMask& mask, google::protobuf::Message& resource);

}  // namespace graft::scheduler
