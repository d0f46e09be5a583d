// graft dataset and graft fileset.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status_macros.h"
#include "client/cli/command.h"
#include "client/cli/resources.h"
#include "client/cli/transfer_progress.h"
#include "graft/v1/fileset.grpc.pb.h"

namespace graft::cli {
namespace {

absl::Status Upload(Invocation& invocation, v1::FileSetPurpose purpose, absl::string_view usage) {
  std::string message;
  invocation.flags.String("message", &message, "TEXT", "what this version is");
  invocation.flags.Short('m');
  GRAFT_RETURN_IF_ERROR(invocation.Parse(usage));
  GRAFT_ASSIGN_OR_RETURN(const std::string id, invocation.Word(0, "the NAME"));
  GRAFT_ASSIGN_OR_RETURN(const std::string path,
                         invocation.Word(1, "the PATH of a file or folder"));
  if (!FileExists(path)) return absl::NotFoundError(absl::StrCat("there is nothing at ", path));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(fileservice::Client * files, client->Files());
  fileservice::UploadOptions options;
  options.purpose = purpose;
  options.message = message;
  TransferProgress progress(invocation.err, "uploading");
  GRAFT_ASSIGN_OR_RETURN(
      const fileservice::Published published,
      files->UploadFolder(path, client->Name("filesets", id), options, progress.callback()));
  progress.Finish(published.totals);
  printf("%s\n", published.version.c_str());
  return absl::OkStatus();
}

absl::Status UploadDataset(Invocation& invocation) {
  return Upload(invocation, v1::FILE_SET_PURPOSE_DATASET, "graft dataset upload NAME PATH");
}
absl::Status UploadFileset(Invocation& invocation) {
  return Upload(invocation, v1::FILE_SET_PURPOSE_GENERIC, "graft fileset upload NAME PATH");
}

// Those of one purpose, or all where it is unspecified.
absl::Status ListFilesets(Invocation& invocation, v1::FileSetPurpose purpose,
                          absl::string_view usage) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse(usage));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(rpc::Connection * connection, client->FilesConnection());
  const auto stub = v1::FileSetService::NewStub(connection->channel());
  v1::ListFileSetsRequest request;
  request.set_parent(client->workspace());
  request.set_page_size(kPageSize);
  std::vector<v1::FileSet> filesets;
  do {
    GRAFT_ASSIGN_OR_RETURN(const auto page, connection->Call<v1::ListFileSetsResponse>(
                                                *stub, &v1::FileSetService::Stub::ListFileSets,
                                                request, {.idempotent = true}));
    for (const v1::FileSet& fileset : page.filesets()) {
      if (purpose == v1::FILE_SET_PURPOSE_UNSPECIFIED || fileset.purpose() == purpose) {
        filesets.push_back(fileset);
      }
    }
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  std::vector<const google::protobuf::Message*> messages;
  for (const v1::FileSet& fileset : filesets) messages.push_back(&fileset);
  return invocation.PrintList(messages, [&] {
    Table table({"NAME", "PURPOSE", "VERSIONS", "SIZE", "AGE"});
    table.AlignRight(2);
    table.AlignRight(3);
    for (const v1::FileSet& fileset : filesets) {
      table.Add({ShortName(fileset.name()),
                 WordOf(v1::FileSetPurpose_Name(fileset.purpose()), "FILE_SET_PURPOSE_"),
                 absl::StrCat(fileset.version_count()), FormatBytes(fileset.logical_bytes()),
                 AgeOf(fileset.create_time())});
    }
    return table.Render(invocation.out);
  });
}

absl::Status ListDatasets(Invocation& invocation) {
  return ListFilesets(invocation, v1::FILE_SET_PURPOSE_DATASET, "graft dataset list");
}
absl::Status ListAllFilesets(Invocation& invocation) {
  return ListFilesets(invocation, v1::FILE_SET_PURPOSE_UNSPECIFIED, "graft fileset list");
}

absl::Status ListFiles(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft fileset files NAME[@VERSION]"));
  GRAFT_ASSIGN_OR_RETURN(const std::string word, invocation.Word(0, "the NAME"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(fileservice::Client * files, client->Files());
  GRAFT_ASSIGN_OR_RETURN(const std::vector<fileservice::RemoteFile> list,
                         files->ListFiles(FilesetVersion(*client, word)));
  Table table({"PATH", "SIZE", "SHA-256"});
  table.AlignRight(1);
  for (const fileservice::RemoteFile& file : list) {
    table.Add({Sanitize(file.path), FormatBytes(file.size), file.sha256.substr(0, 16)});
  }
  fputs(table.Render(invocation.out).c_str(), stdout);
  return absl::OkStatus();
}

absl::Status Download(Invocation& invocation) {
  GRAFT_RETURN_IF_ERROR(invocation.Parse("graft fileset download NAME[@VERSION] FOLDER"));
  GRAFT_ASSIGN_OR_RETURN(const std::string word, invocation.Word(0, "the NAME"));
  GRAFT_ASSIGN_OR_RETURN(const std::string target, invocation.Word(1, "the FOLDER to write to"));
  GRAFT_ASSIGN_OR_RETURN(client::Client * client, invocation.Connect());
  GRAFT_ASSIGN_OR_RETURN(fileservice::Client * files, client->Files());
  TransferProgress progress(invocation.err, "downloading");
  GRAFT_ASSIGN_OR_RETURN(
      const fileservice::Downloaded done,
      files->DownloadVersion(FilesetVersion(*client, word), target, {}, progress.callback()));
  progress.Finish(done.totals);
  return absl::OkStatus();
}

}  // namespace

const std::vector<Command>& DatasetCommands() {
  static const auto& commands = *new std::vector<Command>{
      {"dataset upload", "upload rows: a file, or a folder with training/ and validation/",
       UploadDataset},
      {"dataset list", "the datasets of the workspace", ListDatasets},
      {"fileset upload", "upload any folder as the next version", UploadFileset},
      {"fileset list", "every fileset of the workspace", ListAllFilesets},
      {"fileset files", "the files of a version", ListFiles},
      {"fileset download", "download a version", Download},
  };
  return commands;
}

}  // namespace graft::cli
