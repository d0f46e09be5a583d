// graft context.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/graft/context.h"

namespace graft::cli {
namespace {

absl::Status ListContexts(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft context list"));
  GRAFT_ASSIGN_OR_RETURN(const client::ContextFile file,
                         client::ReadContexts(client::ContextPath()));
  Table table({"CURRENT", "NAME", "ADDRESS", "WORKSPACE", "TOKEN"});
  for (const auto& [name, context] : file.contexts) {
    table.Add({name == file.current ? "*" : "", Sanitize(name), Sanitize(context.address),
               Sanitize(context.workspace), context.token.empty() ? "none" : "set"});
  }
  fputs(table.Render(invocation.out).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status UseContext(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft context use NAME"));
  GRAFT_ASSIGN_OR_RETURN(const std::string name, invocation.Word(0, "the NAME"));
  GRAFT_ASSIGN_OR_RETURN(client::ContextFile file, client::ReadContexts(client::ContextPath()));
  if (!file.contexts.contains(name)) {
    return absl::NotFoundError(
        absl::StrCat("there is no context \"", name, "\"; `graft context list`"));
  }
  file.current = name;
  return client::WriteContexts(client::ContextPath(), file);
}

absl::Status AddContext(Invocation& invocation) {
  client::Context context;
  invocation.flags.String("address", &context.address, "HOST:PORT", "the scheduler");
  invocation.flags.String("token", &context.token, "TOKEN", "your token");
  invocation.flags.String("ca", &context.ca_file, "FILE",
                          "PEM of the authority that signed its certificate");
  invocation.flags.Bool("insecure", &context.insecure, "plaintext, on loopback alone");
  GRAFT_RETURN_IF_ERROR(
      invocation.Parse("graft context add NAME --address HOST:PORT --token TOKEN [--ca FILE]"));
  GRAFT_ASSIGN_OR_RETURN(context.name, invocation.Word(0, "the NAME"));
  if (context.address.empty()) return absl::InvalidArgumentError("--address is missing");
  GRAFT_ASSIGN_OR_RETURN(client::ContextFile file, client::ReadContexts(client::ContextPath()));
  file.contexts[context.name] = context;
  file.current = context.name;
  return client::WriteContexts(client::ContextPath(), file);
}

absl::Status ContextEnv(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft context env"));
  GRAFT_ASSIGN_OR_RETURN(const client::Context context, client::ResolveContext(""));
  printf("export GRAFT_ADDRESS=%s\nexport GRAFT_TOKEN=%s\nexport GRAFT_CA=%s\n",
         context.address.c_str(), context.token.c_str(), context.ca_file.c_str());
  if (context.insecure) printf("export GRAFT_INSECURE=1\n");
  return absl::OkStatus();
}

}  // namespace

const std::vector<Command>& ContextCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"context list", "the servers that are known", ListContexts},
      {"context use", "which of them to speak to", UseContext},
      {"context add", "name another server", AddContext},
      {"context env", "the current one as environment variables", ContextEnv},
  };
  return commands;
}

}  // namespace graft::cli
