#include "fileservice/service/data_service.h"

#include <algorithm>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/status_macros.h"
#include "fileservice/cas/encoding.h"
#include "fileservice/service/access.h"
#include "fileservice/service/convert.h"
#include "fileservice/service/file_intake.h"
#include "fileservice/service/paging.h"
#include "fileservice/service/stage_stream.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

constexpr int32_t kMaxManifestChunks = 65536;

}  // namespace

rpc::Service DataService::Bind() {
  rpc::Service service("graft.v1.DataService");
  service.Unary("CreateUploadSession", this, &DataService::CreateUploadSession)
      .Unary("GetUploadSession", this, &DataService::GetUploadSession)
      .Unary("AbortUploadSession", this, &DataService::AbortUploadSession)
      .Unary("FindMissing", this, &DataService::FindMissing)
      .Unary("Publish", this, &DataService::Publish)
      .Unary("GetManifest", this, &DataService::GetManifest)
      .BidiReactor("Upload", this, &DataService::Upload)
      .ReadReactor("StageFiles", this, &DataService::StageFiles)
      .ReadReactor("UploadFile", this, &DataService::UploadFile)
      .Unary("QueryUpload", this, &DataService::QueryUpload)
      .Unary("SignUrl", this, &DataService::SignUrl)
      .WriteReactor("DownloadChunks", this, &DataService::DownloadChunks)
      .WriteReactor("Download", this, &DataService::Download);
  // Left unbound it answers UNIMPLEMENTED.
  if (exchange_ != nullptr) {
    service.BidiReactor("ExchangePieces", this, &DataService::ExchangePieces);
  }
  return service;
}

Exchange::Reactor* DataService::ExchangePieces(std::shared_ptr<rpc::Call> call) {
  return exchange_->Start(std::move(call));
}

absl::StatusOr<v1::UploadSession> DataService::CreateUploadSession(
    const rpc::Call& call, const v1::CreateUploadSessionRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const FilesetName name, ParseFilesetName(request.parent()));
  const v1::UploadSession& wanted = request.upload_session();
  SessionRecord session;
  session.workspace = name.workspace;
  session.fileset = name.fileset;
  session.creator = call.identity->subject;
  session.removed_paths.assign(wanted.removed_paths().begin(), wanted.removed_paths().end());
  session.expected_bytes = wanted.expected_bytes();
  session.fenced = wanted.fenced();
  if (!wanted.base_version().empty()) {
    GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion base,
                           ReadableVersion(plane_.catalog, call, wanted.base_version()));
    if (base.fileset.workspace != name.workspace || base.fileset.name != name.fileset) {
      return absl::InvalidArgumentError("base_version must be of the session's own fileset");
    }
    session.base_version = base.version.number;
  }
  if (session.fenced && call.identity->kind != rpc::IdentityKind::kScheduler) {
    return absl::PermissionDeniedError("only the scheduler opens fenced sessions");
  }
  GRAFT_ASSIGN_OR_RETURN(session,
                         plane_.catalog.CreateSession(std::move(session), request.request_id()));
  return ToMessage(session);
}

absl::StatusOr<v1::UploadSession> DataService::GetUploadSession(
    const rpc::Call& call, const v1::GetUploadSessionRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const SessionRecord session,
                         KnownSession(plane_.catalog, call, request.name()));
  return ToMessage(session);
}

absl::StatusOr<google::protobuf::Empty> DataService::AbortUploadSession(
    const rpc::Call& call, const v1::AbortUploadSessionRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const SessionRecord session,
                         KnownSession(plane_.catalog, call, request.name()));
  GRAFT_RETURN_IF_ERROR(CheckFence(call, session));
  GRAFT_RETURN_IF_ERROR(plane_.catalog.AbortSession(session.id));
  return google::protobuf::Empty();
}

