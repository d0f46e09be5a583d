// Inside of transfer/: one GET over a connection of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace graft::fileservice {

// The body, which must have `size` bytes. UNAVAILABLE when the server is not there, busy, or silent
// for `timeout`; NOT_FOUND, PERMISSION_DENIED as answered; DATA_LOSS for a body of another length.
// `arrived` is called with what has come, and may wait.
absl::StatusOr<std::string> HttpGet(const std::string& address, const std::string& path,
                                    const std::string& bearer, int64_t size, absl::Duration timeout,
                                    const std::function<void(int64_t)>& arrived);

}  // namespace graft::fileservice
