#include "fileservice/service/fileset_service.h"

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/random.h"
#include "base/status_macros.h"
#include "fileservice/service/access.h"
#include "fileservice/service/convert.h"
#include "fileservice/service/in_place.h"
#include "fileservice/service/paging.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

using google::protobuf::Empty;

absl::StatusOr<Empty> Done(const absl::Status& status) {
  GRAFT_RETURN_IF_ERROR(status);
  return Empty();
}

absl::StatusOr<int64_t> NumberOf(const ChildName& name) {
  int64_t number = 0;
  if (absl::SimpleAtoi(name.id, &number) && number > 0) return number;
  return absl::InvalidArgumentError(absl::StrCat("\"", name.id, "\" is not a version's number"));
}

// Where a fileset stands in a list of this order.
std::string PlaceOf(const FilesetOrder& order, const FilesetRecord& record) {
  const std::string name = absl::StrCat(record.workspace, "/", record.name);
  return order.key == nullptr ? name : absl::StrCat(order.key(record), " ", name);
}

// Sets in `record` what the mask names, or what is present where there is none.
absl::Status Apply(const v1::UpdateFileSetRequest& request, FilesetRecord& record) {
  std::vector<std::string> paths(request.update_mask().paths().begin(),
                                 request.update_mask().paths().end());
  const v1::FileSet& message = request.fileset();
  if (paths.empty()) {
    if (!message.description().empty()) paths.push_back("description");
    if (message.labels_size() > 0) paths.push_back("labels");
    if (!message.project().empty()) paths.push_back("project");
    if (message.has_retention()) paths.push_back("retention");
  }
  const FilesetRecord wanted = FromMessage(message, record.workspace, record.name);
  for (const std::string& path : paths) {
    if (path == "description") {
      record.description = wanted.description;
    } else if (path == "labels") {
      record.labels = wanted.labels;
    } else if (path == "project") {
      record.project = wanted.project;
    } else if (path == "retention") {
      record.keep_last = wanted.keep_last;
      record.keep_for_s = wanted.keep_for_s;
    } else {
      return rpc::ErrorBuilder(
                 absl::StatusCode::kInvalidArgument,
                 absl::StrCat("update_mask names ", path,
                              "; description, labels, project and retention can change"))
          .Reason("FIELD_MASK_INVALID")
          .Metadata("path", path)
          .Build();
    }
  }
  return absl::OkStatus();
}

}  // namespace

rpc::Service FileSetService::Bind() {
  rpc::Service service("graft.v1.FileSetService");
  service.Unary("CreateFileSet", this, &FileSetService::CreateFileSet)
      .Unary("GetFileSet", this, &FileSetService::GetFileSet)
      .Unary("ListFileSets", this, &FileSetService::ListFileSets)
      .Unary("UpdateFileSet", this, &FileSetService::UpdateFileSet)
      .Unary("RenameFileSet", this, &FileSetService::RenameFileSet)
      .Unary("DeleteFileSet", this, &FileSetService::DeleteFileSet)
      .Unary("GetFileSetVersion", this, &FileSetService::GetFileSetVersion)
      .Unary("ListFileSetVersions", this, &FileSetService::ListFileSetVersions)
      .Unary("DeleteFileSetVersion", this, &FileSetService::DeleteFileSetVersion)
      .Unary("ListFiles", this, &FileSetService::ListFiles)
      .Unary("DiffVersions", this, &FileSetService::DiffVersions)
      .Unary("CopyVersion", this, &FileSetService::CopyVersion)
      .Unary("RegisterInPlace", this, &FileSetService::RegisterInPlace)
      .Unary("SetFileSetRef", this, &FileSetService::SetFileSetRef)
      .Unary("GetFileSetRef", this, &FileSetService::GetFileSetRef)
      .Unary("ListFileSetRefs", this, &FileSetService::ListFileSetRefs)
      .Unary("DeleteFileSetRef", this, &FileSetService::DeleteFileSetRef)
      .Unary("PutPin", this, &FileSetService::PutPin)
      .Unary("DeletePin", this, &FileSetService::DeletePin)
      .Unary("ListPins", this, &FileSetService::ListPins);
  return service;
}

