#include "fileservice/service/http_files.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "base/json.h"
#include "base/status_macros.h"
#include "fileservice/catalog/names.h"
#include "fileservice/service/access.h"
#include "fileservice/service/file_intake.h"
#include "fileservice/service/file_reader.h"
#include "fileservice/service/payload.h"
#include "fileservice/service/upload_file_stream.h"
#include "rpc/status.h"

namespace graft::fileservice {
namespace {

// What a connection holds of the budget while it moves bytes.
constexpr size_t kBufferBytes = 1 << 20;
// Of a file in place between two looks at whether it was changed.
constexpr int64_t kSendfileBytes = 8 << 20;

struct Code {
  absl::StatusCode status;
  int http;
  absl::string_view reason;
};
constexpr Code kCodes[] = {
    {absl::StatusCode::kInvalidArgument, 400, "Bad Request"},
    {absl::StatusCode::kUnauthenticated, 401, "Unauthorized"},
    {absl::StatusCode::kPermissionDenied, 403, "Forbidden"},
    {absl::StatusCode::kNotFound, 404, "Not Found"},
    {absl::StatusCode::kFailedPrecondition, 409, "Conflict"},
    {absl::StatusCode::kAborted, 409, "Conflict"},
    {absl::StatusCode::kOutOfRange, 409, "Conflict"},
    {absl::StatusCode::kUnavailable, 503, "Service Unavailable"},
    {absl::StatusCode::kResourceExhausted, 507, "Insufficient Storage"},
};

std::string Head(int code, absl::string_view reason, int64_t length, absl::string_view more) {
  return absl::StrCat("HTTP/1.1 ", code, " ", reason, "\r\nContent-Length: ", length,
                      "\r\nX-Content-Type-Options: nosniff\r\n", more, "\r\n");
}

absl::Status Reply(HttpConnection& connection, int code, absl::string_view reason,
                   const std::string& body, absl::string_view more = "") {
  return connection.Write(
      absl::StrCat(Head(code, reason, static_cast<int64_t>(body.size()),
                        absl::StrCat("Content-Type: application/json\r\n", more)),
                   body));
}

absl::Status ReplyError(HttpConnection& connection, const absl::Status& status, bool head_only) {
  int code = 500;
  absl::string_view reason = "Internal Server Error";
  for (const Code& known : kCodes) {
    if (known.status == status.code()) {
      code = known.http;
      reason = known.reason;
    }
  }
  const rpc::ErrorDetails details = rpc::ReadErrorDetails(status);
  Json body = Json::MakeObject();
  body.Set("error", absl::StatusCodeToString(status.code())).Set("message", status.message());
  if (!details.reason.empty()) body.Set("reason", details.reason);
  for (const auto& [key, value] : details.metadata) body.Set(key, value);
  const absl::string_view more = code == 401 ? "WWW-Authenticate: Bearer\r\n" : "";
  if (!head_only) return Reply(connection, code, reason, body.Dump() + "\n", more);
  return connection.Write(Head(code, reason, 0, more));
}

// A share of the budget, waited for.
class Share {
 public:
  explicit Share(ByteBudget& budget) {
    auto granted = std::make_shared<Notification>();  // shared with the budget's queue
    if (!budget.Acquire(kBufferBytes, [granted] { granted->Notify(); })) granted->Wait();
    payload_ = std::make_unique<Payload>(budget, kBufferBytes);
  }
  char* data() const { return payload_->data; }

