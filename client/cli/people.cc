// graft user apply: users and their roles from a table, as often as one likes.
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/csv.h"
#include "client/cli/resources.h"
#include "client/graft/job_file.h"

namespace graft::cli {
namespace {

constexpr size_t kMaxTableBytes = 1 << 20;  // ten thousand people

struct Wanted {
  std::map<std::string, v1::User> users;  // by "users/..."
  std::vector<v1::RoleBinding> bindings;
};

std::string KeyOf(const v1::RoleBinding& binding) {
  return absl::StrCat(binding.member(), " ", binding.grant().resource(), " ",
                      binding.grant().role());
}

// The row's field as its place in the table names it where the message refuses it.
absl::Status SetFromRow(const CsvRow& row, absl::string_view file, const std::string& column,
                        absl::string_view field, google::protobuf::Message& message) {
  const auto found = row.fields.find(column);
  if (found == row.fields.end() || found->second.empty()) return absl::OkStatus();
  const absl::Status set = client::SetField(field, found->second, message);
  if (set.ok()) return set;
  return absl::InvalidArgumentError(
      absl::StrCat(file, ":", row.line, ": ", column, ": ", set.message()));
}

absl::StatusOr<Wanted> ReadTable(const std::string& file) {
  GRAFT_ASSIGN_OR_RETURN(const std::string text,
                         ReadFile(file == "-" ? "/dev/stdin" : file, kMaxTableBytes));
  GRAFT_ASSIGN_OR_RETURN(
      const std::vector<CsvRow> rows,
      ParseCsv(text, file,
               {"name", "role", "workspace", "kind", "email", "display_name", "subject"}));
  Wanted wanted;
  for (const CsvRow& row : rows) {
    const auto field = [&row](const char* column) {
      const auto found = row.fields.find(column);
      return found == row.fields.end() ? std::string() : found->second;
    };
    if (field("name").empty()) {
      return absl::InvalidArgumentError(absl::StrCat(file, ":", row.line, ": name is missing"));
    }
    v1::User& user = wanted.users[absl::StrCat("users/", field("name"))];
    user.set_kind(v1::User::KIND_HUMAN);
    GRAFT_RETURN_IF_ERROR(SetFromRow(row, file, "kind", "kind", user));
    GRAFT_RETURN_IF_ERROR(SetFromRow(row, file, "email", "email", user));
    GRAFT_RETURN_IF_ERROR(SetFromRow(row, file, "display_name", "display_name", user));
    GRAFT_RETURN_IF_ERROR(SetFromRow(row, file, "subject", "external_subject", user));
    if (field("role").empty() != field("workspace").empty()) {
      return absl::InvalidArgumentError(absl::StrCat(
          file, ":", row.line, ": role and workspace go together; one of them is missing"));
    }
    if (field("role").empty()) continue;
    v1::RoleBinding binding;
    binding.set_member(absl::StrCat("users/", field("name")));
    GRAFT_RETURN_IF_ERROR(SetFromRow(row, file, "role", "role", *binding.mutable_grant()));
    const std::string place = field("workspace");
    binding.mutable_grant()->set_resource(place == "cluster" || absl::StrContains(place, '/')
                                              ? place
                                              : absl::StrCat("workspaces/", place));
    wanted.bindings.push_back(std::move(binding));
  }
  return wanted;
}

// What is there already goes from `wanted`.
absl::Status LeaveWhatIsThere(client::Client& client, Wanted& wanted) {
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::User> users,
                         AllPages(client, client.access(), &v1::AccessService::Stub::ListUsers,
                                  v1::ListUsersRequest(), &v1::ListUsersResponse::users));
  for (const v1::User& user : users) wanted.users.erase(user.name());
  GRAFT_ASSIGN_OR_RETURN(
      const std::vector<v1::RoleBinding> bindings,
      AllPages(client, client.access(), &v1::AccessService::Stub::ListRoleBindings,
               v1::ListRoleBindingsRequest(), &v1::ListRoleBindingsResponse::role_bindings));
  std::set<std::string> known;
  for (const v1::RoleBinding& binding : bindings) known.insert(KeyOf(binding));
  std::vector<v1::RoleBinding> missing;
  for (v1::RoleBinding& binding : wanted.bindings) {
    if (known.insert(KeyOf(binding)).second) missing.push_back(std::move(binding));
  }
  wanted.bindings = std::move(missing);
  return absl::OkStatus();
}

absl::Status Create(client::Client& client, const Wanted& wanted) {
  for (const auto& [name, user] : wanted.users) {
    v1::CreateUserRequest request;
    request.set_user_id(ShortName(name));
    *request.mutable_user() = user;
    request.set_request_id(NewRequestId());
    GRAFT_RETURN_IF_ERROR(client
                              .Call<v1::User>(client.access(), &v1::AccessService::Stub::CreateUser,
                                              request, {.idempotent = true})
                              .status());
  }
  for (const v1::RoleBinding& binding : wanted.bindings) {
    v1::CreateRoleBindingRequest request;
    *request.mutable_role_binding() = binding;
    request.set_request_id(NewRequestId());
    GRAFT_RETURN_IF_ERROR(client
                              .Call<v1::RoleBinding>(client.access(),
                                                     &v1::AccessService::Stub::CreateRoleBinding,
                                                     request, {.idempotent = true})
                              .status());
  }
  return absl::OkStatus();
}

Json ToJson(const Wanted& wanted) {
  Json list = Json::MakeArray();
  for (const auto& [name, user] : wanted.users) {
    Json one = Json::MakeObject();
    one.Set("name", name).Set("kind", WordOf(v1::User::Kind_Name(user.kind()), "KIND_"));
    list.Append(std::move(one));
  }
  for (const v1::RoleBinding& binding : wanted.bindings) {
    Json one = Json::MakeObject();
    one.Set("name", binding.member()).Set("resource", binding.grant().resource());
    one.Set("role", WordOf(v1::Role_Name(binding.grant().role()), "ROLE_"));
    list.Append(std::move(one));
  }
  return list;
}

std::string PlanTable(const Terminal& terminal, const Wanted& wanted) {
  Table table({"USER", "CHANGE", "WHERE"});
  for (const auto& [name, user] : wanted.users) {
    table.Add({Sanitize(ShortName(name)),
               absl::StrCat("new ", WordOf(v1::User::Kind_Name(user.kind()), "KIND_")), "-"});
  }
  for (const v1::RoleBinding& binding : wanted.bindings) {
    table.Add({Sanitize(ShortName(binding.member())),
               WordOf(v1::Role_Name(binding.grant().role()), "ROLE_"),
               Sanitize(binding.grant().resource())});
  }
  return table.Render(terminal);
}

absl::Status ApplyUsers(Invocation& invocation) {
  bool dry_run = false;
  invocation.flags.Bool("dry-run", &dry_run, "show what would change and change nothing");
  GRAFT_RETURN_IF_ERROR(invocation.Parse(
      "graft user apply FILE.csv [--dry-run]\n\n"
      "The first row names the columns: name, and of role, workspace, kind (human or service),\n"
      "email, display_name and subject (issuer|subject of a provider) those that are there. A "
      "user\n"
      "with several roles has several rows; workspace \"cluster\" is all of them. Users and roles\n"
      "that are missing are made; nothing is taken away, so that it can be applied again."));
  GRAFT_ASSIGN_OR_RETURN(const std::string file, invocation.Word(0, "the FILE"));
  GRAFT_ASSIGN_OR_RETURN(Wanted wanted, ReadTable(file));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_RETURN_IF_ERROR(LeaveWhatIsThere(*client, wanted));
  if (!dry_run) GRAFT_RETURN_IF_ERROR(Create(*client, wanted));
  GRAFT_RETURN_IF_ERROR(
      invocation.PrintJson(ToJson(wanted), [&] { return PlanTable(invocation.out, wanted); }));
  invocation.Say(absl::StrCat(wanted.users.size(), " users and ", wanted.bindings.size(),
                              dry_run ? " roles would be made" : " roles were made"));
  return absl::OkStatus();
}

}  // namespace

const std::vector<Command>& PeopleCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"user apply", "users and their roles from a table", ApplyUsers},
  };
  return commands;
}

}  // namespace graft::cli