absl::StatusOr<v1::FileSet> FileSetService::CreateFileSet(const rpc::Call& call,
                                                          const v1::CreateFileSetRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const std::string workspace, ParseWorkspaceName(request.parent()));
  if (workspace.empty()) return absl::InvalidArgumentError("parent must name one workspace");
  GRAFT_RETURN_IF_ERROR(CheckFilesetMessage(request.fileset()));
  SecureRandom random;
  const std::string id = request.fileset_id().empty() ? random.Id(12) : request.fileset_id();
  FilesetRecord record = FromMessage(request.fileset(), workspace, id);
  record.creator = call.identity->subject;
  GRAFT_ASSIGN_OR_RETURN(record, catalog_.CreateFileset(std::move(record), request.request_id(),
                                                        request.validate_only()));
  return ToMessage(record);
}

absl::StatusOr<v1::FileSet> FileSetService::GetFileSet(const rpc::Call& call,
                                                       const v1::GetFileSetRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const FilesetName name, ParseFilesetName(request.name()));
  GRAFT_ASSIGN_OR_RETURN(const FilesetRecord record, catalog_.GetFileset(name));
  return ToMessage(record);
}

absl::StatusOr<v1::ListFileSetsResponse> FileSetService::ListFileSets(
    const rpc::Call& call, const v1::ListFileSetsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const std::string workspace, ParseWorkspaceName(request.parent()));
  GRAFT_ASSIGN_OR_RETURN(const size_t limit, PageSize(request.page_size()));
  GRAFT_ASSIGN_OR_RETURN(const auto matches, ParseFilesetFilter(request.filter()));
  GRAFT_ASSIGN_OR_RETURN(const FilesetOrder order, ParseFilesetOrder(request.order_by()));
  const std::string list = absl::StrCat("ListFileSets ", request.parent(), " ", request.order_by(),
                                        " ", request.filter());
  GRAFT_ASSIGN_OR_RETURN(const std::string key, PageKey(list, request.page_token()));
  const auto keep = [&](const FilesetRecord& record) {
    return MayRead(call, record.workspace) && matches(record);
  };
  GRAFT_ASSIGN_OR_RETURN(const std::vector<FilesetRecord> records,
                         order.key == nullptr
                             ? ListByName(workspace, keep, key, limit + 1)
                             : ListInOrder(workspace, keep, order, key, limit + 1));
  v1::ListFileSetsResponse response;
  for (size_t i = 0; i < std::min(limit, records.size()); ++i) {
    *response.add_filesets() = ToMessage(records[i]);
  }
  if (records.size() > limit) {
    response.set_next_page_token(PageToken(list, PlaceOf(order, records[limit - 1])));
  }
  return response;
}

absl::StatusOr<std::vector<FilesetRecord>> FileSetService::ListByName(const std::string& workspace,
                                                                      const KeepFileset& keep,
                                                                      const std::string& after,
                                                                      size_t limit) const {
  std::pair<std::string, std::string> from;
  if (!after.empty()) from = absl::StrSplit(after, absl::MaxSplits('/', 1));
  return catalog_.ListFilesets(workspace, keep, from, limit);
}

// Reads all that match: other orders than the names' are for people, who have hundreds.
absl::StatusOr<std::vector<FilesetRecord>> FileSetService::ListInOrder(const std::string& workspace,
                                                                       const KeepFileset& keep,
                                                                       const FilesetOrder& order,
                                                                       const std::string& after,
                                                                       size_t limit) const {
  GRAFT_ASSIGN_OR_RETURN(std::vector<FilesetRecord> records,
                         catalog_.ListFilesets(workspace, keep, {}, SIZE_MAX));
  const auto before = [&order](const std::string& a, const std::string& b) {
    return order.descending ? b < a : a < b;
  };
  std::sort(records.begin(), records.end(), [&](const FilesetRecord& a, const FilesetRecord& b) {
    return before(PlaceOf(order, a), PlaceOf(order, b));
  });
  auto from = records.begin();
  while (!after.empty() && from != records.end() && !before(after, PlaceOf(order, *from))) ++from;
  records.erase(records.begin(), from);
  if (records.size() > limit) records.resize(limit);
  return records;
}