 private:
  std::unique_ptr<Payload> payload_;
};

// "{resource}/files/{path}" behind "/v1/". The resource has six parts.
struct Target {
  std::string resource;
  std::string path;
  bool session = false;
};
absl::StatusOr<Target> ParseTarget(const HttpRequest& request) {
  const absl::Status unknown = absl::NotFoundError(
      "there is /v1/workspaces/W/filesets/F/versions/V/files/PATH and .../uploads/S/files/PATH");
  absl::string_view rest = request.path;
  if (!absl::ConsumePrefix(&rest, "/v1/")) return unknown;
  const std::vector<absl::string_view> parts = absl::StrSplit(rest, absl::MaxSplits('/', 7));
  if (parts.size() != 8 || parts[0] != "workspaces" || parts[2] != "filesets" ||
      parts[6] != "files") {
    return unknown;
  }
  Target target;
  target.session = parts[4] == "uploads";
  if (!target.session && parts[4] != "versions") return unknown;
  target.resource =
      absl::StrCat("workspaces/", parts[1], "/filesets/", parts[3], "/", parts[4], "/", parts[5]);
  target.path = std::string(parts[7]);
  return target;
}

bool EtagMatches(absl::string_view header, absl::string_view etag) {
  for (absl::string_view one : absl::StrSplit(header, ',')) {
    one = absl::StripAsciiWhitespace(one);
    if (one == "*" || one == etag) return true;
  }
  return false;
}

}  // namespace

absl::Status HttpFiles::Answer(const HttpRequest& request, HttpConnection& connection) {
  const absl::StatusOr<Target> target = ParseTarget(request);
  const bool head = request.method == "HEAD";
  if (!target.ok()) return ReplyError(connection, target.status(), head);
  const bool read = head || request.method == "GET";
  const absl::string_view allowed = target->session ? "PUT" : "GET, HEAD";
  if (target->session ? request.method != "PUT" : !read) {
    return Reply(connection, 405, "Method Not Allowed", "{}\n",
                 absl::StrCat("Allow: ", allowed, "\r\n"));
  }
  return target->session ? TakeFile(request, target->resource, target->path, connection)
                         : SendFile(request, target->resource, target->path, connection);
}

absl::Status HttpFiles::Identify(const HttpRequest& request, rpc::Call& call) const {
  rpc::Credentials credentials;
  credentials.bearer = request.Header("authorization");
  if (!credentials.bearer.empty() && !absl::ConsumePrefix(&credentials.bearer, "Bearer ")) {
    return absl::UnauthenticatedError("Authorization must be `Bearer TOKEN`");
  }
  GRAFT_ASSIGN_OR_RETURN(call.identity, authenticator_.Authenticate(credentials));
  return absl::OkStatus();
}

absl::StatusOr<ResolvedVersion> HttpFiles::Authorize(const HttpRequest& request,
                                                     absl::string_view version,
                                                     const std::string& path) {
  rpc::Call call;
  call.rule = {rpc::Scope::kWorkspace, rpc::Role::kViewer, /*capability=*/true};
  const auto signature = request.query.find("signature");
  if (signature == request.query.end()) {
    GRAFT_RETURN_IF_ERROR(Identify(request, call));
    return ReadableVersion(plane_.catalog, call, version);
  }
  int64_t expires = 0;
  const auto until = request.query.find("expires");
  if (until == request.query.end() || !absl::SimpleAtoi(until->second, &expires) ||
      !urls_.Verify(version, path, expires, signature->second, plane_.clock.WallNow())) {
    return absl::PermissionDeniedError("the signature is not this file's, or it has expired");
  }
  GRAFT_ASSIGN_OR_RETURN(const ChildName child, ParseChildName(version, "versions"));
  return plane_.catalog.Resolve(child.fileset, child.id);
}

absl::Status HttpFiles::SendFile(const HttpRequest& request, absl::string_view version_name,
                                 const std::string& path, HttpConnection& connection) {
  const bool head_only = request.method == "HEAD";
  const absl::StatusOr<ResolvedVersion> version = Authorize(request, version_name, path);
  if (!version.ok()) return ReplyError(connection, version.status(), head_only);
  const auto reader = FileReader::Open(plane_.catalog, plane_.store, *version, path, &plane_.cache);
  if (!reader.ok()) return ReplyError(connection, reader.status(), head_only);
  const int64_t size = (*reader)->entry().size;
  const std::string etag = absl::StrCat("\"", ToHex((*reader)->entry().sha256), "\"");
  const std::string validators =
      absl::StrCat("ETag: ", etag, "\r\nAccept-Ranges: bytes\r\nCache-Control: private\r\n",
                   "X-Graft-Version: ", version->name(), "\r\n");
  const absl::string_view if_match = request.Header("if-match");
  if (!if_match.empty() && !EtagMatches(if_match, etag)) {
    return connection.Write(Head(412, "Precondition Failed", 0, validators));
  }
  const absl::string_view if_none = request.Header("if-none-match");
  if (!if_none.empty() && EtagMatches(if_none, etag)) {
    return connection.Write(absl::StrCat("HTTP/1.1 304 Not Modified\r\n", validators, "\r\n"));
  }
  ByteRange range{0, size};
  bool partial = false;
  const absl::string_view if_range = request.Header("if-range");
  if (if_range.empty() || if_range == etag) {
    const auto asked = ParseRange(request.Header("range"), size);
    if (!asked.ok()) {
      return connection.Write(
          Head(416, "Range Not Satisfiable", 0,
               absl::StrCat("Content-Range: bytes */", size, "\r\n", validators)));
    }
    partial = asked->has_value();
    if (partial) range = **asked;
  }
  const std::string type = absl::StrCat("Content-Type: application/octet-stream\r\n", validators);
  GRAFT_RETURN_IF_ERROR(connection.Write(
      partial ? Head(206, "Partial Content", range.length,
                     absl::StrCat("Content-Range: bytes ", range.offset, "-",
                                  range.offset + range.length - 1, "/", size, "\r\n", type))
              : Head(200, "OK", size, type)));
  if (head_only || range.length == 0) return absl::OkStatus();
  return SendRange(**reader, range, connection);
}

// What has begun cannot become an error any more: the connection breaks instead.
absl::Status HttpFiles::SendRange(FileReader& reader, const ByteRange& range,
                                  HttpConnection& connection) {
  int64_t at = range.offset;
  const int64_t end = range.offset + range.length;
  while (at < end && reader.in_place_fd() >= 0) {
    GRAFT_RETURN_IF_ERROR(reader.CheckInPlace());
    const int64_t step = std::min(kSendfileBytes, end - at);
    GRAFT_ASSIGN_OR_RETURN(const bool sent, connection.WriteFile(reader.in_place_fd(), at, step));
    if (!sent) break;
    at += step;
  }
  if (at == end) return absl::OkStatus();
  const Share share(plane_.budget);
  bool plain = true;  // until the connection says that it cannot send from a file
  std::vector<FileReader::Extent> extents;
  while (at < end) {
    const auto wanted = static_cast<size_t>(std::min<int64_t>(kBufferBytes, end - at));
    GRAFT_ASSIGN_OR_RETURN(const size_t got,
                           reader.ReadSome(at, wanted, share.data(), plain ? &extents : nullptr));
    size_t sent = 0;  // from the pack, whose pages were just checked
    for (const FileReader::Extent& extent : extents) {
      GRAFT_ASSIGN_OR_RETURN(plain, connection.WriteFile(extent.pack->fd(), extent.offset,
                                                         static_cast<int64_t>(extent.size)));
      if (!plain) break;
      sent += extent.size;
    }
    if (!plain) extents.clear();
    GRAFT_RETURN_IF_ERROR(connection.Write(absl::string_view(share.data() + sent, got - sent)));
    at += static_cast<int64_t>(got);
  }
  return absl::OkStatus();
}

absl::Status HttpFiles::TakeFile(const HttpRequest& request, absl::string_view session_name,
                                 const std::string& path, HttpConnection& connection) {
  int64_t offset = 0;
  std::optional<Sha256Digest> expected;
  std::unique_ptr<FileIntake> intake;
  const auto begin = [&]() -> absl::Status {
    rpc::Call call;
    call.rule = {rpc::Scope::kWorkspace, rpc::Role::kUser, /*capability=*/true};
    GRAFT_RETURN_IF_ERROR(Identify(request, call));
    GRAFT_ASSIGN_OR_RETURN(const SessionRecord session,
                           UsableSession(plane_.catalog, call, session_name));
    if (request.Header("content-length").empty()) {
      return absl::InvalidArgumentError("Content-Length is missing");
    }
    const auto number = [&](const char* name, int64_t otherwise) -> absl::StatusOr<int64_t> {
      const auto found = request.query.find(name);
      if (found == request.query.end()) return otherwise;
      int64_t value = 0;
      if (absl::SimpleAtoi(found->second, &value) && value >= 0) return value;
      return absl::InvalidArgumentError(absl::StrCat(name, " must be a number of bytes"));
    };
    GRAFT_ASSIGN_OR_RETURN(offset, number("offset", 0));
    if (offset > INT64_MAX - request.content_length) {
      return absl::InvalidArgumentError("offset is too large");
    }
    GRAFT_ASSIGN_OR_RETURN(const int64_t total, number("total", offset + request.content_length));
    const absl::string_view hash = request.Header("x-content-sha256");
    if (!hash.empty()) {
      GRAFT_ASSIGN_OR_RETURN(expected, DigestFromHex(hash));
    }
    GRAFT_ASSIGN_OR_RETURN(intake, FileIntake::Open(plane_, session, path, total));
    if (offset == intake->offset()) return absl::OkStatus();
    return OffsetMismatch(path, offset, intake->offset());
  };
  const absl::Status began = begin();
  // The body was not read, so nothing else can be understood on this connection.
  if (!began.ok()) {
    GRAFT_RETURN_IF_ERROR(ReplyError(connection, began, /*head_only=*/false));
    return began;
  }
  if (absl::EqualsIgnoreCase(request.Header("expect"), "100-continue")) {
    GRAFT_RETURN_IF_ERROR(connection.Write("HTTP/1.1 100 Continue\r\n\r\n"));
  }
  const Share share(plane_.budget);
  absl::Status status;
  for (int64_t left = request.content_length; left > 0 && status.ok();) {
    const auto wanted = static_cast<size_t>(std::min<int64_t>(kBufferBytes, left));
    const absl::StatusOr<size_t> got = connection.ReadBody(share.data(), wanted);
    if (!got.ok()) {
      // What came is kept, so that the client goes on there.
      intake->Pause().status().IgnoreError();
      return got.status();
    }
    status = intake->Take(absl::string_view(share.data(), *got));
    left -= static_cast<int64_t>(*got);
  }
  Json body = Json::MakeObject();
  if (status.ok() && intake->full()) {
    const absl::StatusOr<Entry> entry = intake->Finish(expected, /*executable=*/false);
    status = entry.status();
    if (entry.ok()) {
      body.Set("durable_size", entry->size)
          .Set("complete", true)
          .Set("sha256", ToHex(entry->sha256));
    }
  } else if (status.ok()) {
    const absl::StatusOr<int64_t> durable = intake->Pause();
    status = durable.status();
    if (durable.ok()) body.Set("durable_size", *durable).Set("complete", false);
  }
  if (status.ok()) return Reply(connection, 200, "OK", body.Dump() + "\n");
  GRAFT_RETURN_IF_ERROR(ReplyError(connection, status, /*head_only=*/false));
  return status;
}

}  // namespace graft::fileservice
