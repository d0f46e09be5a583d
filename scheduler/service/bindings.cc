#include "scheduler/service/bindings.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "rpc/status.h"
#include "scheduler/service/resources.h"

namespace graft::scheduler {
namespace {

namespace v1 = graft::v1;

std::string BindingKey(const std::string& user, const std::string& place) {
  return absl::StrCat("binding/", user, "/", place);
}
std::string NameKey(absl::string_view name) {
  return absl::StrCat("binding.name/", name.substr(name.find('/') + 1));
}

bool IsLive(const v1::RoleBinding& binding, absl::Time now) {
  return !binding.has_expire_time() || FromTimestamp(binding.expire_time()) > now;
}

}  // namespace

std::string PlaceName(absl::string_view place) {
  return place == rpc::kCluster ? "cluster" : absl::StrCat("workspaces/", place);
}

v1::RoleBinding PutBinding(Turn& turn, const std::string& user, const std::string& place,
                           rpc::Role role, const std::string& id, absl::Time expires) {
  v1::RoleBinding binding;
  const std::string drawn =
      absl::StrCat(user, "-", place == rpc::kCluster ? "cluster" : place).substr(0, 63);
  binding.set_name(absl::StrCat("roleBindings/", id.empty() ? drawn : id));
  binding.set_member(absl::StrCat("users/", user));
  binding.mutable_grant()->set_resource(PlaceName(place));
  binding.mutable_grant()->set_role(static_cast<v1::Role>(role));
  *binding.mutable_create_time() = ToTimestamp(turn.now());
  if (expires != absl::InfiniteFuture()) *binding.mutable_expire_time() = ToTimestamp(expires);
  PutResource(turn, BindingKey(user, place), binding);
  turn.Put(Family::kRecords, NameKey(binding.name()), absl::StrCat(user, "/", place));
  return binding;
}

void RemoveBinding(Turn& turn, const std::string& user, const std::string& place) {
  const std::string key = BindingKey(user, place);
  const absl::StatusOr<Record> record = turn.Get(Family::kRecords, key);
  const auto binding =
      record.ok() ? DecodeBinding(*record) : absl::StatusOr<v1::RoleBinding>(record.status());
  if (binding.ok()) turn.Remove(Family::kRecords, NameKey(binding->name()));
  turn.Remove(Family::kRecords, key);
}

absl::StatusOr<v1::RoleBinding> DecodeBinding(const Record& record) {
  const std::vector<std::string> parts = absl::StrSplit(record.key, '/');
  // The form of the first stores: the role's number alone.
  if (record.value.size() == 1 && absl::ascii_isdigit(record.value[0]) && parts.size() == 3) {
    v1::RoleBinding binding;
    binding.set_name(absl::StrCat("roleBindings/", parts[1], "-",
                                  parts[2] == rpc::kCluster ? "cluster" : parts[2]));
    binding.set_member(absl::StrCat("users/", parts[1]));
    binding.mutable_grant()->set_resource(PlaceName(parts[2]));
    binding.mutable_grant()->set_role(static_cast<v1::Role>(record.value[0] - '0'));
    binding.set_etag(EtagOf(record.revision));
    return binding;
  }
  return ToResource<v1::RoleBinding>(record);
}

absl::StatusOr<std::map<std::string, rpc::Role>> RolesOf(const Store& store,
                                                         const std::string& user, absl::Time now) {
  const std::string prefix = absl::StrCat("binding/", user, "/");
  GRAFT_ASSIGN_OR_RETURN(const ListResult records, store.List({.prefix = prefix, .limit = 10'000}));
  std::map<std::string, rpc::Role> roles;
  for (const Record& record : records.records) {
    GRAFT_ASSIGN_OR_RETURN(const v1::RoleBinding binding, DecodeBinding(record));
    if (!IsLive(binding, now)) continue;
    roles[record.key.substr(prefix.size())] = static_cast<rpc::Role>(binding.grant().role());
  }
  return roles;
}

absl::Status CheckNotLastAdmin(Turn& turn, const std::string& user) {
  GRAFT_ASSIGN_OR_RETURN(const auto records, turn.List("binding/"));
  for (const Record& record : records) {
    const std::vector<std::string> parts = absl::StrSplit(record.key, '/');
    if (parts.size() != 3 || parts[1] == user || parts[2] != rpc::kCluster) continue;
    const auto binding = DecodeBinding(record);
    if (!binding.ok() || binding->grant().role() < v1::ROLE_ADMIN || !IsLive(*binding, turn.now()))
      continue;
    const auto other = ReadResource<v1::User>(turn, absl::StrCat("user/", parts[1]), parts[1]);
    if (other.ok() && !other->disabled()) return absl::OkStatus();
  }
  return rpc::ErrorBuilder(absl::StatusCode::kFailedPrecondition,
                           absl::StrCat("users/", user,
                                        " is the last administrator of the cluster; make another "
                                        "one first"))
      .Reason("LAST_ADMIN")
      .Metadata("resource", absl::StrCat("users/", user))
      .Build();
}

}  // namespace graft::scheduler