absl::StatusOr<v1::FindMissingResponse> DataService::FindMissing(
    const rpc::Call& call, const v1::FindMissingRequest& request) {
  const std::string& bytes = request.chunk_ids();
  if (bytes.size() % sizeof(ChunkId) != 0 || bytes.size() / sizeof(ChunkId) > kMaxIds) {
    return absl::InvalidArgumentError(
        absl::StrCat("chunk_ids has ", bytes.size(), " bytes: 32 for each of at most 65536 ids"));
  }
  GRAFT_ASSIGN_OR_RETURN(const SessionRecord session,
                         UsableSession(plane_.catalog, call, request.session()));
  std::vector<ChunkId> ids(bytes.size() / sizeof(ChunkId));
  for (size_t i = 0; i < ids.size(); ++i) {
    ids[i] = DigestFromBytes(absl::string_view(bytes).substr(i * sizeof(ChunkId)));
  }
  GRAFT_ASSIGN_OR_RETURN(const std::vector<uint32_t> missing,
                         plane_.store.FindMissing(session.workspace, session.id, ids));
  v1::FindMissingResponse response;
  response.mutable_missing()->Add(missing.begin(), missing.end());
  return response;
}

absl::StatusOr<v1::FileSetVersion> DataService::Publish(const rpc::Call& call,
                                                        const v1::PublishRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const SessionRecord session,
                         KnownSession(plane_.catalog, call, request.session()));
  GRAFT_RETURN_IF_ERROR(CheckFence(call, session));
  if (!request.pin_holder().empty() && call.identity->kind != rpc::IdentityKind::kScheduler) {
    return absl::PermissionDeniedError("only the scheduler sets pin_holder");
  }
  PublishRequest publish;
  publish.session = session.id;
  publish.expected_latest = IfSet(request.has_expected_latest(), request.expected_latest());
  publish.ref = request.ref();
  publish.expected_ref_version =
      IfSet(request.has_expected_ref_version(), request.expected_ref_version());
  publish.message = request.message();
  publish.labels = Labels(request.labels().begin(), request.labels().end());
  publish.pin_holder = request.pin_holder();
  publish.actor = call.identity->subject;
  GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion version, plane_.catalog.Publish(publish));
  const FilesetName name = version.fileset_name();
  GRAFT_ASSIGN_OR_RETURN(const std::vector<Ref> refs, plane_.catalog.ListRefs(name));
  GRAFT_ASSIGN_OR_RETURN(const std::vector<Pin> pins,
                         plane_.catalog.ListPins(version.fileset, version.version.number));
  return ToMessage(name, version.version, refs, pins);
}

// A page token is "<first chunk> <path>": where to go on.
absl::StatusOr<v1::GetManifestResponse> DataService::GetManifest(
    const rpc::Call& call, const v1::GetManifestRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion version,
                         ReadableVersion(plane_.catalog, call, request.version()));
  if (!version.version.in_place_root.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat(version.name(), " was registered in place and has no chunks: use Download"));
  }
  if (request.page_size() < 0) return absl::InvalidArgumentError("page_size must not be negative");
  int64_t left = request.page_size() == 0 ? kMaxManifestChunks
                                          : std::min(request.page_size(), kMaxManifestChunks);
  const std::string list = absl::StrCat("GetManifest ", version.name(), " ", request.path_prefix());
  GRAFT_ASSIGN_OR_RETURN(const std::string key, PageKey(list, request.page_token()));
  const std::pair<std::string, std::string> from = absl::StrSplit(key, absl::MaxSplits(' ', 1));
  int64_t skip = 0;
  if (!key.empty() && !absl::SimpleAtoi(from.first, &skip)) skip = 0;

  v1::GetManifestResponse response;
  response.set_version(version.name());
  absl::Status status;
  GRAFT_RETURN_IF_ERROR(plane_.catalog.VisitEntries(
      version, request.path_prefix(), from.second, [&](absl::string_view path, const Entry& entry) {
        const int64_t first = path == from.second ? skip : 0;
        const absl::StatusOr<FilePage> file = plane_.catalog.GetFile(entry.sha256);
        status = file.status();
        if (!status.ok()) return false;
        // A file without chunks counts as one, so that a page of empty files ends too.
        if (left <= 0) {
          response.set_next_page_token(PageToken(list, absl::StrCat(first, " ", path)));
          return false;
        }
        v1::FileManifest& manifest = *response.add_files();
        *manifest.mutable_file() = ToMessage(path, entry);
        manifest.set_profile(ToMessage(file->profile));
        manifest.set_first_chunk(first);
        manifest.set_chunk_count(file->chunk_count);
        const auto count = static_cast<int64_t>(file->chunks.size());
        const int64_t end = std::min(count, first + left);
        for (int64_t i = first; i < end; ++i) {
          const ChunkRef& chunk = file->chunks[static_cast<size_t>(i)];
          manifest.add_chunk_sizes(chunk.size);
          manifest.mutable_chunk_ids()->append(BytesOf(chunk.id).data(), sizeof(ChunkId));
        }
        left -= std::max<int64_t>(1, end - first);
        if (end == count) return true;
        response.set_next_page_token(PageToken(list, absl::StrCat(end, " ", path)));
        return false;
      }));
  GRAFT_RETURN_IF_ERROR(status);
  return response;
}

