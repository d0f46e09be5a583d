// URLs of the HTTP door that need no token: path and end are signed with a key of this server's, so
// that nothing is kept for them. Thread-safe.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace graft::fileservice {

inline constexpr absl::Duration kMaxUrlTtl = absl::Hours(24);

// "/v1/workspaces/{w}/filesets/{f}/versions/{v}/files/{path}", percent-encoded.
std::string FileUrlPath(absl::string_view version, absl::string_view path);

class UrlSigner {
 public:
  // `key`: 32 secret bytes. `base`: "http://host:port".
  UrlSigner(std::string key, std::string base) : key_(std::move(key)), base_(std::move(base)) {}
  // Reads the key from `path`, or draws and keeps one: URLs outlive a restart.
  static absl::StatusOr<std::string> LoadKey(const std::string& path);

  std::string Sign(absl::string_view version, absl::string_view path, absl::Time expires) const;
  // Whether `signature` is that of this version's file until `expires`, which has not come.
  bool Verify(absl::string_view version, absl::string_view path, int64_t expires,
              absl::string_view signature, absl::Time now) const;

 private:
  std::string SignatureOf(absl::string_view version, absl::string_view path, int64_t expires) const;

  const std::string key_;
  const std::string base_;
};

}  // namespace graft::fileservice