absl::StatusOr<v1::FileSet> FileSetService::UpdateFileSet(const rpc::Call& call,
                                                          const v1::UpdateFileSetRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const FilesetName name, ParseFilesetName(request.fileset().name()));
  GRAFT_RETURN_IF_ERROR(CheckFilesetMessage(request.fileset()));
  GRAFT_ASSIGN_OR_RETURN(
      const FilesetRecord record,
      catalog_.UpdateFileset(name, request.fileset().etag(),
                             [&](FilesetRecord& record) { return Apply(request, record); }));
  return ToMessage(record);
}

absl::StatusOr<v1::FileSet> FileSetService::RenameFileSet(const rpc::Call& call,
                                                          const v1::RenameFileSetRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const FilesetName name, ParseFilesetName(request.name()));
  GRAFT_ASSIGN_OR_RETURN(const FilesetRecord record,
                         catalog_.RenameFileset(name, request.new_fileset_id(), request.etag()));
  return ToMessage(record);
}

absl::StatusOr<Empty> FileSetService::DeleteFileSet(const rpc::Call& call,
                                                    const v1::DeleteFileSetRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const FilesetName name, ParseFilesetName(request.name()));
  return Done(catalog_.DeleteFileset(name, request.etag(), request.allow_missing()));
}

absl::StatusOr<v1::FileSetVersion> FileSetService::Describe(const ResolvedVersion& version) const {
  const FilesetName name = version.fileset_name();
  GRAFT_ASSIGN_OR_RETURN(const std::vector<Ref> refs, catalog_.ListRefs(name));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<Pin> pins,
                         catalog_.ListPins(version.fileset, version.version.number));
  return ToMessage(name, version.version, refs, pins);
}

absl::StatusOr<v1::FileSetVersion> FileSetService::GetFileSetVersion(
    const rpc::Call& call, const v1::GetFileSetVersionRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion version,
                         ReadableVersion(catalog_, call, request.name()));
  return Describe(version);
}

absl::StatusOr<v1::ListFileSetVersionsResponse> FileSetService::ListFileSetVersions(
    const rpc::Call& call, const v1::ListFileSetVersionsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const FilesetName name, ParseFilesetName(request.parent()));
  GRAFT_ASSIGN_OR_RETURN(const size_t limit, PageSize(request.page_size()));
  const std::string list =
      absl::StrCat("ListFileSetVersions ", request.parent(), " ", request.filter());
  GRAFT_ASSIGN_OR_RETURN(const std::string key, PageKey(list, request.page_token()));
  int64_t below = INT64_MAX;
  if (!key.empty() && !absl::SimpleAtoi(key, &below)) below = INT64_MAX;
  GRAFT_ASSIGN_OR_RETURN(const FilesetRecord fileset, catalog_.GetFileset(name));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<Ref> refs, catalog_.ListRefs(name));
  GRAFT_ASSIGN_OR_RETURN(const auto matches, ParseVersionFilter(request.filter(), refs));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<Pin> pins, catalog_.ListPins(fileset, 0));
  v1::ListFileSetVersionsResponse response;
  // A page at a time of the catalog's, until this one is full and one more shows that it goes on.
  while (true) {
    GRAFT_ASSIGN_OR_RETURN(const std::vector<VersionRecord> versions,
                           catalog_.ListVersions(fileset, below, limit + 1));
    for (const VersionRecord& version : versions) {
      below = version.number;
      if (!matches(version)) continue;
      const auto full = static_cast<int>(limit);
      if (response.versions_size() == full) {
        response.set_next_page_token(
            PageToken(list, absl::StrCat(response.versions(full - 1).number())));
        return response;
      }
      *response.add_versions() = ToMessage(name, version, refs, pins);
    }
    if (versions.size() <= limit) return response;
  }
}