grpc::ServerReadReactor<v1::StageFilesRequest>* DataService::StageFiles(
    std::shared_ptr<rpc::Call> call, v1::StageFilesResponse* response) {
  return StartStage(plane_, std::move(call), response);
}

RawBidiReactor* DataService::Upload(std::shared_ptr<rpc::Call> call) {
  return StartUpload(plane_, std::move(call));
}

RawReadReactor* DataService::UploadFile(std::shared_ptr<rpc::Call> call,
                                        v1::UploadFileResponse* response) {
  return StartUploadFile(plane_, std::move(call), response);
}

absl::StatusOr<v1::QueryUploadResponse> DataService::QueryUpload(
    const rpc::Call& call, const v1::QueryUploadRequest& request) {
  GRAFT_ASSIGN_OR_RETURN(const SessionRecord session,
                         UsableSession(plane_.catalog, call, request.session()));
  GRAFT_ASSIGN_OR_RETURN(const FileIntake::Extent extent,
                         FileIntake::Query(plane_, session, request.path()));
  v1::QueryUploadResponse response;
  response.set_durable_size(extent.durable_bytes);
  response.set_complete(extent.complete);
  return response;
}

absl::StatusOr<v1::SignUrlResponse> DataService::SignUrl(const rpc::Call& call,
                                                         const v1::SignUrlRequest& request) {
  if (urls_ == nullptr) {
    return rpc::FeatureUnavailable("http", "this server has no HTTP door: set http_address");
  }
  GRAFT_ASSIGN_OR_RETURN(const ResolvedVersion version,
                         ReadableVersion(plane_.catalog, call, request.version()));
  GRAFT_RETURN_IF_ERROR(plane_.catalog.GetEntry(version, request.path()).status());
  absl::Duration ttl = absl::Hours(1);
  if (request.has_ttl()) {
    ttl = absl::Seconds(request.ttl().seconds()) + absl::Nanoseconds(request.ttl().nanos());
  }
  if (ttl <= absl::ZeroDuration() || ttl > kMaxUrlTtl) {
    return rpc::ErrorBuilder(absl::StatusCode::kInvalidArgument, "the URL cannot be signed")
        .Reason("FIELD_INVALID")
        .Field("ttl", "must be above 0 and at most 24 h")
        .Build();
  }
  const absl::Time expires = plane_.clock.WallNow() + ttl;
  v1::SignUrlResponse response;
  response.set_url(urls_->Sign(version.name(), request.path(), expires));
  response.mutable_expire_time()->set_seconds(absl::ToUnixSeconds(expires));
  return response;
}

RawWriteReactor* DataService::DownloadChunks(std::shared_ptr<rpc::Call> call,
                                             const v1::DownloadChunksRequest& request) {
  return StartDownloadChunks(plane_, std::move(call), request);
}

RawWriteReactor* DataService::Download(std::shared_ptr<rpc::Call> call,
                                       const v1::DownloadRequest& request) {
  return StartDownload(plane_, std::move(call), request);
}

}  // namespace graft::fileservice
