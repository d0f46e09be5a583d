// graft context.
#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
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
  Json list = Json::MakeArray();
  for (const auto& [name, context] : file.contexts) {
    const char* token = context.token.empty() ? "none" : "set";
    table.Add({name == file.current ? "*" : "", Sanitize(name), Sanitize(context.address),
               Sanitize(context.workspace), token});
    Json one = Json::MakeObject();
    one.Set("name", name).Set("current", name == file.current).Set("address", context.address);
    one.Set("workspace", context.workspace).Set("token", token);
    list.Append(std::move(one));
  }
  return invocation.PrintJson(list, [&] { return table.Render(invocation.out); });
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
  invocation.flags.String("certificate", &context.certificate_file, "FILE",
                          "PEM of the certificate to show, with --key");
  invocation.flags.String("key", &context.key_file, "FILE", "PEM of its key");
  invocation.flags.Bool("insecure", &context.insecure, "plaintext, on loopback alone");
  GRAFT_RETURN_IF_ERROR(
      invocation.Parse("graft context add NAME --address HOST:PORT --token TOKEN [--ca FILE]"));
  GRAFT_ASSIGN_OR_RETURN(context.name, invocation.Word(0, "the NAME"));
  if (context.address.empty()) return absl::InvalidArgumentError("--address is missing");
  if (context.certificate_file.empty() != context.key_file.empty()) {
    return absl::InvalidArgumentError("--certificate and --key go together");
  }
  GRAFT_ASSIGN_OR_RETURN(client::ContextFile file, client::ReadContexts(client::ContextPath()));
  file.contexts[context.name] = context;
  file.current = context.name;
  return client::WriteContexts(client::ContextPath(), file);
}

// One word of a shell, whatever is in it.
std::string ShellQuote(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"'", "'\\''"}}), "'");
}

absl::Status ContextEnv(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft context env"));
  GRAFT_ASSIGN_OR_RETURN(const client::Context context, client::ResolveContext(""));
  const auto print = [](const char* name, const std::string& value) {
    printf("export %s=%s\n", name, ShellQuote(value).c_str());
  };
  print("GRAFT_ADDRESS", context.address);
  print("GRAFT_TOKEN", context.token);
  print("GRAFT_CA", context.ca_file);
  print("GRAFT_WORKSPACE", context.workspace);
  if (!context.certificate_file.empty()) {
    print("GRAFT_CERTIFICATE", context.certificate_file);
    print("GRAFT_KEY", context.key_file);
  }
  if (context.insecure) print("GRAFT_INSECURE", "1");
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