absl::StatusOr<Empty> FileSetService::DeleteFileSetVersion(
    const rpc::Call& call, const v1::DeleteFileSetVersionRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion version,
                         ReadableVersion(catalog_, call, request.name()));
  return Done(catalog_.DeleteVersion(version.fileset_name(), version.version.number));
}

absl::StatusOr<v1::ListFilesResponse> FileSetService::ListFiles(
    const rpc::Call& call, const v1::ListFilesRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion version,
                         ReadableVersion(catalog_, call, request.parent()));
  GRAFT_ASSIGN_OR_RETURN(const size_t limit, PageSize(request.page_size()));
  const std::string list = absl::StrCat("ListFiles ", request.parent(), " ", request.path_prefix());
  GRAFT_ASSIGN_OR_RETURN(const std::string start, PageKey(list, request.page_token()));
  v1::ListFilesResponse response;
  response.set_version(version.name());
  GRAFT_RETURN_IF_ERROR(catalog_.VisitEntries(
      version, request.path_prefix(), start, [&](absl::string_view path, const Entry& entry) {
        if (static_cast<size_t>(response.files_size()) == limit) {
          response.set_next_page_token(PageToken(list, path));
          return false;
        }
        *response.add_files() = ToMessage(path, entry);
        return true;
      }));
  return response;
}

absl::StatusOr<v1::FileSetVersion> FileSetService::CopyVersion(
    const rpc::Call& call, const v1::CopyVersionRequest& request) {
  // The rule was checked against the target; whoever copies must also be able to read the source.
  rpc::AccessRule viewer = call.rule;
  viewer.role = rpc::Role::kViewer;
  GRAFT_ASSIGN_OR_RETURN(const ChildName source_name, ParseChildName(request.source(), "versions"));
  GRAFT_ASSIGN_OR_RETURN(const FilesetName target, ParseFilesetName(request.target()));
  GRAFT_RETURN_IF_ERROR(rpc::CheckAccess(viewer, *call.identity, source_name.fileset.workspace));
  GRAFT_RETURN_IF_ERROR(call.CheckWorkspace(target.workspace));
  GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion source,
                         catalog_.Resolve(source_name.fileset, source_name.id));
  GRAFT_ASSIGN_OR_RETURN(
      const ResolvedVersion copy,
      catalog_.CopyVersion(source, target,
                           IfSet(request.has_expected_latest(), request.expected_latest()),
                           request.message(), call.identity->subject, request.request_id()));
  return Describe(copy);
}

absl::StatusOr<v1::FileSetVersion> FileSetService::RegisterInPlace(
    const rpc::Call& call, const v1::RegisterInPlaceRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const FilesetName name, ParseFilesetName(request.fileset()));
  GRAFT_ASSIGN_OR_RETURN(const InPlaceFolder folder,
                         ScanInPlace(request.path(), options_.in_place_roots));
  GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion version,
                         catalog_.PublishInPlace(name, static_cast<int>(request.purpose()),
                                                 folder.root, folder.entries, request.message(),
                                                 call.identity->subject, request.request_id()));
  return Describe(version);
}

absl::StatusOr<v1::FileSetRef> FileSetService::SetFileSetRef(
    const rpc::Call& call, const v1::SetFileSetRefRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const ChildName name, ParseChildName(request.ref().name(), "refs"));
  GRAFT_ASSIGN_OR_RETURN(const Ref ref,
                         catalog_.SetRef(name.fileset, name.id, request.ref().version(),
                                         request.expected_version(), call.identity->subject));
  return ToMessage(ref);
}

