// graft model and graft adapter.
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/hub.h"
#include "client/cli/hub_client.h"
#include "client/cli/resources.h"
#include "client/cli/transfer_progress.h"
#include "graft/v1/fileset.pb.h"

namespace graft::cli {
namespace {

std::string StateOf(const v1::Model& model) {
  return WordOf(v1::Model::State_Name(model.state()), "STATE_");
}

std::string PrecisionOf(const v1::Model& model) {
  return WordOf(v1::Precision_Name(model.spec().precision()), "PRECISION_");
}

// What a Hugging Face folder holds besides weights that a model needs; other formats of the same
// weights are left out.
bool SkipForImport(absl::string_view path) {
  for (const char* suffix : {".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".ckpt"}) {
    if (absl::EndsWith(path, suffix)) return true;
  }
  for (const char* folder : {".git/", ".cache/", "onnx/", "original/"}) {
    if (absl::StartsWith(path, folder)) return true;
  }
  return false;
}

absl::Status ImportModel(Invocation& invocation) {
  std::string from, description;
  invocation.flags.String(
      "from", &from, "PATH",
      "a Hugging Face folder, one .gguf file, or hf://ORG/NAME[@REVISION]; HF_TOKEN "
      "is sent where it is set");
  invocation.flags.String("description", &description, "TEXT", "what it is");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft model import NAME --from PATH"));
  GRAFT_ASSIGN_OR_RETURN(const std::string id, invocation.Word(0, "the model's NAME"));
  if (from.empty()) {
    return absl::InvalidArgumentError("--from is missing: a folder, a .gguf file or hf://ORG/NAME");
  }
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  std::string path = from;
  if (IsHubAddress(from)) {
    GRAFT_ASSIGN_OR_RETURN(path, FetchFromHub(invocation, from, SkipForImport));
  } else if (!FileExists(from)) {
    return absl::NotFoundError(absl::StrCat("there is nothing at ", from));
  }
  GRAFT_ASSIGN_OR_RETURN(fileservice::Client * files, client->Files());

  fileservice::UploadOptions upload;
  upload.purpose = v1::FILE_SET_PURPOSE_MODEL;
  upload.message = absl::StrCat("imported from ", std::filesystem::path(from).filename().string());
  upload.skip = SkipForImport;
  TransferProgress progress(invocation.err, "uploading");
  GRAFT_ASSIGN_OR_RETURN(
      const fileservice::Published published,
      files->UploadFolder(path, client->Name("filesets", id), upload, progress.callback()));
  progress.Finish(published.totals);

  v1::CreateModelRequest request;
  request.set_parent(client->workspace());
  request.set_model_id(id);
  request.mutable_model()->set_fileset(published.version);
  request.mutable_model()->set_description(description);
  request.mutable_model()->set_source(from);
  request.set_request_id(NewRequestId());
  GRAFT_ASSIGN_OR_RETURN(
      const v1::Model model,
      client->Call<v1::Model>(client->models(), &v1::ModelService::Stub::CreateModel, request,
                              {.deadline = absl::Minutes(2), .idempotent = true}));
  return invocation.Print(model, [&] {
    return absl::StrCat("model ", ShortName(model.name()), ": ",
                        Sanitize(model.spec().architecture()), ", ",
                        FormatCount(model.spec().parameters()), " parameters, ", PrecisionOf(model),
                        ", context ", model.spec().context_length(),
                        model.state() == v1::Model::STATE_UNUSABLE
                            ? absl::StrCat("\nunusable: ", Sanitize(model.message()))
                            : "",
                        "\n");
  });
}

absl::Status ListModels(Invocation& invocation) {
  std::string filter;
  invocation.flags.String("filter", &filter, "EXPRESSION", "as the API's filters");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft model list"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Model> models, FetchModels(*client, filter));
  return invocation.PrintList(Messages(models), [&] {
    Table table({"NAME", "STATE", "ARCHITECTURE", "PARAMETERS", "PRECISION", "CONTEXT", "ADAPTERS",
                 "BASE", "AGE"});
    for (size_t column : {3u, 5u, 6u}) table.AlignRight(column);
    for (const v1::Model& model : models) {
      table.Add({ShortName(model.name()), StateOf(model), Sanitize(model.spec().architecture()),
                 FormatCount(model.spec().parameters()), PrecisionOf(model),
                 absl::StrCat(model.spec().context_length()), absl::StrCat(model.adapter_count()),
                 model.base_model().empty() ? "-" : ShortName(model.base_model()),
                 AgeOf(model.create_time())});
    }
    return table.Render(invocation.out);
  });
}

absl::StatusOr<v1::Model> FetchModel(client::Client& client, const std::string& written) {
  v1::GetModelRequest request;
  request.set_name(client.Name("models", written));
  return client.Call<v1::Model>(client.models(), &v1::ModelService::Stub::GetModel, request,
                                {.idempotent = true});
}

absl::Status GetModel(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft model get NAME"));
  GRAFT_ASSIGN_OR_RETURN(const std::string id, invocation.Word(0, "the model's NAME"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const v1::Model model, FetchModel(*client, id));
  return invocation.Print(model, [&] {
    const v1::ModelSpec& spec = model.spec();
    Table table({"FIELD", "VALUE"});
    table.Add({"name", Sanitize(model.name())});
    table.Add({"state", StateOf(model)});
    if (!model.message().empty()) table.Add({"message", Sanitize(model.message())});
    table.Add({"files", Sanitize(model.fileset())});
    table.Add({"architecture", Sanitize(spec.architecture())});
    table.Add({"parameters", FormatCount(spec.parameters())});
    table.Add({"precision", PrecisionOf(model)});
    table.Add({"layers", absl::StrCat(spec.layers())});
    table.Add({"hidden size", absl::StrCat(spec.hidden_size())});
    table.Add({"heads", absl::StrCat(spec.attention_heads(), ", ", spec.kv_heads(),
                                     " for keys and values")});
    table.Add({"context", absl::StrCat(spec.context_length())});
    table.Add({"vocabulary", absl::StrCat(spec.vocabulary_size())});
    table.Add({"chat template", spec.chat_template().empty() ? "none" : "yes"});
    table.Add({"weights", FormatBytes(spec.weight_bytes())});
    for (const auto& need : spec.device_needs()) {
      const auto count = [](int32_t devices) {
        return devices > 0 ? absl::StrCat(devices) : std::string("more than 1,024");
      };
      table.Add({absl::StrCat("GPUs of ", need.memory_gib(), " GB"),
                 absl::StrCat(count(need.lora()), " for LoRA, ", count(need.all_weights()),
                              " for all weights")});
    }
    if (!model.base_model().empty()) table.Add({"base", Sanitize(model.base_model())});
    return table.Render(invocation.out);
  });
}

absl::Status Export(Invocation& invocation, const std::string& fileset, const std::string& target) {
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(fileservice::Client * files, client->Files());
  TransferProgress progress(invocation.err, "downloading");
  GRAFT_ASSIGN_OR_RETURN(const fileservice::Downloaded done,
                         files->DownloadVersion(fileset, target, {}, progress.callback()));
  progress.Finish(done.totals);
  invocation.Say(absl::StrCat("exported to ", target));
  return absl::OkStatus();
}

absl::Status ExportModel(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft model export NAME FOLDER"));
  GRAFT_ASSIGN_OR_RETURN(const std::string id, invocation.Word(0, "the model's NAME"));
  GRAFT_ASSIGN_OR_RETURN(const std::string target, invocation.Word(1, "the FOLDER to write to"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(const v1::Model model, FetchModel(*client, id));
  return Export(invocation, model.fileset(), target);
}

absl::Status DeleteModel(Invocation& invocation) {
  bool force = false;
  invocation.flags.Bool("force", &force, "with its adapters");
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft model delete NAME [--force]"));
  GRAFT_ASSIGN_OR_RETURN(const std::string id, invocation.Word(0, "the model's NAME"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::DeleteModelRequest request;
  request.set_name(client->Name("models", id));
  request.set_force(force);
  GRAFT_RETURN_IF_ERROR(client
                            ->Call<google::protobuf::Empty>(
                                client->models(), &v1::ModelService::Stub::DeleteModel, request)
                            .status());
  invocation.Say(absl::StrCat("deleted ", request.name()));
  return absl::OkStatus();
}

// "MODEL ADAPTER" or "MODEL+ADAPTER" as a name.
absl::StatusOr<std::string> AdapterName(const Invocation& invocation, client::Client& client,
                                        size_t& next_word) {
  GRAFT_ASSIGN_OR_RETURN(const std::string first, invocation.Word(0, "the MODEL"));
  if (absl::StrContains(first, "/adapters/")) {
    next_word = 1;
    return first;
  }
  if (const size_t plus = first.find('+'); plus != std::string::npos) {
    next_word = 1;
    return absl::StrCat(client.Name("models", first.substr(0, plus)), "/adapters/",
                        first.substr(plus + 1));
  }
  GRAFT_ASSIGN_OR_RETURN(const std::string second, invocation.Word(1, "the ADAPTER"));
  next_word = 2;
  return absl::StrCat(client.Name("models", first), "/adapters/", second);
}

std::string AdapterTable(const Terminal& terminal, const std::vector<v1::Adapter>& adapters) {
  Table table({"NAME", "MODEL", "ENABLED", "RANK", "ALPHA", "JOB", "AGE"});
  for (size_t column : {3u, 4u}) table.AlignRight(column);
  for (const v1::Adapter& adapter : adapters) {
    const std::vector<std::string> parts = absl::StrSplit(adapter.name(), '/');
    table.Add({ShortName(adapter.name()), parts.size() > 3 ? Sanitize(parts[3]) : "",
               adapter.enabled() ? "yes" : "no", absl::StrCat(adapter.rank()),
               FormatNumber(adapter.alpha()),
               adapter.job().empty() ? "-" : ShortName(adapter.job()),
               AgeOf(adapter.create_time())});
  }
  return table.Render(terminal);
}

absl::Status ListAdapters(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft adapter list [MODEL]"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  v1::ListAdaptersRequest request;
  request.set_parent(invocation.word_count() > 0 ? client->Name("models", *invocation.Word(0, ""))
                                                 : absl::StrCat(client->workspace(), "/models/-"));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<v1::Adapter> adapters,
                         AllPages(*client, client->models(), &v1::ModelService::Stub::ListAdapters,
                                  std::move(request), &v1::ListAdaptersResponse::adapters));
  return invocation.PrintList(Messages(adapters),
                              [&] { return AdapterTable(invocation.out, adapters); });
}

absl::StatusOr<v1::Adapter> FetchAdapter(client::Client& client, const std::string& name) {
  v1::GetAdapterRequest request;
  request.set_name(name);
  return client.Call<v1::Adapter>(client.models(), &v1::ModelService::Stub::GetAdapter, request,
                                  {.idempotent = true});
}

absl::Status GetAdapter(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft adapter get MODEL ADAPTER"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  size_t next = 0;
  GRAFT_ASSIGN_OR_RETURN(const std::string name, AdapterName(invocation, *client, next));
  GRAFT_ASSIGN_OR_RETURN(const v1::Adapter adapter, FetchAdapter(*client, name));
  return invocation.Print(adapter, [&] { return AdapterTable(invocation.out, {adapter}); });
}

absl::Status ExportAdapter(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft adapter export MODEL ADAPTER FOLDER"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  size_t next = 0;
  GRAFT_ASSIGN_OR_RETURN(const std::string name, AdapterName(invocation, *client, next));
  GRAFT_ASSIGN_OR_RETURN(const std::string target, invocation.Word(next, "the FOLDER to write to"));
  GRAFT_ASSIGN_OR_RETURN(const v1::Adapter adapter, FetchAdapter(*client, name));
  return Export(invocation, adapter.fileset(), target);
}

absl::Status SetEnabled(Invocation& invocation, bool enabled) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse(enabled ? "graft adapter enable MODEL ADAPTER"
                                                 : "graft adapter disable MODEL ADAPTER"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  size_t next = 0;
  GRAFT_ASSIGN_OR_RETURN(const std::string name, AdapterName(invocation, *client, next));
  absl::StatusOr<v1::Adapter> adapter;
  if (enabled) {
    v1::EnableAdapterRequest request;
    request.set_name(name);
    adapter = client->Call<v1::Adapter>(client->models(), &v1::ModelService::Stub::EnableAdapter,
                                        request);
  } else {
    v1::DisableAdapterRequest request;
    request.set_name(name);
    adapter = client->Call<v1::Adapter>(client->models(), &v1::ModelService::Stub::DisableAdapter,
                                        request);
  }
  GRAFT_RETURN_IF_ERROR(adapter.status());
  invocation.Say(absl::StrCat(enabled ? "enabled " : "disabled ", name));
  return absl::OkStatus();
}

absl::Status EnableAdapter(Invocation& invocation) { return SetEnabled(invocation, true); }
absl::Status DisableAdapter(Invocation& invocation) { return SetEnabled(invocation, false); }

}  // namespace

const std::vector<Command>& ModelCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"model import", "upload a model and read what it is", ImportModel},
      {"model list", "the models of the workspace", ListModels},
      {"model get", "one model", GetModel},
      {"model export", "download a model's files", ExportModel},
      {"model delete", "remove a model", DeleteModel},
      {"adapter list", "the adapters of a model, or of all", ListAdapters},
      {"adapter get", "one adapter", GetAdapter},
      {"adapter enable", "let it answer", EnableAdapter},
      {"adapter disable", "let it answer no more", DisableAdapter},
      {"adapter export", "download it as a PEFT folder", ExportAdapter},
  };
  return commands;
}

}  // namespace graft::cli
