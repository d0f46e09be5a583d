// Files over HTTP/1.1, for clients that speak nothing else: GET and HEAD of a file of a version,
// with Range, and PUT of a file into an upload session.
//
//   GET|HEAD /v1/{version}/files/{path}           bytes; ETag is the content's SHA-256
//   PUT      /v1/{session}/files/{path}?offset=N  takes the body at N (default 0), see below
//
// {version} is workspaces/{w}/filesets/{f}/versions/{v}, {session} .../uploads/{id}. A token comes
// as `Authorization: Bearer`; a GET may carry a signature instead (DataService.SignUrl). PUT:
// Content-Length is needed; `total` in the query is the size of the whole file where the body is
// not its end; `X-Content-Sha256` (hex) is checked at the end. The answer is JSON {durable_size,
// complete, sha256}. 409 with {expected_offset} where the body belongs elsewhere.
//
// Stored bytes are read and checked against their CRC before they are sent, then sent with sendfile
// from the pages that were checked, unless they lie compressed or have to be encrypted. Files
// registered in place are sent with it, too. Thread-safe; everything handed in must outlive it.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "fileservice/service/data_plane.h"
#include "fileservice/service/file_reader.h"
#include "fileservice/service/signed_url.h"
#include "fileservice/transfer/http_listener.h"
#include "rpc/auth.h"
#include "rpc/call.h"

namespace graft::fileservice {

class HttpFiles {
 public:
  HttpFiles(DataPlane& plane, rpc::Authenticator& authenticator, const UrlSigner& urls)
      : plane_(plane), authenticator_(authenticator), urls_(urls) {}
  // Answers the request. Not OK: the connection cannot be used any more.
  absl::Status Answer(const HttpRequest& request, HttpConnection& connection);

 private:
  absl::Status SendFile(const HttpRequest& request, absl::string_view version,
                        const std::string& path, HttpConnection& connection);
  absl::Status SendRange(FileReader& reader, const ByteRange& range, HttpConnection& connection);
  absl::Status TakeFile(const HttpRequest& request, absl::string_view session,
                        const std::string& path, HttpConnection& connection);
  absl::StatusOr<ResolvedVersion> Authorize(const HttpRequest& request, absl::string_view version,
                                            const std::string& path);
  absl::Status Identify(const HttpRequest& request, rpc::Call& call) const;

  DataPlane& plane_;
  rpc::Authenticator& authenticator_;
  const UrlSigner& urls_;
};

}  // namespace graft::fileservice
