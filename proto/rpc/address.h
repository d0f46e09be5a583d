// Addresses as daemons and clients are given them: "host:port", "[v6]:port" or "unix:path".
#pragma once

#include "absl/strings/match.h"
#include "absl/strings/string_view.h"

namespace graft::rpc {

// Plaintext is served and dialled on these alone.
inline bool IsLoopback(absl::string_view address) {
  if (absl::StartsWith(address, "unix:")) return true;
  const absl::string_view host = address.substr(0, address.rfind(':'));
  return host == "localhost" || host == "[::1]" || absl::StartsWith(host, "127.");
}

}  // namespace graft::rpc