absl::StatusOr<v1::FileSetRef> FileSetService::GetFileSetRef(
    const rpc::Call& call, const v1::GetFileSetRefRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const ChildName name, ParseChildName(request.name(), "refs"));
  GRAFT_ASSIGN_OR_RETURN(const Ref ref, catalog_.GetRef(name.fileset, name.id));
  return ToMessage(ref);
}

absl::StatusOr<v1::ListFileSetRefsResponse> FileSetService::ListFileSetRefs(
    const rpc::Call& call, const v1::ListFileSetRefsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const FilesetName name, ParseFilesetName(request.parent()));
  GRAFT_ASSIGN_OR_RETURN(const size_t limit, PageSize(request.page_size()));
  const std::string list = "ListFileSetRefs " + request.parent();
  GRAFT_ASSIGN_OR_RETURN(const std::string after, PageKey(list, request.page_token()));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<Ref> refs, catalog_.ListRefs(name));
  v1::ListFileSetRefsResponse response;
  for (const Ref& ref : refs) {
    if (ref.name <= after) continue;
    if (static_cast<size_t>(response.refs_size()) == limit) {
      const std::string& last = response.refs(response.refs_size() - 1).name();
      response.set_next_page_token(PageToken(list, last.substr(last.rfind('/') + 1)));
      break;
    }
    *response.add_refs() = ToMessage(ref);
  }
  return response;
}

absl::StatusOr<Empty> FileSetService::DeleteFileSetRef(const rpc::Call& call,
                                                       const v1::DeleteFileSetRefRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const ChildName name, ParseChildName(request.name(), "refs"));
  return Done(catalog_.DeleteRef(
      name.fileset, name.id, IfSet(request.has_expected_version(), request.expected_version())));
}

absl::StatusOr<v1::Pin> FileSetService::PutPin(const rpc::Call& call,
                                               const v1::PutPinRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const ChildName name, ParseChildName(request.pin().version(), "versions"));
  GRAFT_ASSIGN_OR_RETURN(const int64_t number, NumberOf(name));
  GRAFT_ASSIGN_OR_RETURN(const Pin pin,
                         catalog_.PutPin(name.fileset, number, request.pin().holder()));
  return ToMessage(pin);
}

absl::StatusOr<Empty> FileSetService::DeletePin(const rpc::Call& call,
                                                const v1::DeletePinRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const ChildName name, ParseChildName(request.pin().version(), "versions"));
  GRAFT_ASSIGN_OR_RETURN(const int64_t number, NumberOf(name));
  return Done(catalog_.DeletePin(name.fileset, number, request.pin().holder()));
}

absl::StatusOr<v1::ListPinsResponse> FileSetService::ListPins(const rpc::Call& call,
                                                              const v1::ListPinsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const size_t limit, PageSize(request.page_size()));
  const std::string list = absl::StrCat("ListPins ", request.parent(), " ", request.holder());
  GRAFT_ASSIGN_OR_RETURN(const std::string after, PageKey(list, request.page_token()));
  std::vector<FilesetRecord> filesets;
  int64_t number = 0;
  const size_t parts = std::count(request.parent().begin(), request.parent().end(), '/') + 1;
  if (parts == 2) {
    GRAFT_ASSIGN_OR_RETURN(const std::string workspace, ParseWorkspaceName(request.parent()));
    const auto readable = [&](const FilesetRecord& record) {
      return MayRead(call, record.workspace);
    };
    GRAFT_ASSIGN_OR_RETURN(filesets, catalog_.ListFilesets(workspace, readable, {}, SIZE_MAX));
  } else if (parts == 4) {
    GRAFT_ASSIGN_OR_RETURN(const FilesetName name, ParseFilesetName(request.parent()));
    GRAFT_ASSIGN_OR_RETURN(const FilesetRecord record, catalog_.GetFileset(name));
    filesets.push_back(record);
  } else {
    GRAFT_ASSIGN_OR_RETURN(const ChildName name, ParseChildName(request.parent(), "versions"));
    GRAFT_ASSIGN_OR_RETURN(number, NumberOf(name));
    GRAFT_ASSIGN_OR_RETURN(const FilesetRecord record, catalog_.GetFileset(name.fileset));
    filesets.push_back(record);
  }
  v1::ListPinsResponse response;
  std::string last;
  for (const FilesetRecord& fileset : filesets) {
    GRAFT_ASSIGN_OR_RETURN(const std::vector<Pin> pins, catalog_.ListPins(fileset, number));
    for (const Pin& pin : pins) {
      if (!request.holder().empty() && pin.holder != request.holder()) continue;
      const std::string key = absl::StrCat(FilesetKey(fileset.workspace, fileset.name), "/",
                                           VersionKey("", pin.version), pin.holder);
      if (key <= after) continue;
      if (static_cast<size_t>(response.pins_size()) == limit) {
        response.set_next_page_token(PageToken(list, last));
        return response;
      }
      *response.add_pins() = ToMessage(pin);
      last = key;
    }
  }
  return response;
}

