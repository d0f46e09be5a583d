// The head of an HTTP/1.1 request, read strictly: what is doubtful is refused, because a proxy in
// front may have read it otherwise.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace graft::fileservice {

// A head is not longer; more is answered 431.
inline constexpr size_t kMaxHttpHeadBytes = 16 << 10;

struct HttpRequest {
  std::string method;
  std::string path;                            // decoded once, with its slashes
  std::map<std::string, std::string> query;    // decoded
  std::map<std::string, std::string> headers;  // names in lower case
  bool keep_alive = true;
  int64_t content_length = 0;

  // Empty when it is not there.
  absl::string_view Header(absl::string_view lower_case_name) const;
};

// `head` ends with the empty line. INVALID_ARGUMENT says what is wrong: no HTTP/1.x, a bad escape
// or NUL in the path, a header twice, a folded header, Transfer-Encoding, a length that is none.
absl::StatusOr<HttpRequest> ParseHttpRequest(absl::string_view head);

struct ByteRange {
  int64_t offset = 0;
  int64_t length = 0;
};
// The one range of a "Range" header for a resource of `size` bytes. Nothing: there is none that can
// be understood, or several, and the whole is sent. OUT_OF_RANGE: it cannot be satisfied.
absl::StatusOr<std::optional<ByteRange>> ParseRange(absl::string_view header, int64_t size);

}  // namespace graft::fileservice
