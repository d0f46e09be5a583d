#include "client/graft/context.h"

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/file.h"
#include "base/json.h"
#include "base/status_macros.h"

namespace graft::client {
namespace {

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace

std::string ContextPath() {
  if (const std::string path = Environment("GRAFT_CONFIG"); !path.empty()) return path;
  std::string folder = Environment("XDG_CONFIG_HOME");
  if (folder.empty()) folder = absl::StrCat(Environment("HOME"), "/.config");
  return absl::StrCat(folder, "/graft/contexts.json");
}

absl::StatusOr<ContextFile> ReadContexts(const std::string& path) {
  ContextFile file;
  const absl::StatusOr<std::string> text = ReadFile(path, 1 << 20);
  if (absl::IsNotFound(text.status())) return file;
  if (!text.ok()) return text.status();
  const absl::StatusOr<Json> json = Json::Parse(*text);
  if (!json.ok()) {
    return absl::FailedPreconditionError(absl::StrCat(path, ": ", json.status().message()));
  }
  file.current = json->GetString("current");
  const Json* contexts = json->Find("contexts");
  if (contexts == nullptr || !contexts->is_object()) return file;
  for (const auto& [name, value] : contexts->as_object()) {
    file.contexts[name] = {.name = name,
                           .address = value.GetString("address"),
                           .token = value.GetString("token"),
                           .ca_file = value.GetString("ca_file"),
                           .insecure = value.GetBool("insecure"),
                           .certificate_file = value.GetString("certificate_file"),
                           .key_file = value.GetString("key_file"),
                           .workspace = value.GetString("workspace", "default")};
  }
  return file;
}

absl::Status WriteContexts(const std::string& path, const ContextFile& file) {
  Json contexts = Json::MakeObject();
  for (const auto& [name, context] : file.contexts) {
    Json entry = Json::MakeObject();
    entry.Set("address", context.address)
        .Set("token", context.token)
        .Set("ca_file", context.ca_file)
        .Set("insecure", context.insecure)
        .Set("certificate_file", context.certificate_file)
        .Set("key_file", context.key_file)
        .Set("workspace", context.workspace);
    contexts.Set(name, std::move(entry));
  }
  Json root = Json::MakeObject();
  root.Set("current", file.current).Set("contexts", std::move(contexts));
  GRAFT_RETURN_IF_ERROR(MakeDirectories(path.substr(0, path.rfind('/')), 0700));
  return WriteFileAtomically(path, root.Dump(2) + "\n", {.mode = 0600});
}

absl::StatusOr<Context> ResolveContext(const std::string& name) {
  GRAFT_ASSIGN_OR_RETURN(const ContextFile file, ReadContexts(ContextPath()));
  Context context;
  const std::string wanted = name.empty() ? file.current : name;
  if (const auto it = file.contexts.find(wanted); it != file.contexts.end()) {
    context = it->second;
  } else if (!name.empty()) {
    std::vector<std::string> known;
    for (const auto& [known_name, unused] : file.contexts) known.push_back(known_name);
    return absl::NotFoundError(
        absl::StrCat("there is no context \"", name, "\"; known: ", absl::StrJoin(known, ", ")));
  }
  for (const auto& [variable, member] : {std::pair{"GRAFT_ADDRESS", &Context::address},
                                         {"GRAFT_TOKEN", &Context::token},
                                         {"GRAFT_CA", &Context::ca_file},
                                         {"GRAFT_CERTIFICATE", &Context::certificate_file},
                                         {"GRAFT_KEY", &Context::key_file},
                                         {"GRAFT_WORKSPACE", &Context::workspace}}) {
    if (std::string value = Environment(variable); !value.empty()) context.*member = value;
  }
  if (const std::string value = Environment("GRAFT_INSECURE"); !value.empty()) {
    context.insecure = value == "1" || value == "true";
  }
  if (context.address.empty()) {
    return absl::FailedPreconditionError(
        "no server is known; `graft up` starts one on this machine, `graft context add` names "
        "another");
  }
  return context;
}

}  // namespace graft::client