absl::StatusOr<v1::DiffVersionsResponse> FileSetService::DiffVersions(
    const rpc::Call& call, const v1::DiffVersionsRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion from,
                         ReadableVersion(catalog_, call, request.from()));
  GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion to, ReadableVersion(catalog_, call, request.to()));
  GRAFT_ASSIGN_OR_RETURN(const size_t limit, PageSize(request.page_size()));
  const std::string list = absl::StrCat("DiffVersions ", from.name(), " ", to.name());
  GRAFT_ASSIGN_OR_RETURN(const std::string start, PageKey(list, request.page_token()));
  absl::btree_map<std::string, std::pair<std::optional<Entry>, std::optional<Entry>>> files;
  const auto collect = [&](const ResolvedVersion& version, bool newer) {
    return catalog_.VisitEntries(version, "", start,
                                 [&](absl::string_view path, const Entry& entry) {
                                   auto& pair = files[std::string(path)];
                                   (newer ? pair.second : pair.first) = entry;
                                   return true;
                                 });
  };
  GRAFT_RETURN_IF_ERROR(collect(from, false));
  GRAFT_RETURN_IF_ERROR(collect(to, true));
  v1::DiffVersionsResponse response;
  for (const auto& [path, pair] : files) {
    const auto& [before, after] = pair;
    if (before.has_value() && after.has_value() && before->sha256 == after->sha256 &&
        before->executable == after->executable) {
      continue;
    }
    if (static_cast<size_t>(response.diffs_size()) == limit) {
      response.set_next_page_token(PageToken(list, path));
      break;
    }
    v1::FileDiff& diff = *response.add_diffs();
    diff.set_kind(!before.has_value()  ? v1::FileDiff::KIND_ADDED
                  : !after.has_value() ? v1::FileDiff::KIND_REMOVED
                                       : v1::FileDiff::KIND_CHANGED);
    if (before.has_value()) *diff.mutable_before() = ToMessage(path, *before);
    if (after.has_value()) *diff.mutable_after() = ToMessage(path, *after);
    const bool chunked = from.version.in_place_root.empty() && to.version.in_place_root.empty();
    if (!before.has_value() || !after.has_value() || !chunked) continue;
    GRAFT_ASSIGN_OR_RETURN(const FilePage old_file, catalog_.GetFile(before->sha256));
    GRAFT_ASSIGN_OR_RETURN(const FilePage new_file, catalog_.GetFile(after->sha256));
    absl::flat_hash_set<ChunkId> known;
    for (const ChunkRef& chunk : old_file.chunks) known.insert(chunk.id);
    int64_t shared = 0;
    for (const ChunkRef& chunk : new_file.chunks) {
      if (known.contains(chunk.id)) shared += chunk.size;
    }
    diff.set_shared_bytes(shared);
  }
  return response;
}

}  // namespace graft::fileservice
