// Hostile heads of HTTP requests and Range headers: refused, or understood within their bounds.
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#include "fileservice/transfer/http_request.h"

using graft::fileservice::ParseHttpRequest;
using graft::fileservice::ParseRange;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view input(reinterpret_cast<const char*>(data), size);
  const auto request = ParseHttpRequest(input);
  if (request.ok()) {
    if (request->path.empty() || request->path[0] != '/') std::abort();
    if (request->path.find('\0') != std::string::npos || request->content_length < 0) std::abort();
  }
  for (const int64_t bytes : {int64_t{0}, int64_t{1}, int64_t{1000}, INT64_MAX}) {
    const auto range = ParseRange(input, bytes);
    if (!range.ok() || !range->has_value()) continue;
    if ((*range)->offset < 0 || (*range)->length < 1 ||
        (*range)->length > bytes - (*range)->offset) {
      std::abort();
    }
  }
  return 0;
}
