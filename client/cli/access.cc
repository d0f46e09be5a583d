// graft user, graft grant and graft token: who may speak to the server, and as what.
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/resources.h"
#include "client/graft/job_file.h"

namespace graft::cli {
namespace {

std::string UserName(const std::string& word) {
  return absl::StartsWith(word, "users/") ? word : absl::StrCat("users/", word);
}

absl::Status CreateUser(Invocation& invocation) {
  bool service = false;
  invocation.flags.Bool("service", &service, "a program, not a person");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft user create NAME [--service]"));
  v1::CreateUserRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_user_id(), invocation.Word(0, "the NAME"));
  request.mutable_user()->set_kind(service ? v1::User::KIND_SERVICE : v1::User::KIND_HUMAN);
  request.set_request_id(NewRequestId());
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(
      const auto user,
      client->Call<v1::User>(client->access(), &v1::AccessService::Stub::CreateUser, request,
                             {.idempotent = true}));
  return invocation.Print(user, [&] {
    return absl::StrCat("user ", ShortName(user.name()), "; `graft grant ", ShortName(user.name()),
                        " ROLE` lets them in, `graft token create ", ShortName(user.name()),
                        "` gives them a token\n");
  });
}

absl::Status ListUsers(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft user list"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::User> users,
                         AllPages(*client, client->access(), &v1::AccessService::Stub::ListUsers,
                                  v1::ListUsersRequest(), &v1::ListUsersResponse::users));
  return invocation.PrintList(Messages(users), [&] {
    Table table({"NAME", "KIND", "STATE", "LAST SEEN", "AGE"});
    for (const v1::User& user : users) {
      table.Add({ShortName(user.name()), WordOf(v1::User::Kind_Name(user.kind()), "KIND_"),
                 user.disabled() ? "disabled" : "enabled", AgeOf(user.last_seen_time()),
                 AgeOf(user.create_time())});
    }
    return table.Render(invocation.out);
  });
}

absl::Status GrantRole(Invocation& invocation) {
  bool cluster = false;
  invocation.flags.Bool("cluster", &cluster, "in the whole cluster, not in one workspace");
  GRAFT_RETURN_IF_ERROR(
      invocation.Parse("graft grant USER viewer|user|operator|admin [--workspace NAME]"));
  v1::CreateRoleBindingRequest request;
  v1::RoleBinding& binding = *request.mutable_role_binding();
  GRAFT_ASSIGN_OR_RETURN(const std::string user, invocation.Word(0, "the USER"));
  GRAFT_ASSIGN_OR_RETURN(const std::string role, invocation.Word(1, "the ROLE"));
  GRAFT_RETURN_IF_ERROR(client::SetField("role", role, *binding.mutable_grant()));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  binding.set_member(UserName(user));
  binding.mutable_grant()->set_resource(cluster ? "cluster" : client->workspace());
  GRAFT_ASSIGN_OR_RETURN(
      const auto made, client->Call<v1::RoleBinding>(
                           client->access(), &v1::AccessService::Stub::CreateRoleBinding, request));
  return invocation.Print(made, [&] {
    return absl::StrCat(ShortName(made.member()), " is ",
                        WordOf(v1::Role_Name(made.grant().role()), "ROLE_"), " of ",
                        Sanitize(made.grant().resource()), "\n");
  });
}

absl::Status CreateToken(Invocation& invocation) {
  int64_t days = 0;
  std::string description;
  invocation.flags.Int("days", &days, "N", "it ends after N days; 90 without it");
  invocation.flags.String("description", &description, "TEXT", "what it is for");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft token create USER [--days N]"));
  GRAFT_ASSIGN_OR_RETURN(const std::string user, invocation.Word(0, "the USER"));
  v1::CreateTokenRequest request;
  request.set_parent(UserName(user));
  request.mutable_token()->set_description(description);
  if (days > 0) {
    request.mutable_token()->mutable_expire_time()->set_seconds(absl::ToUnixSeconds(absl::Now()) +
                                                                days * 86400);
  }
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const auto made,
                         client->Call<v1::CreateTokenResponse>(
                             client->access(), &v1::AccessService::Stub::CreateToken, request));
  invocation.Say("the token is shown this once:");
  return invocation.Print(made, [&] { return made.secret() + "\n"; });
}

absl::Status ListTokens(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft token list USER"));
  GRAFT_ASSIGN_OR_RETURN(const std::string user, invocation.Word(0, "the USER"));
  v1::ListTokensRequest request;
  request.set_parent(UserName(user));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Token> tokens,
                         AllPages(*client, client->access(), &v1::AccessService::Stub::ListTokens,
                                  std::move(request), &v1::ListTokensResponse::tokens));
  return invocation.PrintList(Messages(tokens), [&] {
    Table table({"NAME", "HINT", "STATE", "LAST USED", "AGE", "DESCRIPTION"});
    for (const v1::Token& token : tokens) {
      const bool expired = token.has_expire_time() &&
                           token.expire_time().seconds() < absl::ToUnixSeconds(absl::Now());
      table.Add({Sanitize(token.name()), Sanitize(token.hint()),
                 token.has_revoke_time() ? "revoked"
                 : expired               ? "expired"
                                         : "valid",
                 AgeOf(token.last_used_time()), AgeOf(token.create_time()),
                 Sanitize(token.description())});
    }
    return table.Render(invocation.out);
  });
}

absl::Status RevokeToken(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft token revoke users/USER/tokens/TOKEN"));
  v1::RevokeTokenRequest request;
  GRAFT_ASSIGN_OR_RETURN(*request.mutable_name(), invocation.Word(0, "the TOKEN's name"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_RETURN_IF_ERROR(
      client->Call<v1::Token>(client->access(), &v1::AccessService::Stub::RevokeToken, request)
          .status());
  invocation.Say(absl::StrCat("revoked ", request.name()));
  return absl::OkStatus();
}

absl::Status WhoAmI(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft token whoami"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const auto me, client->Call<v1::WhoAmIResponse>(
                                            client->auth(), &v1::AuthService::Stub::WhoAmI,
                                            v1::WhoAmIRequest(), {.idempotent = true}));
  return invocation.Print(me, [&] {
    Table table({"SUBJECT", "RESOURCE", "ROLE"});
    for (const v1::Grant& grant : me.grants()) {
      table.Add({Sanitize(me.subject()), Sanitize(grant.resource()),
                 WordOf(v1::Role_Name(grant.role()), "ROLE_")});
    }
    return table.Render(invocation.out);
  });
}

}  // namespace

const std::vector<Command>& AccessCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"user create", "make a user", CreateUser},
      {"user list", "the users of the cluster", ListUsers},
      {"grant", "give a user a role in a workspace", GrantRole},
      {"token create", "a token for a user, shown once", CreateToken},
      {"token list", "a user's tokens, without their secrets", ListTokens},
      {"token revoke", "a token that is valid no more", RevokeToken},
      {"token whoami", "who this context is, and its roles", WhoAmI},
  };
  return commands;
}

}  // namespace graft::cli
